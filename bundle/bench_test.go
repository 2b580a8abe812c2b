package bundle_test

import (
	"archive/zip"
	"bytes"
	"crypto/md5"
	"encoding/hex"
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"example.com/tykupgrade/bundle"
)

const benchSize = 64 << 20

// BenchmarkBuild writes a bundle of two files of 64 MB to disk, and next to each
// one, in turn, the way tyk bundle build 5.14 does it: whole files in memory,
// read twice, archive/zip and crypto/md5. The content is pieces of large Go
// binaries, stripped (the go tool chain, the harder case) and with the compressed
// DWARF that a plugin has (this test binary).
func BenchmarkBuild(b *testing.B) {
	for _, kind := range []string{"stripped", "plugin"} {
		b.Run(kind, func(b *testing.B) {
			dir := b.TempDir()
			names := []string{"plugin.so", "plugin_v5.2.5_linux_amd64.so"}
			content := goBinary(b, kind)
			for i, name := range names {
				fillFile(b, filepath.Join(dir, name), content[i*len(content)/3:], benchSize)
			}
			m := goManifest(names...)
			out, peerOut := filepath.Join(dir, "bundle.zip"), filepath.Join(dir, "peer.zip")
			var peer time.Duration
			b.SetBytes(2 * benchSize)
			b.ReportAllocs()
			for b.Loop() {
				if _, err := bundle.WriteFile(b.Context(), out, os.DirFS(dir), m,
					bundle.Options{}); err != nil {
					b.Fatal(err)
				}
				b.StopTimer()
				start := time.Now()
				if err := tykBuild(peerOut, dir, m); err != nil {
					b.Fatal(err)
				}
				peer += time.Since(start)
				b.StartTimer()
			}
			b.ReportMetric(float64(peer)/float64(b.N), "peer-ns/op")
			b.ReportMetric(float64(peer)/float64(b.Elapsed()), "x-peer")
			b.ReportMetric(100*float64(size(b, out))/float64(size(b, peerOut)), "%-of-peer-size")
		})
	}
}

func size(tb testing.TB, path string) int64 {
	info, err := os.Stat(path)
	if err != nil {
		tb.Fatal(err)
	}
	return info.Size()
}

// tykBuild does what tyk bundle build does, written again.
func tykBuild(out, dir string, m *bundle.Manifest) error {
	var content, archive bytes.Buffer
	for _, name := range m.FileList {
		data, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			return err
		}
		content.Write(data)
	}
	sum := md5.Sum(content.Bytes())
	m.Checksum = hex.EncodeToString(sum[:])
	z := zip.NewWriter(&archive)
	for _, name := range m.FileList {
		w, err := z.Create(name)
		if err != nil {
			return err
		}
		data, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			return err
		}
		if _, err := io.Copy(w, bytes.NewReader(data)); err != nil {
			return err
		}
	}
	w, err := z.Create("manifest.json")
	if err != nil {
		return err
	}
	if err := json.NewEncoder(w).Encode(m); err != nil {
		return err
	}
	if err := z.Close(); err != nil {
		return err
	}
	return os.WriteFile(out, archive.Bytes(), 0o755)
}

// BenchmarkVerify reads the same bundle back.
func BenchmarkVerify(b *testing.B) {
	dir := b.TempDir()
	fillFile(b, filepath.Join(dir, "plugin.so"), goBinary(b, "plugin"), benchSize)
	var zipped bytes.Buffer
	if _, err := bundle.Write(&zipped, os.DirFS(dir), goManifest("plugin.so"),
		bundle.Options{}); err != nil {
		b.Fatal(err)
	}
	b.SetBytes(benchSize)
	for b.Loop() {
		if _, err := bundle.Verify(bytes.NewReader(zipped.Bytes()), int64(zipped.Len()),
			bundle.VerifyOptions{}); err != nil {
			b.Fatal(err)
		}
	}
}

// goBinary returns the bytes of a Go binary.
func goBinary(tb testing.TB, kind string) []byte {
	tb.Helper()
	path, err := os.Executable()
	if kind == "stripped" {
		var out []byte
		out, err = exec.Command("go", "env", "GOTOOLDIR").Output()
		path = filepath.Join(strings.TrimSpace(string(out)), "compile")
	}
	if err != nil {
		tb.Fatal(err)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		tb.Fatal(err)
	}
	return data
}

// fillFile writes size bytes: a minimal shared object, then content over and
// over. The period is far longer than Deflate can look back.
func fillFile(tb testing.TB, path string, content []byte, size int) {
	tb.Helper()
	data := make([]byte, 0, size)
	data = append(data, sharedObject("")...)
	for len(data) < size {
		data = append(data, content[:min(len(content), size-len(data))]...)
	}
	if err := os.WriteFile(path, data, 0o600); err != nil {
		tb.Fatal(err)
	}
}
