package preflight_test

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/iotest"

	"example.com/tykupgrade/internal/lab"
	"example.com/tykupgrade/pluginbuild/preflight"
)

func tarOf(name string, data []byte) []byte {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	_ = w.WriteHeader(&tar.Header{Name: "./opt/", Typeflag: tar.TypeDir, Mode: 0o755})
	_ = w.WriteHeader(&tar.Header{Name: "./opt/link", Typeflag: tar.TypeSymlink,
		Linkname: "tyk-gateway/tyk"})
	_ = w.WriteHeader(&tar.Header{Name: name, Size: int64(len(data)), Mode: 0o755})
	_, _ = w.Write(data)
	_ = w.Close()
	return b.Bytes()
}

func gzipped(data []byte) []byte {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	_, _ = w.Write(data)
	_ = w.Close()
	return b.Bytes()
}

// debOf writes a package with one data member, after one of odd size.
func debOf(name string, data []byte) []byte {
	var b bytes.Buffer
	b.WriteString("!<arch>\n")
	for _, m := range []struct {
		name string
		data []byte
	}{{"debian-binary", []byte("2.0\n")}, {"control.tar.gz", []byte("odd")}, {name, data}} {
		_, _ = fmt.Fprintf(&b, "%-16s%-12d%-6d%-6d%-8s%-10d`\n", m.name, 0, 0, 0, "100644", len(m.data))
		b.Write(m.data)
		if len(m.data)%2 == 1 {
			b.WriteByte('\n')
		}
	}
	return b.Bytes()
}

