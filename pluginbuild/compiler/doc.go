// Package compiler compiles Go plugins in the official compiler image of a gateway
// release, through the Docker Engine API.
//
//	docker, err := compiler.Connect(compiler.ConnectOptions{})
//	b := compiler.New(docker, compiler.Options{})
//	plugin, err := b.Build(ctx, compiler.Request{Release: release, Dir: dir})
//
// For unit tests of code that compiles, declare its one method as an interface and fake it:
//
//	type builder interface {
//		Build(context.Context, compiler.Request) (compiler.Artifact, error)
//	}
//
// # Limits
//
// A [Builder] trusts the engine: its administrator can read all inputs of a build, including
// netrc. Tested with Docker 20.10 and Podman 4.3. Linux only.
package compiler
