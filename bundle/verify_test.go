package bundle_test

import (
	"archive/zip"
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"encoding/binary"
	"errors"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/fstest"

	"example.com/tykupgrade/bundle"
	"example.com/tykupgrade/internal/lab"
)

// built returns a bundle of two small files.
func built(tb testing.TB, o bundle.Options) []byte {
	tb.Helper()
	var zipped bytes.Buffer
	names := []string{"plugin.so", "plugin_v5.2.5_linux_amd64.so"}
	if _, err := bundle.Write(&zipped, files(names...), goManifest(names...), o); err != nil {
		tb.Fatal(err)
	}
	return zipped.Bytes()
}

func verify(data []byte, o bundle.VerifyOptions) (*bundle.Manifest, error) {
	return bundle.Verify(bytes.NewReader(data), int64(len(data)), o)
}

func TestVerify(t *testing.T) {
	t.Parallel()
	m, err := verify(built(t, bundle.Options{}), bundle.VerifyOptions{})
	if err != nil || len(m.FileList) != 2 || m.Checksum == "" {
		t.Errorf("%+v, %v", m, err)
	}
	// What tyk bundle build wrote is fine too.
	dir := t.TempDir()
	for name, f := range files("plugin.so") {
		if err := os.WriteFile(filepath.Join(dir, name), f.Data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	out := filepath.Join(dir, "tyk.zip")
	if err := tykBuild(out, dir, goManifest("plugin.so")); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := verify(data, bundle.VerifyOptions{}); err != nil {
		t.Error(err)
	}
}

// entry is one entry of a crafted zip.
type entry struct {
	name   string
	data   string
	header func(h *zip.FileHeader)
}

func craft(t testing.TB, entries ...entry) []byte {
	t.Helper()
	var b bytes.Buffer
	z := zip.NewWriter(&b)
	for _, e := range entries {
		h := &zip.FileHeader{Name: e.name, Method: zip.Deflate}
		create := z.CreateHeader
		if e.header != nil {
			e.header(h)
		}
		if h.Flags != 0 || h.Method == 12 || h.UncompressedSize64 != 0 {
			create = z.CreateRaw
		}
		w, err := create(h)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, e.data); err != nil {
			t.Fatal(err)
		}
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

const (
	abcSum   = "900150983cd24fb0d6963f7d28e17f72" // MD5 of abc
	abcOnly  = `{"file_list":["a"],"checksum":"` + abcSum + `"}`
	manifest = "manifest.json"
)

// attacks are zips that a careless reader would unpack.
var attacks = map[string]struct {
	entries []entry
	want    error
	says    string
}{
	"zip slip": {[]entry{{name: "../a", data: "abc"}, {name: manifest,
		data: `{"file_list":["../a"],"checksum":"` + abcSum + `"}`}}, bundle.ErrStructure, "leaves"},
	"slip inside a path": {[]entry{{name: "b/../../a", data: "abc"}, {name: manifest,
		data: abcOnly}}, bundle.ErrStructure, "leaves"},
	"backslashes": {[]entry{{name: `..\a`, data: "abc"}, {name: manifest, data: abcOnly}},
		bundle.ErrStructure, "directory"},
	"absolute": {[]entry{{name: "/a", data: "abc"}, {name: manifest, data: abcOnly}},
		bundle.ErrStructure, "absolute"},
	"nested": {[]entry{{name: "b/a", data: "abc"}, {name: manifest, data: abcOnly}},
		bundle.ErrStructure, "directory"},
	"macOS metadata": {[]entry{{name: "__MACOSX/._a", data: "x"}, {name: "a", data: "abc"},
		{name: manifest, data: abcOnly}}, bundle.ErrStructure, "macOS metadata"},
	"all in one directory": {[]entry{{name: "b/"}, {name: "b/manifest.json", data: abcOnly},
		{name: "b/a", data: "abc"}}, bundle.ErrStructure, "not their directory"},
	"odd directory": {[]entry{{name: "../"}, {name: "a", data: "abc"}, {name: manifest,
		data: abcOnly}}, bundle.ErrStructure, "directory"},
	"no name": {[]entry{{name: "", data: "abc"}, {name: manifest, data: abcOnly}},
		bundle.ErrStructure, "not a file name"},
	"duplicate": {[]entry{{name: "a", data: "abc"}, {name: "a", data: "abd"},
		{name: manifest, data: abcOnly}}, bundle.ErrStructure, "two entries"},
	"two manifests": {[]entry{{name: "a", data: "abc"}, {name: manifest, data: abcOnly},
		{name: manifest, data: abcOnly}}, bundle.ErrStructure, "two entries"},
	"not in the list": {[]entry{{name: "a", data: "abc"}, {name: "b", data: "x"}, {name: manifest,
		data: abcOnly}}, bundle.ErrStructure, "file_list does not"},
	"missing entry": {[]entry{{name: manifest, data: abcOnly}}, bundle.ErrStructure,
		"the zip does not"},
	"manifest in the list": {[]entry{{name: "a", data: "abc"}, {name: manifest,
		data: `{"file_list":["a","manifest.json"]}`}}, bundle.ErrStructure, "does not"},
	"no manifest": {[]entry{{name: "a", data: "abc"}}, bundle.ErrStructure,
		"no manifest.json"},
	"broken manifest": {[]entry{{name: "a", data: "abc"}, {name: manifest,
		data: `{"file_list":`}}, bundle.ErrStructure, "parse manifest"},
	"symlink": {[]entry{{name: "a", data: "/etc/passwd",
		header: func(h *zip.FileHeader) { h.SetMode(fs.ModeSymlink | 0o777) }}, {name: manifest,
		data: abcOnly}}, bundle.ErrStructure, "symbolic link"},
	"device": {
		[]entry{{name: "a", header: func(h *zip.FileHeader) { h.SetMode(fs.ModeDevice | 0o666) }},
			{name: manifest, data: abcOnly}}, bundle.ErrStructure, "device"},
	"manifest a symlink": {[]entry{{name: "a", data: "abc"}, {name: manifest, data: abcOnly,
		header: func(h *zip.FileHeader) { h.SetMode(fs.ModeSymlink | 0o777) }}}, bundle.ErrStructure,
		"symbolic link"},
	"encrypted": {[]entry{{name: "a", data: "abc",
		header: func(h *zip.FileHeader) { h.Flags = 1 }}, {name: manifest, data: abcOnly}},
		bundle.ErrStructure, "encrypted"},
	"other compression": {[]entry{{name: "a", data: "abc",
		header: func(h *zip.FileHeader) { h.Method = 12 }}, {name: manifest, data: abcOnly}},
		bundle.ErrStructure, "method 12"},
	"checksum": {[]entry{{name: "a", data: "abd"}, {name: manifest, data: abcOnly}},
		bundle.ErrChecksum, abcSum},
	"no checksum": {[]entry{{name: "a", data: "abc"}, {name: manifest,
		data: `{"file_list":["a"]}`}}, bundle.ErrChecksum, abcSum},
	"ratio": {[]entry{{name: "a", data: strings.Repeat("\x00", 2<<20)}, {name: manifest,
		data: abcOnly}}, bundle.ErrLimit, "200 times"},
	"large manifest": {[]entry{{name: "a", data: "abc"}, {name: manifest,
		data: strings.Repeat(" ", 1<<20) + abcOnly}}, bundle.ErrLimit, "manifest.json"},
	"claims more than it has": {[]entry{{name: "a", data: "\x4b\x4c\x4a\x06\x00",
		header: func(h *zip.FileHeader) {
			h.CompressedSize64, h.UncompressedSize64 = 5, 4
		}}, {name: manifest, data: abcOnly}}, bundle.ErrStructure, "cut short"},
	"claims less than it has": {[]entry{{name: "a", data: "\x4b\x4c\x4a\x06\x00",
		header: func(h *zip.FileHeader) {
			h.CompressedSize64, h.UncompressedSize64 = 5, 2
		}}, {name: manifest, data: abcOnly}}, bundle.ErrStructure, "cut short"},
}

func TestVerifyRefuses(t *testing.T) {
	t.Parallel()
	for name, c := range attacks {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m, err := verify(craft(t, c.entries...), bundle.VerifyOptions{})
			refusedAs(t, err, c.want, c.says)
			if m != nil {
				t.Errorf("a manifest was returned: %+v", m)
			}
		})
	}
}

func refusedAs(t *testing.T, err, want error, says string) {
	t.Helper()
	var own *bundle.Error
	if !errors.Is(err, want) || !strings.Contains(err.Error(), says) || !errors.As(err, &own) ||
		own.Retryable() || own.Hint() == "" {
		t.Errorf("got %v, want %v …%s…", err, want, says)
	}
}

func TestVerifyLimits(t *testing.T) {
	t.Parallel()
	data := built(t, bundle.Options{})
	total := int64(len(sharedObject("plugin.so")) + len(sharedObject("plugin_v5.2.5_linux_amd64.so")))
	for name, c := range map[string]struct {
		o    bundle.VerifyOptions
		fits bool
	}{
		"size, just":  {bundle.VerifyOptions{MaxSize: total}, true},
		"size":        {bundle.VerifyOptions{MaxSize: total - 1}, false},
		"one entry":   {bundle.VerifyOptions{MaxSize: 10}, false},
		"files, just": {bundle.VerifyOptions{MaxFiles: 2}, true},
		"files":       {bundle.VerifyOptions{MaxFiles: 1}, false},
	} {
		_, err := verify(data, c.o)
		if c.fits && err != nil {
			t.Errorf("%s: %v", name, err)
		} else if !c.fits {
			refusedAs(t, err, bundle.ErrLimit, "at most")
		}
	}
	bomb := craft(t, attacks["ratio"].entries...)
	if _, err := verify(bomb, bundle.VerifyOptions{MaxRatio: 2000}); !errors.Is(err,
		bundle.ErrChecksum) {
		t.Errorf("with a larger ratio: %v", err)
	}
	if _, err := verify(data, bundle.VerifyOptions{MaxSize: -1}); err == nil ||
		errors.Is(err, bundle.ErrLimit) {
		t.Errorf("negative limit: %v", err)
	}
}

// Entries that share compressed bytes make a small file unpack to a huge one.
func TestVerifyRefusesOverlap(t *testing.T) {
	t.Parallel()
	data := craft(t, entry{name: "a", data: strings.Repeat("abc", 100)}, entry{name: manifest,
		data: abcOnly})
	at := bytes.Index(data, []byte("PK\x01\x02"))
	binary.LittleEndian.PutUint32(data[at+20:], math.MaxInt32) // compressed size in the directory
	_, err := verify(data, bundle.VerifyOptions{})
	refusedAs(t, err, bundle.ErrStructure, "overlap")
}

// A bundle that lacks its end, wherever it was cut, is refused.
func TestVerifyRefusesTruncated(t *testing.T) {
	t.Parallel()
	data := built(t, bundle.Options{})
	for n := range data {
		_, err := verify(data[:n], bundle.VerifyOptions{})
		if !errors.Is(err, bundle.ErrStructure) {
			t.Fatalf("%d of %d bytes: %v", n, len(data), err)
		}
	}
}

// Any flipped bit of content is noticed, and reading errors are not mistaken
// for bad bundles.
func TestVerifyDamagedAndUnreadable(t *testing.T) {
	t.Parallel()
	data := craft(t, entry{name: "a", data: "abc",
		header: func(h *zip.FileHeader) { h.Method = zip.Store }}, entry{name: manifest, data: abcOnly})
	content := bytes.Index(data, []byte("abc"))
	for bit := range 24 {
		damaged := bytes.Clone(data)
		damaged[content+bit/8] ^= 1 << (bit % 8)
		if _, err := verify(damaged, bundle.VerifyOptions{}); !errors.Is(err, bundle.ErrStructure) &&
			!errors.Is(err, bundle.ErrChecksum) {
			t.Errorf("bit %d: %v", bit, err)
		}
	}
	boom := errors.New("disk fell off")
	_, err := bundle.Verify(unreadable{boom}, int64(len(data)), bundle.VerifyOptions{})
	var own *bundle.Error
	if !errors.Is(err, boom) || !errors.As(err, &own) || !own.Retryable() {
		t.Errorf("error %v", err)
	}
}

type unreadable struct{ err error }

func (u unreadable) ReadAt([]byte, int64) (int, error) { return 0, u.err }

func TestVerifySignature(t *testing.T) {
	t.Parallel()
	key, other := rsaKey(t), rsaKey(t)
	signed := built(t, bundle.Options{Signer: key})
	if _, err := verify(signed, bundle.VerifyOptions{Key: &key.PublicKey}); err != nil {
		t.Error(err)
	}
	if _, err := verify(signed, bundle.VerifyOptions{}); err != nil {
		t.Errorf("without a key: %v", err)
	}
	_, err := verify(signed, bundle.VerifyOptions{Key: &other.PublicKey})
	refusedAs(t, err, bundle.ErrSignature, "signature")
	_, err = verify(built(t, bundle.Options{}), bundle.VerifyOptions{Key: &key.PublicKey})
	refusedAs(t, err, bundle.ErrUnsigned, "not signed")
	garbage := craft(t, entry{name: "a", data: "abc"}, entry{name: manifest,
		data: `{"file_list":["a"],"checksum":"` + abcSum + `","signature":"%%%"}`})
	_, err = verify(garbage, bundle.VerifyOptions{Key: &key.PublicKey})
	refusedAs(t, err, bundle.ErrSignature, "signature")
}

func rsaKey(tb testing.TB) *rsa.PrivateKey {
	tb.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		tb.Fatal(err)
	}
	return key
}

