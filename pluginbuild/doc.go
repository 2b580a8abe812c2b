// Package pluginbuild brings a Go plugin to another release of the Tyk gateway. It
// knows what each release needs of a plugin module, checks the module and prepares
// it. Package compiler below it compiles the module in the release's official image.
//
//	release, err := pluginbuild.Lookup(semver.MustParse("5.2.5"))
//	plan, err := pluginbuild.NewPlan(os.DirFS(dir), release, pluginbuild.PlanOptions{})
//	if !plan.Blocked() {
//		done, err := pluginbuild.Prepare(ctx, dir, release, pluginbuild.PrepareOptions{})
//	}
//
// The target release alone decides the recipe. The running release matters only for
// the content of a bundle.
//
// # Limits
//
// The release table covers the general releases 3.0.0 to 5.14.0. Other releases come
// from [ReadTable], or from [ResolveCommit] and [Derive]. No source records the patch
// level of a compiler's Go, so the checks know its minor version and the release's
// go.mod. [CheckModule] reads source as it is written, without types: it reports a
// hook as uncertain if its parameters are aliases from another package. [Prepare]
// needs a go command of version 1.21 or newer, and a file system with locks. Linux
// only.
package pluginbuild
