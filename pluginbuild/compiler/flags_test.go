package compiler_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"

	"github.com/Masterminds/semver/v3"

	"example.com/tykupgrade/pluginbuild"
	"example.com/tykupgrade/pluginbuild/compiler"
)

// A command of a team takes the flags that it needs. It would go on with Open and Build.
func ExampleFlags() {
	var f compiler.Flags
	fs := flag.NewFlagSet("ourbuild", flag.ContinueOnError)
	fs.SetOutput(os.Stdout)
	f.Plugin(fs)
	f.Compile(fs)
	err := fs.Parse([]string{"-name", "auth.so", "-memory", "4g", "-env", "GOPROXY=off", "-exclude",
		"*.md", "-exclude", "testdata"})
	fmt.Println(err, f.Request.Name, f.Request.GOARCH, f.Options.Limits.Memory>>30,
		f.Options.Env["GOPROXY"], f.Request.Exclude)

	f.Request.Image.Digest = "latest"
	b, closeEngine, err := f.Open()
	check(err)
	defer func() { _ = closeEngine() }()
	release, err := pluginbuild.Lookup(semver.MustParse("5.2.5"))
	check(err)
	_, err = f.Build(context.Background(), b, release, ".", "", false)
	fmt.Println(errors.Is(err, compiler.ErrRequest))
	// Output:
	// <nil> auth.so amd64 4 off [*.md testdata]
	// true
}
