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

// A command of a team takes the flags that it needs. Open and Build would follow.
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

	plan := f.PlanOptions() // for pluginbuild.NewPlan
	fmt.Println(plan.Name, plan.GOOS, plan.GOARCH)

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
	// auth.so linux amd64
	// true
}

// The table that buildplugin prints after a load test that failed.
func ExampleBuilt_Rows() {
	done := compiler.Built{Artifact: compiler.Artifact{Path: "out/plugin_v5.2.5_linux_amd64.so",
		Size: 3 << 19, SHA256: "53a0…", Release: "5.2.5", GOOS: "linux", GOARCH: "amd64",
		GoVersion: "go1.19.13", Image: "tykio/tyk-plugin-compiler:v5.2.5", ImageID: "sha256:1f…"},
		LoadTest:      &compiler.Verdict{Reason: "could not cast function symbol"},
		RemovedImages: []string{"tykio/tyk-plugin-compiler:v5.2.5"}}
	for _, row := range done.Rows() {
		fmt.Printf("%-9s  %s\n", row[0], row[1])
	}
	fmt.Println(done.Refused())

	done.LoadTest, done.ImageDigest = &compiler.Verdict{Loads: true}, "sha256:9b…"
	rows := done.Rows()
	fmt.Println(rows[5][1], rows[6][1], done.Refused())

	done.LoadTest = nil
	fmt.Println(len(done.Rows()), done.Refused())
	// Output:
	// compiled   out/plugin_v5.2.5_linux_amd64.so
	// size       1.5 MiB
	// sha256     53a0…
	// for        gateway 5.2.5, linux/amd64
	// with       go1.19.13
	// image      tykio/tyk-plugin-compiler:v5.2.5 sha256:1f…
	// load test  the gateway does not load it: could not cast function symbol
	// removed    tykio/tyk-plugin-compiler:v5.2.5
	// true
	// tykio/tyk-plugin-compiler:v5.2.5 sha256:9b… the gateway loads it false
	// 7 false
}
