package pluginbuild_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/Masterminds/semver/v3"

	"example.com/tykupgrade/pluginbuild"
)

// planDirs lays a plugin of a module path for each name, and returns their directory.
func planDirs(t *testing.T, modules map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, mod := range modules {
		at := filepath.Join(dir, name)
		if err := errors.Join(os.Mkdir(at, 0o700),
			os.WriteFile(filepath.Join(at, "go.mod"), []byte(mod), 0o600),
			os.WriteFile(filepath.Join(at, "main.go"), []byte(hookSource), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestPlanDir(t *testing.T) {
	t.Parallel()
	const one = "module example.org/one\n\ngo 1.19\n\nrequire example.org/dep v1.1.0\n"
	dir := planDirs(t, map[string]string{"a": one, "b": one, "c": "module example.org/c\n\ngo 1.19\n"})
	at := func(name string) string { return filepath.Join(dir, name) }
	if err := os.WriteFile(at("gateway.mod"), []byte("module github.com/TykTechnologies/tyk\n\ngo "+
		"1.19\n\nrequire example.org/dep v1.0.0\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	r := lookup(t, "5.2.5")
	codes := func(o pluginbuild.DirOptions) string {
		t.Helper()
		p, err := pluginbuild.PlanDir(at("a"), r, o)
		if err != nil {
			t.Fatal(err)
		}
		return summary(p.Findings)
	}
	want, err := pluginbuild.NewPlan(os.DirFS(at("a")), r, pluginbuild.PlanOptions{Name: "x.so"})
	if err != nil {
		t.Fatal(err)
	}
	o := pluginbuild.DirOptions{PlanOptions: pluginbuild.PlanOptions{Name: "x.so"}}
	got, err := pluginbuild.PlanDir(at("a"), r, o)
	if err != nil || fmt.Sprint(got) != fmt.Sprint(want) || got.Output != "x_v5.2.5_linux_amd64.so" {
		t.Errorf("%v, %+v, want %+v", err, got, want)
	}
	alone := summary(want.Findings)
	if s := codes(pluginbuild.DirOptions{With: []string{at("c")}}); s != alone {
		t.Errorf("with another module: %s, alone %s", s, alone)
	}
	if s := codes(pluginbuild.DirOptions{With: []string{at("c"), at("b")}}); s !=
		strings.TrimPrefix(alone+", error same-module", ", ") {
		t.Errorf("with the same module: %s, alone %s", s, alone)
	}
	if s := codes(pluginbuild.DirOptions{GoMod: at("gateway.mod")}); s == alone ||
		!strings.Contains(s, "error") {
		t.Errorf("with the gateway's go.mod: %s, alone %s", s, alone)
	}

	for name, c := range map[string]struct {
		dir string
		o   pluginbuild.DirOptions
	}{
		"no directory":           {at("none"), pluginbuild.DirOptions{}},
		"no other directory":     {at("a"), pluginbuild.DirOptions{With: []string{at("none")}}},
		"no gateway's go.mod":    {at("a"), pluginbuild.DirOptions{GoMod: at("none")}},
		"another without go.mod": {at("a"), pluginbuild.DirOptions{With: []string{dir}}},
	} {
		p, err := pluginbuild.PlanDir(c.dir, r, c.o)
		if err == nil || p.Version != nil {
			t.Errorf("%s: %v, %+v", name, err, p)
		} else if name != "another without go.mod" && !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A go.mod outside of the directory is not read through a link.
func TestPlanDirStaysInside(t *testing.T) {
	t.Parallel()
	dir := planDirs(t, map[string]string{"out": "module example.org/secret\n\ngo 1.26.0\n", "in": ""})
	mod := filepath.Join(dir, "in", "go.mod")
	if err := errors.Join(os.Remove(mod), os.Symlink("../out/go.mod", mod)); err != nil {
		t.Fatal(err)
	}
	p, err := pluginbuild.PlanDir(filepath.Join(dir, "in"), lookup(t, "5.2.5"), pluginbuild.DirOptions{})
	if err == nil && !p.Blocked() {
		t.Errorf("the link was followed: %s", summary(p.Findings))
	}
	if strings.Contains(fmt.Sprint(p, err), "1.26") {
		t.Errorf("it read the other go.mod: %v %+v", err, p.Findings)
	}
}

func ExamplePlan_Rows() {
	dir, remove := moduleDir()
	defer remove()
	release, err := pluginbuild.Lookup(semver.MustParse("5.2.5"))
	check(err)
	plan, err := pluginbuild.PlanDir(dir, release, pluginbuild.DirOptions{})
	check(err)
	for _, row := range plan.Rows() {
		if row[0] != "why" {
			fmt.Println(strings.Join(row, ": "))
		}
	}
	// Output:
	// gateway 5.2.5: path 3
	// commit: cbda400a37ee4b057793ba485f412e8087aea12a
	// in go.mod: v1.9.2-0.20231218094207-cbda400a37ee
	// image: tykio/tyk-plugin-compiler:v5.2.5
	// compiler's Go: 1.19
	// output: plugin_v5.2.5_linux_amd64.so
}

// A release without date and Go has rows all the same.
func TestRowsOfAnUnknown(t *testing.T) {
	t.Parallel()
	known := lookup(t, "5.2.5")
	r := pluginbuild.Release{Version: known.Version, Commit: known.Commit,
		Compiler: pluginbuild.Compiler{Mode: pluginbuild.Workspace}}
	p, err := pluginbuild.PlanDir(planDirs(t, map[string]string{"a": "module a.b/c\n"})+"/a", r,
		pluginbuild.DirOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"in go.mod", "compiler's Go"} {
		if !slices.ContainsFunc(p.Rows(), func(row []string) bool {
			return row[0] == name && row[1] == "unknown"
		}) {
			t.Errorf("no unknown %q in %q", name, p.Rows())
		}
	}
}

func TestWordsOfPrepare(t *testing.T) {
	t.Parallel()
	for got, want := range map[string]string{
		pluginbuild.Recovery{}.String():            "",
		pluginbuild.Recovery{Found: true}.String(): "an interrupted run was undone",
		pluginbuild.Recovery{Found: true, Moved: []string{"go.mod", "vendor"}, Aside: "x"}.String(): "an " +
			"interrupted run was undone; changed files (go.mod, vendor) are now in x",
		pluginbuild.Prepared{}.String():                                      "nothing had to change",
		pluginbuild.Prepared{Changed: []string{"go.mod", "go.sum"}}.String(): "changed go.mod, go.sum",
	} {
		if got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
