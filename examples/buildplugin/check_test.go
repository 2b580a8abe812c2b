package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"example.com/tykupgrade/bundle"
	"example.com/tykupgrade/examples/internal/cli"
	"example.com/tykupgrade/internal/lab"
	"example.com/tykupgrade/pluginbuild/preflight"
)

// checkLab compiles a host and plugins for it, and returns their directory.
func checkLab(t *testing.T) string {
	t.Helper()
	lab.Program(t, "gcc", "gcc")
	goCmd := lab.Program(t, "go", "golang-go")
	dir := t.TempDir()
	files := map[string]string{
		"go.mod": "module example.com/gw\n\ngo 1.21\n",
		"host/main.go": "package main\n\nimport _ \"plugin\"\nimport _ " +
			"\"example.com/gw/shared\"\n\nfunc main() {}\n",
		"shared/s.go": "package shared\n\nfunc F() int { return 1 }\n",
		"hooks/main.go": "package main\n\nimport \"example.com/gw/shared\"\n\nfunc AddFooBarHeader() " +
			"int { return shared.F() }\n\nfunc main() {}\n",
		"manifest.json": `{"file_list":["plugin.so"],"custom_middleware":{"pre":[{"name":"AddFooBarHeader","path":"plugin.so"}],"driver":"goplugin"}}`,
		"gone.json":     `{"file_list":["plugin.so"],"custom_middleware":{"post":[{"name":"Gone","path":"plugin.so"}],"driver":"goplugin"}}`,
		"otto.json":     `{"file_list":["a.js"],"custom_middleware":{"pre":[{"name":"A","path":"a.js"}],"driver":"otto"}}`,
		"DEBIAN/control": "Package: tyk-gateway\nVersion: 5.2.5\nArchitecture: amd64\nMaintainer: a " +
			"<a@example.org>\nDescription: gateway\n",
	}
	for name, text := range files {
		file := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for mode, args := range map[string][]string{
		"exe -trimpath": {"-o", "tyk", "-trimpath", "-ldflags=-w", "./host"},
		"plugin -trimpath": {"-o", "plugin_v5.2.5_linux_amd64.so", "-buildmode=plugin", "-trimpath",
			"./hooks"},
		"plugin": {"-o", "plugin.so", "-buildmode=plugin", "-ldflags=-w", "./hooks"},
	} {
		cmd := exec.Command(goCmd, append([]string{"build"}, args...)...)
		cmd.Dir = dir
		cmd.Env = lab.GoEnv("CGO_ENABLED=1", "GOGC=400")
		if err := lab.Fill(t.Context(), mode, func() error {
			out, err := cmd.CombinedOutput()
			if err != nil {
				return fmt.Errorf("%w\n%s", err, out)
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestCheck(t *testing.T) {
	t.Parallel()
	dir := checkLab(t)
	at := func(name string) string { return filepath.Join(dir, name) }
	good, bad, gateway := at("plugin_v5.2.5_linux_amd64.so"), at("plugin.so"), at("tyk")
	for name, c := range map[string]struct {
		args []string
		code int
		want []string // on stdout, or on stderr if the code is 2 or there is no report
	}{
		"loads": {[]string{good, "-gateway", gateway}, 0, []string{"loads",
			"AddFooBarHeader (none)", "agree"}},
		"will not load": {[]string{bad, "-gateway", gateway}, 1, []string{"fails",
			"-trimpath: gateway true, plugin none", "compile the plugin with -trimpath"}},
		"unknown": {[]string{good, "-gateway", good}, 3, []string{"unknown",
			"not a gateway binary"}},
		"two releases": {[]string{good, bad, "-gateway", gateway}, 3,
			[]string{"a gateway opens one of these files, and not all load"}},
		"distribution": {[]string{good, "-gateway", gateway, "-distro", "ubuntu/16.04"}, 1,
			[]string{"ubuntu/16.04 has glibc 2.23"}},
		"signature": {[]string{good, "-gateway", gateway, "-manifest", at("manifest.json")}, 1,
			[]string{"AddFooBarHeader: its signature is func() int"}},
		"lacks": {[]string{good, "-gateway", gateway, "-manifest", at("gone.json")}, 1,
			[]string{"Gone: the plugin has no such function; it exports AddFooBarHeader"}},
		"other driver": {[]string{good, "-gateway", gateway, "-manifest", at("otto.json")}, 1,
			[]string{`driver is "otto"`}},
		"no gateway":      {[]string{good}, 2, []string{"-gateway is missing"}},
		"gateway is gone": {[]string{good, "-gateway", at("nothing")}, 2, []string{"no such file"}},
		"no ELF":          {[]string{at("go.mod"), "-gateway", gateway}, 1, []string{"not an ELF file"}},
		"bad distro": {[]string{good, "-gateway", gateway, "-distro", "beos"}, 2,
			[]string{"want one of debian/11"}},
		"bad level": {[]string{good, "-gateway", gateway, "-goamd64", "v9"}, 2,
			[]string{"want v1, v2, v3 or v4"}},
		"bad version": {[]string{good, "-gateway", gateway, "-release", "latest"}, 2,
			[]string{"-release"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			code, stdout, stderr := call(t, append([]string{"check"}, c.args...)...)
			if code != c.code {
				t.Errorf("exit code %d, not %d", code, c.code)
			}
			for _, w := range c.want {
				if !strings.Contains(stdout+stderr, w) {
					t.Errorf("no %q in\n%s%s", w, stdout, stderr)
				}
			}
		})
	}

	t.Run("json", func(t *testing.T) {
		t.Parallel()
		code, stdout, _ := call(t, "check", "-json", bad, "-gateway", gateway)
		var r preflight.Report
		if err := json.Unmarshal([]byte(stdout), &r); err != nil || code != 1 ||
			r.Verdict != preflight.Fails || len(r.Plugins) != 1 ||
			r.Plugins[0].Plugin.PluginPath != "example.com/gw/hooks" || len(r.Plugins[0].Findings) != 1 {
			t.Errorf("code %d, %v\n%s", code, err, stdout)
		}
	})

	// The bundle of an upgrade: 5.2.5 takes the suffixed file, and the plain one,
	// which would not load, does not matter.
	t.Run("bundle", func(t *testing.T) {
		t.Parallel()
		src := fstest.MapFS{}
		for _, f := range []string{"plugin.so", "plugin_v5.2.5_linux_amd64.so"} {
			data, err := os.ReadFile(at(f))
			if err != nil {
				t.Fatal(err)
			}
			src[f] = &fstest.MapFile{Data: data}
		}
		m := &bundle.Manifest{FileList: []string{"plugin.so", "plugin_v5.2.5_linux_amd64.so"},
			Middleware: bundle.Middleware{
				Driver: "goplugin", Pre: []bundle.Hook{{Name: "AddFooBarHeader", Path: "plugin.so"}}}}
		var z bytes.Buffer
		if _, err := bundle.Write(&z, src, m, bundle.Options{}); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(at("bundle.zip"), z.Bytes(), 0o600); err != nil {
			t.Fatal(err)
		}
		code, stdout, stderr := call(t, "check", "-release", "5.2.5", at("bundle.zip"), "-gateway",
			gateway)
		if code != 1 || strings.Contains(stdout, "plugin.so ") || strings.Contains(stdout, "-trimpath") ||
			!strings.Contains(stdout, "its signature is") {
			t.Errorf("code %d\n%s%s", code, stdout, stderr)
		}
		code, stdout, stderr = call(t, "check", at("bundle.zip"), "-gateway", gateway)
		if code != 1 || !strings.Contains(stdout, "-trimpath") {
			t.Errorf("code %d\n%s%s", code, stdout, stderr)
		}
	})

	t.Run("packaged gateway", func(t *testing.T) {
		t.Parallel()
		dpkg := lab.Program(t, "dpkg-deb", "dpkg")
		tree := t.TempDir()
		script := fmt.Sprintf(`set -e; mkdir -p %[1]s/opt/tyk-gateway; cp %[2]s/tyk %[1]s/opt/tyk-gateway/; cp -r %[2]s/DEBIAN %[1]s/
%[3]s --root-owner-group -Zgzip -b %[1]s %[1]s.deb; %[3]s --fsys-tarfile %[1]s.deb >%[1]s.tar`, tree, dir, dpkg)
		if out, err := exec.Command("sh", "-c", script).CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		for _, args := range [][]string{{tree + ".deb"}, {tree + ".tar"}, {tree + ".tar", "-gateway-file",
			"/opt/tyk-gateway/tyk"}} {
			if code, stdout, stderr := call(t, append([]string{"check", good, "-gateway"},
				args...)...); code != 0 {
				t.Errorf("%v: code %d\n%s%s", args, code, stdout, stderr)
			}
		}
		if code, _, stderr := call(t, "check", good, "-gateway", tree+".deb", "-gateway-file",
			"/opt/x"); code != cli.Usage || !strings.Contains(stderr, "no such file in the archive") {
			t.Errorf("code %d\n%s", code, stderr)
		}
	})
}

// A gateway that comes through a pipe which never ends is given up with ctx.
func TestCheckCancelled(t *testing.T) {
	t.Parallel()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = errors.Join(r.Close(), w.Close()) }()
	ctx, cancel := context.WithCancelCause(t.Context())
	stopped := errors.New("operator pressed stop")
	var out, errs bytes.Buffer
	done := make(chan int)
	go func() {
		done <- run(ctx, []string{"check", "plugin.so", "-gateway", fmt.Sprintf("/dev/fd/%d", r.Fd())},
			&out, &errs)
	}()
	if _, err := w.WriteString("!<arch>\ndata.tar"); err != nil {
		t.Fatal(err)
	}
	cancel(stopped)
	if code := <-done; code != 130 || !strings.Contains(errs.String(), stopped.Error()) {
		t.Errorf("code %d\n%s", code, errs.String())
	}
}
