package pluginbuild_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing/fstest"

	"github.com/Masterminds/semver/v3"

	"example.com/tykupgrade/pluginbuild"
)

// moduleDir is a plugin module in a directory of its own.
func moduleDir() (dir string, remove func()) {
	dir, err := os.MkdirTemp("", "plugin")
	if err != nil {
		panic(err)
	}
	err = errors.Join(
		os.WriteFile(filepath.Join(dir, "go.mod"), []byte("module example.org/plugin\n\ngo 1.26.0\n"),
			0o600),
		os.WriteFile(filepath.Join(dir, "main.go"), []byte(hookSource), 0o600))
	if err != nil {
		panic(err)
	}
	return dir, func() { _ = os.RemoveAll(dir) }
}

// What bringing a plugin to a release means, and then doing it. The README
// shows it without NoGet, which is here so that no network is needed.
func Example() {
	ctx := context.Background()
	dir, remove := moduleDir()
	defer remove()

	release, err := pluginbuild.Lookup(semver.MustParse("5.2.5"))
	check(err)
	plan, err := pluginbuild.NewPlan(os.DirFS(dir), release, pluginbuild.PlanOptions{NoGet: true})
	check(err)
	fmt.Print(plan.Shell())
	for _, f := range plan.Findings {
		fmt.Println(f.Severity, f.Where, f.Message)
	}
	if plan.Blocked() {
		return
	}
	done, err := pluginbuild.Prepare(ctx, dir, release, pluginbuild.PrepareOptions{NoGet: true})
	check(err)
	fmt.Println("changed", done.Changed)
	// Output:
	// # gateway 5.2.5, path 3
	// export GOWORK=off
	// # a go directive that the release's compiler accepts; no other toolchain than the compiler's
	// go mod edit -go=1.19 -toolchain=none -droprequire=github.com/TykTechnologies/tyk
	// error go.mod:3 go 1.26.0 is newer than the compiler's known go1.19
	// info main.go:5 Hook has the signature of a request hook
	// changed [go.mod]
}

func check(err error) {
	if err != nil {
		panic(err)
	}
}

func ExampleLookup() {
	r, err := pluginbuild.Lookup(semver.MustParse("5.2.5"))
	fmt.Println(r.PseudoVersion(), r.Compiler.Go, err)

	_, err = pluginbuild.Lookup(semver.MustParse("5.99.0"))
	var unknown *pluginbuild.UnknownReleaseError
	fmt.Println(errors.As(err, &unknown), unknown.Nearest.Version)
	// Output:
	// v1.9.2-0.20231218094207-cbda400a37ee 1.19 <nil>
	// true 5.14.0
}

func ExampleReleases() {
	for _, r := range pluginbuild.Releases() {
		if r.Broken {
			fmt.Println(r.Version, r.Commit[:12])
		}
	}
	// Output:
	// 3.2.0 6640de2a5912
	// 3.2.1 74a6e02b3642
	// 5.0.2 b8e925724910
}

func ExampleReadTable() {
	more, err := pluginbuild.ReadTable(strings.NewReader(
		`[{"version": "6.0.0", "commit": "0123456789012345678901234567890123456789", "go": "1.26.0", "compiler": {"go": "1.26", "mode": "workspace", "suffix": true}}]`))
	if err != nil {
		fmt.Println(err)
		return
	}
	table := append(pluginbuild.Releases(), more...)
	r, err := table.Lookup(semver.MustParse("6.0.0"))
	fmt.Println(r.Path(), r.Output("plugin.so", "linux", "amd64"), err)
	// Output: path 3 plugin_v6.0.0_linux_amd64.so <nil>
}

func ExampleResolveCommit() {
	// nil instead of git runs the real one.
	git := func(_ context.Context, argv []string, _ io.Reader, stdout, _ io.Writer) error {
		fmt.Println(argv)
		_, err := io.WriteString(stdout, "0123456789012345678901234567890123456789\trefs/tags/v5.99.0\n")
		return err
	}
	v := semver.MustParse("5.99.0")
	commit, err := pluginbuild.ResolveCommit(context.Background(), git, "https://git.example.org/tyk",
		v)
	if err != nil {
		fmt.Println(err)
		return
	}
	r, err := pluginbuild.Derive(v, commit)
	fmt.Println(r.Notes, err)
	// Output:
	// [git ls-remote -- https://git.example.org/tyk refs/tags/v5.99.0 refs/tags/v5.99.0^{}]
	// [not in the release table: Go version and replaces are those of 5.14.0 and may be wrong; compare them with the release's own go.mod] <nil>
}

func ExampleDerive() {
	r, err := pluginbuild.Derive(semver.MustParse("5.15.0-rc1"),
		"0123456789012345678901234567890123456789")
	if err != nil {
		fmt.Println(err)
		return
	}
	r, err = r.WithGoMod(strings.NewReader("module github.com/TykTechnologies/tyk\n\ngo 1.26.0\n"))
	fmt.Println(r.Go, r.Replaces, r.Output("plugin.so", "linux", "amd64"), err)
	// Output: 1.26.0 [] plugin_v5.15.0_linux_amd64.so <nil>
}

