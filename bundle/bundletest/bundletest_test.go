package bundletest_test

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/Masterminds/semver/v3"

	"example.com/tykupgrade/bundle"
	"example.com/tykupgrade/bundle/bundletest"
	"example.com/tykupgrade/pluginbuild/preflight"
)

// What an in-house tool wants to know: does its bundle hold the right build for
// both gateways, and what would a switch to a new name do?
func Example() {
	src := bundletest.Files{
		"old/auth.so":                     {Path: "corp.example/auth", Gateway: "5.2.5"},
		"new/auth_v5.14.0_linux_amd64.so": {Path: "corp.example/auth", Gateway: "5.14.0"},
	}
	plan, err := bundle.ForUpgrade(bundle.Upgrade{
		From: semver.MustParse("5.2.5"), To: semver.MustParse("5.14.0"),
		Plugins:    []bundle.Plugin{{Current: "old/auth.so", Target: "new/auth_v5.14.0_linux_amd64.so"}},
		PluginPath: func(file string) (string, error) { return src[file].Path, nil },
		Switch:     bundle.Switch{Name: "auth.zip"},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	m := bundletest.Files{"auth.so": {}}.Manifest("auth.so")
	m, err = plan.Manifest(m)
	if err != nil {
		fmt.Println(err)
		return
	}
	var zip bytes.Buffer
	if _, err := bundle.Write(&zip, plan.FS(src.FS()), m, bundle.Options{}); err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(m.FileList)
	fmt.Println("running:", plan.Switch.Running.Effect)
	// Output:
	// [auth.so auth_v5.14.0_linux_amd64.so]
	// running: plugin_runs
}

// The tools that look into real plugins see one.
func TestPlugin(t *testing.T) {
	t.Parallel()
	p := bundletest.Plugin{Path: "example.org/auth.v2", Symbols: []string{"Auth", "Tail"},
		Gateway: "5.2.5", Go: "go1.19.13", Content: "a"}
	data := p.Bytes()
	b, err := preflight.InspectReaderAt(bytes.NewReader(data), int64(len(data)), "auth.so")
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, f := range b.Exports {
		names = append(names, f.Name)
	}
	if !b.Plugin || b.PluginPath != p.Path || !slices.Equal(names, p.Symbols) || b.GoVersion != p.Go ||
		b.Settings[bundletest.GatewaySetting] != "5.2.5" || b.Arch != "amd64" {
		t.Errorf("%+v", b)
	}
	if p.Content = "b"; bytes.Equal(p.Bytes(), data) {
		t.Error("another content, the same file")
	}
	if m := (bundletest.Files{"a.so": p}).Manifest("a.so"); len(m.Validate(bundletest.Files{
		"a.so": p}.FS())) > 0 {
		t.Errorf("%v", m.Validate(nil))
	}
}

// The real dynamic linker takes it.
func TestDynamicLinkerLoadsIt(t *testing.T) {
	t.Parallel()
	if runtime.GOARCH != "amd64" {
		t.Skip("skipped: the file is for amd64")
	}
	program, err := exec.LookPath("true")
	if err != nil {
		t.Skipf("skipped: no program to load it into: %v", err)
	}
	path := filepath.Join(t.TempDir(), "plugin.so")
	good := bundletest.Plugin{}.Bytes()
	for name, data := range map[string][]byte{"good": good, "cut short": good[:100]} {
		if err := os.WriteFile(path, data, 0o755); err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command(program)
		cmd.Env = []string{"LD_PRELOAD=" + path, "LD_DEBUG=files", "LC_ALL=C"}
		out, err := cmd.CombinedOutput()
		loaded := strings.Contains(string(out), "calling init: "+path)
		if err != nil || loaded != (name == "good") {
			t.Errorf("%s: %v, loaded %v\n%s", name, err, loaded, out)
		}
	}
}
