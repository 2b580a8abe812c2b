package compiler_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/docker/docker/api/types/container"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"example.com/tykupgrade/pluginbuild"
	"example.com/tykupgrade/pluginbuild/compiler"
)

func soFile(t *testing.T, data []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "plugin.so")
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// What is a verdict of the gateway, and what is a test that failed.
func TestLoadTestVerdicts(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		code    int
		oom     bool
		stuck   bool // the container cannot be removed
		verdict bool
		stage   string
	}{
		"loads":                {verdict: true},
		"does not load":        {code: 1, verdict: true},
		"crashes":              {code: 2, verdict: true},
		"not executable":       {code: 126, stage: compiler.StageLoad},
		"no gateway":           {code: 127, stage: compiler.StageLoad},
		"killed":               {code: 137, stage: compiler.StageLoad},
		"out of memory":        {code: 1, oom: true, stage: compiler.StageLoad},
		"loads, stays":         {stuck: true, verdict: true, stage: compiler.StageRemove},
		"does not load, stays": {code: 1, stuck: true, verdict: true, stage: compiler.StageRemove},
	} {
		f := newFake(t, c.code, "level=info\nunexpected error: symbol X not found\n", nil)
		f.containerState = func() (*container.State, error) {
			return &container.State{ExitCode: c.code, OOMKilled: c.oom}, nil
		}
		if c.stuck {
			f.containerRemove = func(context.Context, string) error { return errors.New("the engine hangs") }
		}
		f.containerCreate = func(_ context.Context, got *container.Config, h *container.HostConfig,
			_ *ocispec.Platform, _ string) (string, error) {
			// The plugin's own code runs: it gets no network, whatever compiling gets.
			if h.NetworkMode != "none" || strings.Join(got.Entrypoint, " ") != "/usr/local/bin/tyk" ||
				strings.Join(got.Cmd, " ") != "plugin load -f /plugin-source/plugin.so -s X" {
				t.Errorf("%+v %v %v", h.NetworkMode, got.Entrypoint, got.Cmd)
			}
			return "c0ffee", nil
		}
		b := compiler.NewOn(f, compiler.Options{Limits: compiler.Limits{Network: "host"}})
		v, err := b.LoadTest(t.Context(), release(t, "5.2.5"), pluginbuild.Image{},
			soFile(t, sharedObject(62)), "X")
		var e *compiler.Error
		if stage := string(""); errors.As(err, &e) && e.Op != c.stage || err == nil && c.stage != stage {
			t.Errorf("%s: %v", name, err)
		}
		if want := c.code == 0; c.verdict && (v.Loads != want || c.code != 0 &&
			v.Reason != "symbol X not found") || !c.verdict && v.Loads {
			t.Errorf("%s: %+v", name, v)
		}
	}
}

// What cannot be tested is refused before the engine gets a single call.
func TestLoadTestRefuses(t *testing.T) {
	t.Parallel()
	so := soFile(t, sharedObject(62))
	for name, c := range map[string]struct {
		plugin, symbol, want string
		o                    compiler.Options
		unsupported          bool
	}{
		"no symbol":         {so, "", "not an exported Go name", compiler.Options{}, false},
		"private symbol":    {so, "hook", "not an exported Go name", compiler.Options{}, false},
		"a flag":            {so, "-h", "not an exported Go name", compiler.Options{}, false},
		"no file":           {so + "x", "X", "no such file", compiler.Options{}, false},
		"no plugin":         {soFile(t, []byte("x")), "X", "not an ELF file", compiler.Options{}, true},
		"another processor": {soFile(t, sharedObject(183)), "X", "AARCH64", compiler.Options{}, true},
		"options": {so, "X", "negative", compiler.Options{Limits: compiler.Limits{PIDs: -2}},
			false},
	} {
		_, err := compiler.NewOn(&fake{t: t}, c.o).LoadTest(t.Context(), release(t, "5.2.5"),
			pluginbuild.Image{}, c.plugin, c.symbol)
		if !errors.Is(err, compiler.ErrRequest) ||
			errors.Is(err, compiler.ErrUnsupported) != c.unsupported || !strings.Contains(fmt.Sprint(err),
			c.want) {
			t.Errorf("%s: %v", name, err)
		}
		readable(t, err)
	}
}