func ExampleExplain() {
	row := pluginbuild.Explain(semver.MustParse("4.0.8"), semver.MustParse("5.2.5"))
	fmt.Println("row", row.Table, "of the procedure's table;", row.Path)
	fmt.Println(row.Why)
	// Output:
	// row 2 of the procedure's table; path 3
	// upgrade 4.0.8 → 5.2.5 takes path 3, because from 5.1.0 on the compiler builds gateway and plugin in one Go workspace, without a vendor directory. Row 2 of the procedure's table fits this pair, but is wrong for this target: the current release does not change how a plugin is built.
}

func ExampleParseVersion() {
	for _, s := range []string{"v5.2.5", "5.3.0~rc1", "5.2"} {
		v, err := pluginbuild.ParseVersion(s)
		fmt.Println(v, err)
	}
	fmt.Println(pluginbuild.PathTo(semver.MustParse("4.2.0")))
	// Output:
	// 5.2.5 <nil>
	// 5.3.0-rc1 <nil>
	// <nil> gateway version "5.2": invalid semantic version; write it like 5.2.5
	// path 2
}

func ExampleRelease_Commands() {
	r, err := pluginbuild.Lookup(semver.MustParse("5.0.3"))
	if err != nil {
		fmt.Println(err)
		return
	}
	commands, err := r.Commands(pluginbuild.CommandOptions{})
	for _, c := range commands {
		fmt.Println(c.Shell())
	}
	fmt.Println(err)
	// Output:
	// go mod edit -go=1.16 -toolchain=none -droprequire=github.com/TykTechnologies/tyk -replace=gorm.io/gorm=github.com/TykTechnologies/gorm@v1.20.7-0.20210409171139-b5c340f85ed0
	// go get github.com/TykTechnologies/tyk@54e1072a6a9918e29606edf6b60def437b273d0a toolchain@none
	// go mod tidy
	// go mod vendor
	// <nil>
}

func ExampleRelease_Image() {
	r, err := pluginbuild.Lookup(semver.MustParse("4.0.8"))
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(r.Image(pluginbuild.Standard, true))
	fmt.Println(r.Image(pluginbuild.Enterprise, false))
	// Output:
	// tykio/tyk-plugin-compiler:v4.0.8-el7 <nil>
	//  compiler image of 4.0.8: unknown edition "ee" (want one of [std])
}

func ExampleCheckModule() {
	src := fstest.MapFS{
		"go.mod": {Data: []byte("module example.org/plugin\n\ngo 1.26.0\n\nrequire " +
			"github.com/google/uuid v1.6.0\n")},
		"main.go": {Data: []byte("package main\n\nimport \"net/http\"\n\nfunc Hook(w " +
			"http.ResponseWriter, r *http.Request) {}\n")},
	}
	r, err := pluginbuild.Lookup(semver.MustParse("5.2.5"))
	if err != nil {
		fmt.Println(err)
		return
	}
	gateway := strings.NewReader("module github.com/TykTechnologies/tyk\n\ngo 1.19\n\nrequire " +
		"github.com/google/uuid v1.3.0\n")
	findings, err := pluginbuild.CheckModule(src, r, pluginbuild.CheckOptions{GatewayMod: gateway})
	for _, f := range findings {
		fmt.Println(f.Severity, f.Where, f.Code, "| prepare fixes it:", f.Prepare, "| stops the plugin:",
			f.Blocks())
	}
	fmt.Println(err)
	// Output:
	// error go.mod:3 go-directive | prepare fixes it: true | stops the plugin: false
	// error go.mod:5 newer-dependency | prepare fixes it: false | stops the plugin: true
	// info main.go:5 hook | prepare fixes it: false | stops the plugin: false
	// <nil>
}

func ExampleCheckBundle() {
	one := fstest.MapFS{"go.mod": {Data: []byte("module example.org/plugin\n")}}
	r, err := pluginbuild.Lookup(semver.MustParse("5.2.5"))
	if err != nil {
		fmt.Println(err)
		return
	}
	findings, err := pluginbuild.CheckBundle(map[string]fs.FS{"auth.so": one, "log.so": one}, r)
	fmt.Println(findings[0].Severity, findings[0].Where, err)
	// Output: error auth.so, log.so <nil>
}

func ExamplePrepare() {
	dir, remove := moduleDir()
	defer remove()
	r, err := pluginbuild.Lookup(semver.MustParse("5.14.0"))
	if err != nil {
		fmt.Println(err)
		return
	}
	_, err = pluginbuild.Prepare(context.Background(), dir, r, pluginbuild.PrepareOptions{
		NoGet: true, // needs no network
		OnEvent: func(e pluginbuild.Event) {
			fmt.Println(e.Stage, e.Kind)
		},
	})
	fmt.Println(err)
	mod, _ := os.ReadFile(filepath.Join(dir, "go.mod"))
	fmt.Print(string(mod))
	// Output:
	// go mod edit started
	// go mod edit done
	// <nil>
	// module example.org/plugin
	//
	// go 1.25.0
}

func ExampleRecover() {
	dir, remove := moduleDir()
	defer remove()
	recovered, err := pluginbuild.Recover(dir)
	fmt.Println(recovered.Found, err) // nothing was interrupted
	// Output: false <nil>
}
