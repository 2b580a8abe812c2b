package bundle_test

import (
	"archive/zip"
	"bytes"
	"context"
	"crypto/md5"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"testing/fstest"
	"testing/iotest"

	"example.com/tykupgrade/bundle"
	"example.com/tykupgrade/internal/lab"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// noise returns n bytes that compress like code does: a shared object of words
// drawn from a small vocabulary. They are the same everywhere.
func noise(seed uint64, n int) []byte {
	r := rand.New(rand.NewPCG(seed, 1))
	words := make([][]byte, 1<<14)
	for i := range words {
		words[i] = make([]byte, 4+r.IntN(16))
		for j := range words[i] {
			words[i][j] = byte(r.Uint32())
		}
	}
	data := sharedObject("")
	for len(data) < n {
		data = append(data, words[r.IntN(len(words))]...)
	}
	return data[:n]
}

// The zip is the one that tyk bundle build makes: same entries, order, times
// and modes. Only the compressed bytes may differ.
func TestWriteLikeTyk(t *testing.T) {
	t.Parallel()
	const chunk = 256 << 10 // sizes around the chunks that are compressed side by side
	src := fstest.MapFS{}
	m := &bundle.Manifest{Signature: "of an earlier build"}
	m.Middleware.Driver = "goplugin"
	m.Middleware.Post = []bundle.Hook{{Name: "F", Path: "z.so"}}
	for i, size := range []int{chunk, 64, chunk - 1, chunk + 1, 6*chunk + 17} {
		name := string(rune('z'-i)) + ".so"
		m.FileList = append(m.FileList, name)
		data := noise(uint64(i), size)
		if size > 2*chunk {
			clear(data[chunk+chunk/2 : 5*chunk]) // zeros are compressed fast
		}
		src[name] = &fstest.MapFile{Data: data}
	}
	m.FileList = append(m.FileList, "empty.txt")
	src["empty.txt"] = &fstest.MapFile{}

	var zipped bytes.Buffer
	result, err := bundle.Write(&zipped, src, m, bundle.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if m.Checksum != "" || m.Signature == "" {
		t.Error("the argument was changed")
	}
	if result.Manifest.Signature != "" {
		t.Errorf("unsigned, but with the signature %q", result.Manifest.Signature)
	}
	r, err := zip.NewReader(bytes.NewReader(zipped.Bytes()), int64(zipped.Len()))
	if err != nil {
		t.Fatal(err)
	}
	sum := md5.New()
	want := append(append([]string{}, m.FileList...), "manifest.json")
	if len(r.File) != len(want) {
		t.Fatalf("%d entries", len(r.File))
	}
	for i, f := range r.File {
		if f.Name != want[i] || f.Method != zip.Deflate || f.ModifiedDate != 0 || f.ModifiedTime != 0 ||
			f.ExternalAttrs != 0 || len(f.Extra) != 0 {
			t.Errorf("entry %d is %+v", i, f.FileHeader)
		}
		in, err := f.Open()
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(in)
		if err != nil {
			t.Fatalf("%s: %v", f.Name, err)
		}
		if f.Name == "manifest.json" {
			var manifest bytes.Buffer
			if _, err := result.Manifest.WriteTo(&manifest); err != nil || !bytes.Equal(got,
				manifest.Bytes()) {
				t.Errorf("manifest %s", got)
			}
			continue
		}
		if !bytes.Equal(got, src[f.Name].Data) {
			t.Errorf("%s differs", f.Name)
		}
		sum.Write(got)
	}
	if result.Manifest.Checksum != hex.EncodeToString(sum.Sum(nil)) ||
		result.Size != int64(zipped.Len()) {
		t.Errorf("result %+v", result)
	}
}

// Equal bytes whatever the number of cores and the way in which a file system
// hands out the content, and the same as on the machine that wrote the golden file.
func TestWriteIsDeterministic(t *testing.T) {
	// Not parallel: it changes GOMAXPROCS.
	m := goManifest("plugin.so", "plugin_v5.2.5_linux_amd64.so")
	src := fstest.MapFS{}
	for i, size := range []int{300 << 10, 20 << 10} { // two chunks and one
		src[m.FileList[i]] = &fstest.MapFile{Data: noise(uint64(i), size)}
	}
	write := func(src fs.FS) string {
		result, err := bundle.Write(io.Discard, src, m, bundle.Options{})
		if err != nil {
			t.Fatal(err)
		}
		return result.SHA256
	}
	const golden = "testdata/deterministic.sha256"
	first := write(src)
	if *update {
		if err := os.WriteFile(golden, []byte(first+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if first != strings.TrimSpace(string(want)) {
		t.Errorf("bytes differ from the golden file's; if the compression module changed, run " +
			"with -update")
	}
	for _, cores := range []int{1, 7} {
		old := runtime.GOMAXPROCS(cores)
		got := write(src)
		runtime.GOMAXPROCS(old)
		if got != first {
			t.Errorf("with %d cores the bytes differ", cores)
		}
	}
	if got := write(reading{src, iotest.HalfReader}); got != first {
		t.Error("with short reads the bytes differ")
	}
	src[m.FileList[1]].Data[100]++
	if got := write(src); got == first {
		t.Error("other content, same bytes")
	}
}

// reading passes the content of every file through wrap.
type reading struct {
	fs.FS
	wrap func(io.Reader) io.Reader
}

func (r reading) Open(name string) (fs.File, error) {
	f, err := r.FS.Open(name)
	if err != nil {
		return nil, err
	}
	return readingFile{f, r.wrap(f)}, nil
}

type readingFile struct {
	fs.File
	r io.Reader
}

func (f readingFile) Read(p []byte) (int, error) { return f.r.Read(p) }

func TestName(t *testing.T) {
	t.Parallel()
	name := func(change func(m *bundle.Manifest, src fstest.MapFS)) string {
		m, src := goManifest("plugin.so"), files("plugin.so", "other.so")
		change(m, src)
		result, err := bundle.Write(io.Discard, src, m, bundle.Options{})
		if err != nil {
			t.Fatal(err)
		}
		return result.Name("orders")
	}
	seen := map[string]string{}
	for what, change := range map[string]func(m *bundle.Manifest, src fstest.MapFS){
		"as it is": func(*bundle.Manifest, fstest.MapFS) {},
		"a file": func(_ *bundle.Manifest,
			src fstest.MapFS) {
			src["plugin.so"].Data = sharedObject("new")
		},
		"a hook": func(m *bundle.Manifest, _ fstest.MapFS) {
			m.Middleware.Post[0].RequireSession =
				true
		},
		"the file list": func(m *bundle.Manifest, _ fstest.MapFS) {
			m.FileList = append(m.FileList,
				"other.so")
		},
	} {
		n := name(change)
		if other, ok := seen[n]; ok {
			t.Errorf("%s and %s give the same name", what, other)
		}
		seen[n] = what
		if n != name(change) || !strings.HasPrefix(n, "orders-") ||
			len(n) != len("orders-0123456789ab.zip") {
			t.Errorf("%s: name %s", what, n)
		}
	}
}

func TestWriteRefusesBeforeWriting(t *testing.T) {
	t.Parallel()
	m := goManifest("plugin.so", "sub/x.so")
	m.Middleware.Driver = ""
	var w bytes.Buffer
	_, err := bundle.Write(&w, files("plugin.so"), m, bundle.Options{})
	var refused *bundle.Error
	if !errors.As(err, &refused) || len(refused.Findings) != 2 || refused.Retryable() ||
		refused.Hint() == "" ||
		!strings.Contains(err.Error(), "file_list[1]") || !strings.Contains(err.Error(),
		"custom_middleware.driver") {
		t.Errorf("error %v", err)
	}
	if w.Len() > 0 {
		t.Errorf("%d bytes were written", w.Len())
	}
	if _, err := bundle.Write(&w, nil, m, bundle.Options{}); err == nil {
		t.Error("no files, no error")
	}
	if _, err := bundle.Write(&w, files(), nil, bundle.Options{}); err == nil {
		t.Error("no manifest, no error")
	}
}

// A writer that fails at any point, and a file that fails while it is read.
func TestWriteFails(t *testing.T) {
	t.Parallel()
	m := goManifest("plugin.so")
	src := fstest.MapFS{"plugin.so": {Data: noise(1, 520<<10)}} // three chunks
	boom := errors.New("boom")
	result, err := bundle.Write(io.Discard, src, m, bundle.Options{})
	if err != nil {
		t.Fatal(err)
	}
	for _, at := range []int64{0, 40, result.Size / 3, result.Size - 1} {
		_, err := bundle.Write(&failing{left: at, err: boom}, src, m, bundle.Options{})
		var own *bundle.Error
		if !errors.Is(err, boom) || !errors.As(err, &own) || !own.Retryable() {
			t.Errorf("writer failing after %d bytes: %v", at, err)
		}
	}
	broken := reading{src, func(r io.Reader) io.Reader {
		return io.MultiReader(io.LimitReader(r, 500<<10), iotest.ErrReader(boom))
	}}
	if _, err := bundle.Write(io.Discard, broken, m, bundle.Options{}); !errors.Is(err, boom) ||
		!strings.Contains(err.Error(), "plugin.so") {
		t.Errorf("broken file: %v", err)
	}
}

type failing struct {
	left int64
	err  error
}

func (f *failing) Write(p []byte) (int, error) {
	if int64(len(p)) > f.left {
		return int(f.left), f.err
	}
	f.left -= int64(len(p))
	return len(p), nil
}

func TestProgress(t *testing.T) {
	t.Parallel()
	m := goManifest("a.so", "b.so")
	const size = 300 << 10
	src := fstest.MapFS{"a.so": {Data: noise(1, size)}, "b.so": {Data: noise(2, size)}}
	var events []bundle.Event
	if _, err := bundle.Write(io.Discard, src, m,
		bundle.Options{Progress: func(e bundle.Event) { events = append(events, e) }}); err != nil {
		t.Fatal(err)
	}
	for i, e := range events {
		if e.Total != 2*size || i > 0 && e.Done <= events[i-1].Done ||
			(e.File == "a.so") != (e.Done <= size) {
			t.Errorf("event %d: %+v", i, e)
		}
	}
	if last := events[len(events)-1]; last.Done != last.Total || len(events) < 4 {
		t.Errorf("%d events, last %+v", len(events), last)
	}
}

// A failed or cancelled build leaves the earlier file as it was, and nothing
// next to it.
func TestWriteFileIsAtomic(t *testing.T) {
	t.Parallel()
	m := goManifest("plugin.so")
	src := fstest.MapFS{"plugin.so": {Data: noise(1, 1<<20)}}
	boom := errors.New("operator pressed stop")
	for name, c := range map[string]struct {
		run  func(ctx context.Context, cancel context.CancelCauseFunc, path string) error
		want []error
	}{
		"cancelled before": {func(ctx context.Context, cancel context.CancelCauseFunc,
			path string) error {
			cancel(boom)
			_, err := bundle.WriteFile(ctx, path, src, m, bundle.Options{})
			return err
		}, []error{context.Canceled, boom}},
		"cancelled under way": {func(ctx context.Context, cancel context.CancelCauseFunc,
			path string) error {
			_, err := bundle.WriteFile(ctx, path, src, m, bundle.Options{Progress: func(e bundle.Event) {
				if e.Done > 600<<10 {
					cancel(boom)
				}
			}})
			return err
		}, []error{context.Canceled, boom}},
		"bad manifest": {func(ctx context.Context, _ context.CancelCauseFunc, path string) error {
			_, err := bundle.WriteFile(ctx, path, src, goManifest("gone.so"), bundle.Options{})
			if refused := new(bundle.Error); !errors.As(err, &refused) || len(refused.Findings) == 0 {
				return fmt.Errorf("not refused: %w", err)
			}
			return boom
		}, []error{boom}},
		"unreadable file": {func(ctx context.Context, _ context.CancelCauseFunc, path string) error {
			_, err := bundle.WriteFile(ctx, path, reading{src, func(r io.Reader) io.Reader {
				return io.MultiReader(io.LimitReader(r, 600<<10), iotest.ErrReader(boom))
			}}, m, bundle.Options{})
			return err
		}, []error{boom}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			path := filepath.Join(dir, "bundle.zip")
			if err := os.WriteFile(path, []byte("earlier"), 0o600); err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancelCause(t.Context())
			defer cancel(nil)
			err := c.run(ctx, cancel, path)
			for _, want := range c.want {
				if !errors.Is(err, want) {
					t.Errorf("error %v", err)
				}
			}
			if got, err := os.ReadFile(path); string(got) != "earlier" || err != nil {
				t.Errorf("the earlier file is %q, %v", got, err)
			}
			only(t, dir, "bundle.zip")
		})
	}
}

func TestWriteFile(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "bundle.zip")
	m := goManifest("plugin.so")
	result, err := bundle.WriteFile(t.Context(), path, files("plugin.so"), m, bundle.Options{})
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Size() != result.Size || info.Mode() != 0o644 {
		t.Errorf("%v, %v", info, err)
	}
	only(t, dir, "bundle.zip")

	_, err = bundle.WriteFile(t.Context(), dir, files("plugin.so"), m, bundle.Options{})
	var own *bundle.Error
	if !errors.As(err, &own) || own.Retryable() || !strings.Contains(err.Error(), "directory") {
		t.Errorf("onto a directory: %v", err)
	}
}

func TestWriteFileFullDisk(t *testing.T) {
	lab.SmallDisk(t, 128<<10, func(dir string) {
		path := filepath.Join(dir, "bundle.zip")
		if err := os.WriteFile(path, []byte("earlier"), 0o600); err != nil {
			t.Fatal(err)
		}
		src := fstest.MapFS{"plugin.so": {Data: noise(1, 1<<20)}}
		_, err := bundle.WriteFile(t.Context(), path, src, goManifest("plugin.so"), bundle.Options{})
		var own *bundle.Error
		if !errors.As(err, &own) || !own.Retryable() || !strings.Contains(err.Error(), "no space left") {
			t.Errorf("error %v", err)
		}
		if got, _ := os.ReadFile(path); string(got) != "earlier" {
			t.Errorf("the earlier file is %q", got)
		}
		only(t, dir, "bundle.zip")
	})
}

func only(t *testing.T, dir string, names ...string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range entries {
		got = append(got, e.Name())
	}
	if strings.Join(got, " ") != strings.Join(names, " ") {
		t.Errorf("%s holds %q, want %q", dir, got, names)
	}
}
