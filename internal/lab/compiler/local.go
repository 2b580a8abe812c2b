package compiler

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/Masterminds/semver/v3"

	"example.com/tykupgrade/internal/lab"
)

// Gateway returns the gateway that an image with Config.Gateway holds, for
// machines without an engine and for checks outside of a container.
func Gateway() ([]byte, error) { return gateway() }

// BuildGateway is [Gateway] for a process that needs it once, and may be interrupted meanwhile.
// Plugins are compiled with the same env.
func BuildGateway(ctx context.Context, env ...string) ([]byte, error) {
	return buildGateway(ctx, env...)
}

// Local compiles a plugin with the go command of this machine, in the way in
// which the image of that release would: below 5.1.0 in a GOPATH, from then on
// in a workspace with the gateway's module. source is the plugin's module, work
// an empty directory, env what the go command gets in addition, out the file to
// write.
func Local(ctx context.Context, release *semver.Version, source, work, out string,
	env []string) error {
	return local(ctx, release, source, work, env, "build", "-o", out)
}

// FillGoCache compiles what [Local] would, but for the link: this machine's build cache then has
// Go's library as plugins of that release need it.
func FillGoCache(ctx context.Context, release *semver.Version, source, work string,
	env []string) error {
	return local(ctx, release, source, work, env, "list", "-deps", "-export")
}

// FillGoLibrary compiles net/http and all that it imports, in the way in which plugins of that
// release need it. It can begin before there is a module. Plugins are compiled with the same env.
func FillGoLibrary(ctx context.Context, release *semver.Version, env ...string) error {
	args, mode := []string{"list", "-deps", "-export", "-buildmode=plugin"}, "plugin net/http"
	if workspaces(release) {
		args, mode = append(args, "-trimpath", "-tags=goplugin"), "plugin -trimpath net/http"
	}
	cmd := exec.CommandContext(ctx, "go", append(args, "net/http")...)
	cmd.Dir, cmd.Env = os.TempDir(), lab.GoEnv(append([]string{"CGO_ENABLED=1", frugal}, env...)...)
	return lab.Fill(ctx, mode, func() error {
		if text, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("compile Go's library: %w: %s", err, bytes.TrimSpace(text))
		}
		return nil
	})
}

// workspaces says whether the script of a release builds in a workspace, with -trimpath.
func workspaces(release *semver.Version) bool {
	return !release.LessThan(semver.MustParse("5.1.0"))
}

// local calls the go command with the arguments and the flags of that release's build.
func local(ctx context.Context, release *semver.Version, source, work string, env []string,
	args ...string) error {
	tree, mode := filepath.Join(work, "go", "src"), "plugin"
	flags := append(args, "-buildmode=plugin")
	gateway, plugin := filepath.Join(work, gatewayDir), filepath.Join(tree, "plugin_plugin")
	workspace := workspaces(release)
	if workspace {
		plugin = filepath.Join(filepath.Dir(gateway), "plugin_plugin")
		flags, mode = append(flags, "-trimpath", "-tags=goplugin"), "plugin -trimpath"
	}
	if err := writeGateway(gateway); err != nil {
		return err
	}
	if err := os.CopyFS(plugin, os.DirFS(source)); err != nil {
		return err
	}
	if imports(plugin, "net/http") {
		mode += " net/http"
	}
	env = append([]string{"CGO_ENABLED=1", "GOFLAGS=-buildvcs=false", frugal}, env...)
	if workspace {
		file := filepath.Join(filepath.Dir(gateway), "go.work")
		text := "go " + strings.TrimPrefix(goVersion(), "go") + "\n\nuse ./tyk\nuse ./plugin_plugin\n"
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			return err
		}
		env = append(env, "GOWORK="+file)
	} else {
		if err := os.Remove(filepath.Join(plugin, "go.mod")); err != nil && !os.IsNotExist(err) {
			return err
		}
		env = append(env, "GO111MODULE=off", "GOPATH="+filepath.Join(work, "go"))
	}
	cmd := exec.CommandContext(ctx, "go", flags...)
	cmd.Dir, cmd.Env = plugin, lab.GoEnv(env...)
	return lab.Fill(ctx, mode, func() error {
		if text, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("compile the plugin with this machine's Go: %w: %s", err,
				bytes.TrimSpace(text))
		}
		return nil
	})
}

// LocalFiles compiles the module of the given files as [Local] does, and returns the plugin, which
// has no debug information. It leaves Go's library, as plugins of that release need it, in this
// machine's build cache.
func LocalFiles(ctx context.Context, release *semver.Version,
	files map[string]string) ([]byte, error) {
	dir, err := os.MkdirTemp("", "tykupgrade-plugin-*")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	source, out := filepath.Join(dir, "source"), filepath.Join(dir, "plugin.so")
	if err := os.Mkdir(source, 0o700); err != nil {
		return nil, err
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(source, name), []byte(text), 0o600); err != nil {
			return nil, err
		}
	}
	if err := local(ctx, release, source, filepath.Join(dir, "work"), []string{"GOPROXY=off"},
		"build", "-o", out, NoDebug); err != nil {
		return nil, err
	}
	return os.ReadFile(out)
}

// imports says whether a file in dir itself names a package.
func imports(dir, pkg string) bool {
	files, _ := filepath.Glob(filepath.Join(dir, "*.go"))
	for _, f := range files {
		if data, err := os.ReadFile(f); err == nil && bytes.Contains(data, []byte(`"`+pkg+`"`)) {
			return true
		}
	}
	return false
}

func writeGateway(dir string) error {
	files, err := gatewayFiles()
	if err != nil {
		return err
	}
	for name, data := range files {
		to := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(to, data, 0o644); err != nil {
			return err
		}
	}
	return nil
}

func goVersion() string {
	cmd := exec.Command("go", "env", "GOVERSION")
	cmd.Env = lab.GoEnv()
	out, err := cmd.Output()
	if err != nil {
		return "1.21"
	}
	return strings.TrimSpace(string(out))
}
