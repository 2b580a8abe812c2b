package preflight_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"example.com/tykupgrade/internal/lab"
	"example.com/tykupgrade/pluginbuild/preflight"
)

func TestInspectAll(t *testing.T) {
	t.Parallel()
	paths := forgedFiles(t, 9, 1000)
	all, err := preflight.InspectAll(t.Context(), paths...)
	if err != nil || len(all) != len(paths) {
		t.Fatal(len(all), err)
	}
	for i, b := range all {
		if b.Name != paths[i] || b.PluginPath != fmt.Sprintf("example.com/hooks%d", i) {
			t.Errorf("%d: %s %s", i, b.Name, b.PluginPath)
		}
	}
	gone := paths[4] + "x"
	var e *preflight.Error
	if _, err := preflight.InspectAll(t.Context(), paths[0], gone, gone+"x"); !errors.As(err, &e) ||
		!errors.Is(err, fs.ErrNotExist) || e.Object != gone {
		t.Errorf("%v", err)
	}
	why := errors.New("stopped")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(why)
	if all, err := preflight.InspectAll(ctx, paths...); !errors.Is(err, why) || all != nil {
		t.Errorf("%v, %v", all, err)
	}
	if all, err := preflight.InspectAll(t.Context()); err != nil || len(all) != 0 {
		t.Errorf("%v, %v", all, err)
	}
}

// forgedFiles writes plugins of different paths, with so many symbols each.
func forgedFiles(t testing.TB, n, symbols int) []string {
	t.Helper()
	dir := t.TempDir()
	var paths []string
	for i := range n {
		f := forgedPlugin()
		own := fmt.Sprintf("example.com/hooks%d", i)
		f.packages[own] = f.packages["example.com/hooks"]
		delete(f.packages, "example.com/hooks")
		f.modInfo = "path\t" + own + "\nmod\t" + own + "\t(devel)\t\nbuild\t-buildmode=plugin\n"
		f.funcs = []string{own + ".main", own + ".Hook"}
		f.fill = symbols
		paths = append(paths, filepath.Join(dir, fmt.Sprintf("%d.so", i)))
		if err := os.WriteFile(paths[i], f.bytes(), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return paths
}

func ExampleInspectAll() {
	_, err := preflight.InspectAll(context.Background(), "/builds/a.so", "/builds/b.so")
	fmt.Println(err)
	// Output: inspect /builds/a.so: no such file or directory
}

// BenchmarkInspectAll is the preflight of a bundle of many plugins.
func BenchmarkInspectAll(b *testing.B) {
	for _, n := range []int{10, 20, 40} {
		b.Run(fmt.Sprintf("n=%d", n), func(b *testing.B) {
			paths := forgedFiles(b, n, 20_000)
			for _, p := range paths { // as large as plugins of real gateways are
				if err := os.Truncate(p, 33_000_000); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportAllocs()
			before := lab.CPU(b)
			for b.Loop() {
				if _, err := preflight.InspectAll(b.Context(), paths...); err != nil {
					b.Fatal(err)
				}
			}
			lab.ReportCPU(b, lab.CPU(b)-before)
		})
	}
}
