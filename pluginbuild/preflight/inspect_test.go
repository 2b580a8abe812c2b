package preflight_test

import (
	"crypto/sha256"
	"debug/buildinfo"
	"debug/elf"
	"encoding/hex"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"

	"example.com/tykupgrade/pluginbuild/preflight"
)

// What Go and other tools say of the same files.
func TestInspect(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		artifact   artifact
		pluginPath string
		exports    []string
	}{
		"plugin":        {plugins["base"], "example.com/plug", []string{"Hook"}},
		"dotted path":   {plugins["dotted"], "example.com/plug/my.hooks", []string{"Hook"}},
		"stripped":      {plugins["strip"], "example.com/plug", []string{"Hook"}},
		"CPU level":     {plugins["v3"], "example.com/plug", []string{"Hook"}},
		"from a file":   {plugins["file"], "plugin/unnamed-", []string{"Hook"}},
		"host":          {hosts["base"], "", nil},
		"PIE host":      {hosts["pie"], "", nil},
		"c-shared":      {plugins["c-shared"], "", nil},
		"arm64":         {more["arm64"], "", nil},
		"path override": {kinds["pluginpath"], "1700000000-x", nil},
		"no main":       {kinds["no main"], "example.com/plug/bare", []string{"Hook"}},
		"no main, bare": {kinds["no main, stripped"], "plugin/unnamed-", []string{"Hook"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := build(t, c.artifact)
			b := inspect(t, path)
			data, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			sum := sha256.Sum256(data)
			if b.Size != int64(len(data)) || b.SHA256 != hex.EncodeToString(sum[:]) || b.Class != "ELF64" {
				t.Errorf("size %d, SHA-256 %s, class %s", b.Size, b.SHA256, b.Class)
			}
			info, err := buildinfo.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if !b.Go || b.GoVersion != info.GoVersion || b.GoVersion != runtime.Version() ||
				b.Main.Path != info.Main.Path || len(b.Modules) != len(info.Deps) {
				t.Errorf("Go %s, main %+v, modules %+v", b.GoVersion, b.Main, b.Modules)
			}
			for _, s := range info.Settings {
				if b.Settings[s.Key] != s.Value {
					t.Errorf("setting %s is %q, not %q", s.Key, b.Settings[s.Key], s.Value)
				}
				if (s.Key == "GOAMD64" && b.GOAMD64 != s.Value) || (s.Key == "GOARCH" && b.Arch != s.Value) {
					t.Errorf("GOAMD64 %q, architecture %q", b.GOAMD64, b.Arch)
				}
			}
			if b.Plugin != (info.Settings[0].Value == "plugin") || !strings.HasPrefix(b.PluginPath,
				c.pluginPath) || (c.pluginPath == "") != (b.PluginPath == "") {
				t.Errorf("plugin %v with path %q", b.Plugin, b.PluginPath)
			}
			var exports []string
			for _, f := range b.Exports {
				exports = append(exports, f.Name)
			}
			if !slices.Equal(exports, c.exports) {
				t.Errorf("exports %v", exports)
			}
		})
	}
	if b := inspect(t, build(t, plugins["c"])); b.Go || b.Plugin || !b.Shared ||
		b.Machine != "EM_X86_64" {
		t.Errorf("a library of C: %+v", b)
	}
	// For another machine nothing needs to be loaded to tell.
	f := forgedGateway()
	f.machine = elf.EM_AARCH64
	file, size := f.reader()
	arm64, err := preflight.InspectReaderAt(file, size, "tyk")
	if err != nil {
		t.Fatal(err)
	}
	r := preflight.Compare(inspect(t, build(t, plugins["base"])), arm64)
	if r.Verdict != preflight.Fails || r.Findings[0].Kind != preflight.KindCPU {
		t.Errorf("%s %v", r.Verdict, r.Findings)
	}
}