func extract(ctx context.Context, data []byte, dir string, o bundle.VerifyOptions) error {
	_, err := bundle.Extract(ctx, bytes.NewReader(data), int64(len(data)), dir, o)
	return err
}

func TestExtract(t *testing.T) {
	t.Parallel()
	data := built(t, bundle.Options{})
	for name, dir := range map[string]string{"new": filepath.Join(t.TempDir(), "new"),
		"existing": t.TempDir()} {
		if err := extract(t.Context(), data, dir, bundle.VerifyOptions{}); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		only(t, dir, "manifest.json", "plugin.so", "plugin_v5.2.5_linux_amd64.so")
		got, err := os.ReadFile(filepath.Join(dir, "plugin.so"))
		if err != nil || !bytes.Equal(got, sharedObject("plugin.so")) {
			t.Errorf("%s: %q, %v", name, got, err)
		}
		if info, err := os.Stat(filepath.Join(dir, "plugin.so")); err != nil || info.Mode() != 0o644 {
			t.Errorf("%s: %v, %v", name, info, err)
		}
		if f := parseFile(t, filepath.Join(dir, manifest)).Validate(os.DirFS(dir)); f != nil {
			t.Errorf("%s: %+v", name, f)
		}
	}
}

// Whatever is refused, and whenever it fails, leaves nothing behind: neither in
// a directory that was there nor one of its own, nor outside.
func TestExtractLeavesNothing(t *testing.T) {
	t.Parallel()
	boom := errors.New("stop")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(boom)
	broken := craft(t, entry{name: "a", data: "abc"}, entry{name: "b", data: "xyz"},
		entry{name: manifest, data: `{"file_list":["a","b"],"checksum":"` + abcSum + `"}`})
	type run struct {
		data []byte
		ctx  context.Context
		want error
	}
	runs := map[string]run{
		"cancelled": {built(t, bundle.Options{}), ctx, boom},
		"checksum":  {broken, t.Context(), bundle.ErrChecksum},
	}
	for name, c := range attacks {
		runs[name] = run{craft(t, c.entries...), t.Context(), c.want}
	}
	for name, c := range runs {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			parent := t.TempDir()
			existing := filepath.Join(parent, "existing")
			if err := os.Mkdir(existing, 0o700); err != nil {
				t.Fatal(err)
			}
			for _, dir := range []string{existing, filepath.Join(parent, "new")} {
				err := extract(c.ctx, c.data, dir, bundle.VerifyOptions{})
				if !errors.Is(err, c.want) {
					t.Errorf("error %v, want %v", err, c.want)
				}
			}
			only(t, parent, "existing")
			only(t, existing)
		})
	}
}