// A package that dpkg-deb builds, gzip as Tyk's are, zstd refused with the way
// around it, which then works.
func TestInspectDeb(t *testing.T) {
	t.Parallel()
	dpkg := lab.Program(t, "dpkg-deb", "dpkg")
	dir := t.TempDir()
	tree := filepath.Join(dir, "tree")
	gateway := forgedGateway().bytes()
	for name, data := range map[string]string{
		"DEBIAN/control": "Package: tyk-gateway\nVersion: 5.2.5\nArchitecture: amd64\nMaintainer: " +
			"a <a@example.org>\nDescription: gateway\n",
		"opt/tyk-gateway/tyk": string(gateway),
	} {
		file := filepath.Join(tree, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(data), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	const member = "/opt/tyk-gateway/tyk"
	want, err := preflight.InspectReaderAt(bytes.NewReader(gateway), int64(len(gateway)), "tyk")
	if err != nil {
		t.Fatal(err)
	}
	for _, compression := range []string{"gzip", "none", "xz", "zstd"} {
		t.Run(compression, func(t *testing.T) {
			deb := filepath.Join(dir, compression+".deb")
			if out, err := exec.Command(dpkg, "--root-owner-group", "-Z"+compression, "-b", tree,
				deb).CombinedOutput(); err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			data, err := os.ReadFile(deb)
			if err != nil {
				t.Fatal(err)
			}
			b, err := preflight.InspectDeb(bytes.NewReader(data), member)
			if compression == "xz" || compression == "zstd" {
				if !errors.Is(err, preflight.ErrCompression) || !strings.Contains(err.Error(),
					"dpkg-deb --fsys-tarfile") {
					t.Fatalf("error %v", err)
				}
				out, err := exec.Command(dpkg, "--fsys-tarfile", deb).Output()
				if err != nil {
					t.Fatal(err)
				}
				if b, err = preflight.InspectTar(bytes.NewReader(out), member); err != nil {
					t.Fatal(err)
				}
			} else if err != nil {
				t.Fatal(err)
			}
			if b.SHA256 != want.SHA256 || b.GoVersion != "go1.22.1" {
				t.Errorf("read %+v", b)
			}
		})
	}
}

func TestInspectTar(t *testing.T) {
	t.Parallel()
	gateway := forgedGateway().bytes()
	data := tarOf("./opt/tyk-gateway/tyk", gateway)
	for member, want := range map[string]error{
		"":                      nil,
		"/opt/tyk-gateway/tyk":  nil,
		"opt/tyk-gateway/tyk":   nil,
		"./opt/tyk-gateway/tyk": nil,
		"/opt/link":             preflight.ErrNoMember,
		"/opt":                  preflight.ErrNoMember,
		"/opt/other":            preflight.ErrNoMember,
	} {
		if _, err := preflight.InspectTar(bytes.NewReader(data), member); !errors.Is(err, want) {
			t.Errorf("%q: error %v, not %v", member, err, want)
		}
	}
	if _, err := preflight.InspectTar(bytes.NewReader(data), "/opt/link"); err == nil ||
		!strings.Contains(err.Error(), "name tyk-gateway/tyk") {
		t.Errorf("error %v does not say where the link leads", err)
	}
	for n := range 3*512 + len(gateway) { // what follows is padding
		if n%97 == 0 {
			if _, err := preflight.InspectTar(bytes.NewReader(data[:n]),
				"/opt/tyk-gateway/tyk"); err == nil {
				t.Errorf("cut off after %d of %d bytes, and read", n, len(data))
			}
		}
	}
	// A pipe that breaks is not the archive's fault.
	broken := errors.New("connection lost")
	for _, n := range []int{600, 2000} {
		if _, err := preflight.InspectTar(io.MultiReader(bytes.NewReader(data[:n]),
			iotest.ErrReader(broken)), ""); !errors.Is(err, broken) ||
			errors.Is(err, preflight.ErrMalformed) {
			t.Errorf("after %d bytes: error %v", n, err)
		}
	}
}

func TestInspectZip(t *testing.T) {
	t.Parallel()
	var buf bytes.Buffer
	z := zip.NewWriter(&buf)
	for _, m := range []struct {
		name   string
		method uint16
		data   []byte
	}{
		{"manifest.json", zip.Deflate, []byte("{}")},
		{"plugin.so", zip.Deflate, forgedPlugin().bytes()},
		{"plugin_v5.2.5_linux_amd64.so", zip.Store, forgedPlugin().bytes()},
	} {
		w, err := z.CreateHeader(&zip.FileHeader{Name: m.name, Method: m.method})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(m.data); err != nil {
			t.Fatal(err)
		}
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	read := func(members ...string) ([]*preflight.Binary, error) {
		return preflight.InspectZip(bytes.NewReader(buf.Bytes()), int64(buf.Len()), members...)
	}
	if all, err := read(); err != nil || len(all) != 2 || all[0].Name != "plugin.so" ||
		all[0].SHA256 != all[1].SHA256 {
		t.Errorf("read %v, %v", all, err)
	}
	if one, err := read("plugin.so"); err != nil || len(one) != 1 {
		t.Errorf("read %v, %v", one, err)
	}
	if _, err := read("manifest.json"); !errors.Is(err, preflight.ErrNotELF) ||
		!strings.Contains(err.Error(), "manifest.json") {
		t.Errorf("error %v", err)
	}
	if _, err := read("plugin.so", "gone.so"); !errors.Is(err, preflight.ErrNoMember) ||
		!strings.Contains(err.Error(), "gone.so") {
		t.Errorf("error %v", err)
	}
	// A flipped byte in the middle is seen by its checksum or by inflate.
	data := bytes.Clone(buf.Bytes())
	data[300] ^= 0xff
	if _, err := preflight.InspectZip(bytes.NewReader(data), int64(len(data)),
		"plugin.so"); !errors.Is(err, preflight.ErrMalformed) {
		t.Errorf("error %v", err)
	}
	if _, err := preflight.InspectZip(strings.NewReader("PK"), 2); !errors.Is(err,
		preflight.ErrMalformed) {
		t.Errorf("error %v", err)
	}
}

// A member that does not fit leaves nothing behind, and says that it may be
// tried again.
func TestSpoolDiskFull(t *testing.T) {
	lab.SmallDisk(t, 64<<10, func(dir string) {
		t.Setenv("TMPDIR", dir)
		_, err := preflight.InspectTar(bytes.NewReader(tarOf("tyk", make([]byte, 1<<20))), "tyk")
		var retry interface {
			Retryable() bool
			Hint() string
		}
		if !errors.Is(err, syscall.ENOSPC) || !errors.As(err, &retry) || !retry.Retryable() ||
			!strings.Contains(retry.Hint(), "TMPDIR") {
			t.Errorf("error %v", err)
		}
		if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
			t.Errorf("left %v, %v", left, err)
		}
	})
}

func TestInspectPath(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for path, want := range map[string]error{
		dir:                         preflight.ErrNotELF,
		filepath.Join(dir, "no.so"): fs.ErrNotExist,
		"/dev/null":                 preflight.ErrNotELF,
	} {
		_, err := preflight.Inspect(path)
		var retry interface{ Retryable() bool }
		if !errors.Is(err, want) || strings.Count(err.Error(), path) != 1 || !errors.As(err, &retry) ||
			retry.Retryable() {
			t.Errorf("%s: error %v", path, err)
		}
	}
	// The gateway of a process that runs, even after its file is gone.
	b, err := preflight.Inspect("/proc/self/exe")
	if err != nil || !b.Go || b.Plugin || b.Shared || b.Main.Path != "example.com/tykupgrade" {
		t.Errorf("%+v, %v", b, err)
	}
}

func FuzzArchives(f *testing.F) {
	gateway := forged{packages: map[string]string{"runtime": "runtime1"}}.bytes()
	f.Add(debOf("data.tar.gz", gzipped(tarOf("tyk", gateway))))
	f.Add(debOf("data.tar", tarOf("tyk", gateway)))
	f.Add(tarOf("tyk", gateway))
	f.Add([]byte("!<arch>\ndata.tar        0           0     0     100644  9999999999`\n"))
	var z bytes.Buffer
	w := zip.NewWriter(&z)
	m, _ := w.Create("a.so")
	_, _ = m.Write(gateway)
	_ = w.Close()
	f.Add(z.Bytes())
	f.Fuzz(func(t *testing.T, data []byte) {
		for what, err := range map[string]error{
			"deb": second(preflight.InspectDeb(bytes.NewReader(data), "tyk")),
			"tar": second(preflight.InspectTar(bytes.NewReader(data), "")),
			"zip": second(preflight.InspectZip(bytes.NewReader(data), int64(len(data)))),
		} {
			var e *preflight.Error
			if err != nil && !errors.As(err, &e) {
				t.Errorf("%s: %T %v", what, err, err)
			}
		}
	})
}

func second[T any](_ T, err error) error { return err }

// A gateway as users have it: the binary, a package, a tar, or a pipe that never ends.
func TestInspectFile(t *testing.T) {
	t.Parallel()
	data := forgedGateway().bytes()
	inTar := tarOf("."+preflight.GatewayFile, data)
	dir := t.TempDir()
	for name, c := range map[string]struct {
		data    []byte
		member  string
		want    string // the name that is reported
		kind    error
		message string
	}{
		"tyk":       {data, "", filepath.Join(dir, "tyk"), nil, ""},
		"tyk.deb":   {debOf("data.tar.gz", gzipped(inTar)), "", "." + preflight.GatewayFile, nil, ""},
		"tyk.tar":   {inTar, "", "." + preflight.GatewayFile, nil, ""},
		"named.tar": {inTar, preflight.GatewayFile, "." + preflight.GatewayFile, nil, ""},
		"other.tar": {inTar, "/opt/other", "", preflight.ErrNoMember,
			"other.tar: read tar /opt/other: no such file"},
		"xz.deb": {debOf("data.tar.xz", inTar), "", "", preflight.ErrCompression,
			"xz.deb: read Debian package: unsupported compression"},
		"script":      {[]byte("#!/bin/sh\n"), "", "", preflight.ErrNotELF, "script: not an ELF file"},
		"missing/tyk": {nil, "", "", os.ErrNotExist, "inspect " + filepath.Join(dir, "missing/tyk")},
	} {
		path := filepath.Join(dir, name)
		if c.data != nil {
			if err := os.WriteFile(path, c.data, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		b, err := preflight.InspectFile(t.Context(), path, c.member)
		if c.kind == nil {
			if err != nil || b.Name != c.want || len(b.Packages) != 4 {
				t.Errorf("%s: %+v, %v", name, b, err)
			}
			continue
		}
		var e *preflight.Error
		if !errors.Is(err, c.kind) || !errors.As(err, &e) || !strings.Contains(err.Error(), c.message) {
			t.Errorf("%s: %v", name, err)
		}
	}
	pipe := filepath.Join(dir, "pipe")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	writer, err := os.OpenFile(pipe, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = writer.Close() }()
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("Ctrl-C")
	go cancel(why)
	if _, err := preflight.InspectFile(ctx, pipe, ""); !errors.Is(err, why) {
		t.Errorf("cancelled: %v", err)
	}
}
