package preflight_test

import (
	"debug/buildinfo"
	"debug/elf"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"example.com/tykupgrade/pluginbuild/preflight"
)

// readers are the two ways to get at package hashes: ours, and what debug/elf
// offers, which loads every symbol.
var readers = map[string]func(path string) (packages int, err error){
	"preflight": func(path string) (int, error) {
		b, err := preflight.Inspect(path)
		if err != nil {
			return 0, err
		}
		return len(b.Packages), nil
	},
	"debug-elf": func(path string) (int, error) {
		if _, err := buildinfo.ReadFile(path); err != nil {
			return 0, err
		}
		f, err := elf.Open(path)
		if err != nil {
			return 0, err
		}
		defer func() { _ = f.Close() }()
		symbols, err := f.DynamicSymbols()
		if err != nil {
			return 0, err
		}
		n, hash := 0, make([]byte, 8)
		for _, s := range symbols {
			if !strings.HasPrefix(s.Name, "go:link.pkghashbytes.") {
				continue
			}
			section := f.Sections[s.Section]
			if _, err := section.ReadAt(hash, int64(s.Value-section.Addr)); err != nil {
				return 0, err
			}
			n++
		}
		return n, nil
	},
}

const childEnv = "PREFLIGHT_BENCH_CHILD"

// child runs one reader in a process of its own and prints that process's peak
// of resident memory in KiB, as getrusage would carry over the parent's.
func child(job string) int {
	name, path, _ := strings.Cut(job, " ")
	if _, err := readers[name](path); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	_, peak, _ := strings.Cut(string(status), "VmHWM:")
	fmt.Println(strings.Fields(peak)[0])
	return 0
}

// peak returns the peak in MiB, and the processor seconds, which a loaded machine
// stretches less than the time on the clock.
func peak(b *testing.B, reader, path string) (mib, seconds float64) {
	b.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childEnv+"="+reader+" "+path)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		b.Fatal(err)
	}
	kib, err := strconv.ParseFloat(strings.TrimSpace(string(out)), 64)
	if err != nil {
		b.Fatal(err)
	}
	return kib / 1024, (cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()).Seconds()
}

// A gateway as large as that of Tyk 5.14: 545 MB, 857,032 dynamic symbols,
// 3,816 packages.
func BenchmarkInspectGateway(b *testing.B) {
	f := forgedGateway()
	for i := len(f.packages); i < 3816; i++ {
		f.packages[fmt.Sprintf("github.com/some/module%d/package/of/it", i)] = fmt.Sprintf("%08d", i)
	}
	f.fill = 857_032 - 2*3816
	path := filepath.Join(b.TempDir(), "tyk")
	if err := os.WriteFile(path, f.bytes(), 0o600); err != nil {
		b.Fatal(err)
	}
	// The rest is code and debug information, which only the checksum reads.
	if err := os.Truncate(path, 545_000_000); err != nil {
		b.Fatal(err)
	}
	benchmark(b, path, 3816)
}

// A host that Go built from several hundred packages.
func BenchmarkInspectGenerated(b *testing.B) {
	const packages = 300
	w, err := bench()
	if err != nil {
		b.Fatal(err)
	}
	imports := &strings.Builder{}
	for i := range packages {
		dir := filepath.Join(w.dir, "gw", "generated", fmt.Sprintf("p%d", i))
		if err := os.MkdirAll(dir, 0o700); err != nil {
			b.Fatal(err)
		}
		code := &strings.Builder{}
		fmt.Fprintf(code, "package p%d\n\nvar sink int\n", i)
		for j := range 50 {
			fmt.Fprintf(code, "\ntype T%d struct{ n int }\n\nfunc (t *T%d) M() int { sink++; return t.n "+
				"}\n\n//go:noinline\nfunc F%d(n int) int { return (&T%d{n}).M() }\n", j, j, j, j)
		}
		code.WriteString("\nfunc init() {\n")
		for j := range 50 {
			fmt.Fprintf(code, "\tsink += F%d(%d)\n", j, j)
		}
		code.WriteString("}\n")
		if err := os.WriteFile(filepath.Join(dir, "p.go"), []byte(code.String()), 0o600); err != nil {
			b.Fatal(err)
		}
		fmt.Fprintf(imports, "import _ \"example.com/gw/generated/p%d\"\n", i)
	}
	main := "package main\n\nimport _ \"plugin\"\nimport _ \"net/http\"\n" + imports.String() +
		"\nfunc main() {}\n"
	if err := errors.Join(os.MkdirAll(filepath.Join(w.dir, "gw", "generated", "host"), 0o700),
		os.WriteFile(filepath.Join(w.dir, "gw", "generated", "host", "main.go"), []byte(main),
			0o600)); err != nil {
		b.Fatal(err)
	}
	path := build(b, artifact{pkg: "gw/generated/host"})
	n, err := readers["debug-elf"](path)
	if err != nil || n < packages {
		b.Fatal(n, err)
	}
	benchmark(b, path, n)
}

func benchmark(b *testing.B, path string, packages int) {
	info, err := os.Stat(path)
	if err != nil {
		b.Fatal(err)
	}
	for _, reader := range []string{"preflight", "debug-elf"} {
		b.Run(reader, func(b *testing.B) {
			b.ReportAllocs()
			b.SetBytes(info.Size())
			for b.Loop() {
				if n, err := readers[reader](path); err != nil || n != packages {
					b.Fatal(n, err)
				}
			}
			b.StopTimer()
			mib, seconds := peak(b, reader, path)
			b.ReportMetric(mib, "peak-MiB")
			b.ReportMetric(seconds, "cpu-s")
			if reader == "preflight" && mib > 64 {
				b.Errorf("peak of %.0f MiB", mib)
			}
		})
	}
}

func BenchmarkCompare(b *testing.B) {
	plugin, gateway := inspect(b, build(b, plugins["plain"])), inspect(b, build(b, hosts["base"]))
	b.ReportAllocs()
	for b.Loop() {
		preflight.Compare(plugin, gateway)
	}
}