func TestExtractFullDisk(t *testing.T) {
	lab.SmallDisk(t, 128<<10, func(disk string) {
		src := fstest.MapFS{"plugin.so": {Data: noise(1, 200<<10)}}
		var zipped bytes.Buffer
		if _, err := bundle.Write(&zipped, src, goManifest("plugin.so"), bundle.Options{}); err != nil {
			t.Fatal(err)
		}
		err := extract(t.Context(), zipped.Bytes(), filepath.Join(disk, "new"), bundle.VerifyOptions{})
		var own *bundle.Error
		if !errors.Is(err, syscall.ENOSPC) || !errors.As(err, &own) || !own.Retryable() {
			t.Errorf("error %v", err)
		}
		only(t, disk)
	})
}

// Files and links that are in the way are neither followed nor overwritten nor
// removed.
func TestExtractDoesNotOverwrite(t *testing.T) {
	t.Parallel()
	data := built(t, bundle.Options{})
	outside := filepath.Join(t.TempDir(), "outside")
	if err := os.WriteFile(outside, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, put := range []func(path string) error{
		func(path string) error { return os.WriteFile(path, []byte("mine"), 0o600) },
		func(path string) error { return os.Symlink(outside, path) },
		func(path string) error { return os.Symlink(outside+"-new", path) },
	} {
		for _, at := range []string{"plugin_v5.2.5_linux_amd64.so", manifest} {
			dir := t.TempDir()
			if err := put(filepath.Join(dir, at)); err != nil {
				t.Fatal(err)
			}
			err := extract(t.Context(), data, dir, bundle.VerifyOptions{})
			refusedAs(t, err, fs.ErrExist, at)
			only(t, dir, at)
			if _, err := os.Lstat(outside + "-new"); err == nil {
				t.Error("written outside")
			}
		}
	}
	if got, _ := os.ReadFile(outside); string(got) != "mine" {
		t.Errorf("the file outside is %q", got)
	}
	if err := extract(t.Context(), data, outside, bundle.VerifyOptions{}); err == nil ||
		!strings.Contains(err.Error(), "not a directory") {
		t.Errorf("into a file: %v", err)
	}
	if err := extract(t.Context(), data, filepath.Join(t.TempDir(), "a", "b"),
		bundle.VerifyOptions{}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("missing parent: %v", err)
	}
}
