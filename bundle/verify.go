package bundle

import (
	"archive/zip"
	"context"
	"crypto/rsa"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"strings"

	"github.com/klauspost/compress/flate"
)

// VerifyOptions sets the requirements of a bundle. The zero value checks structure and checksum
// within the default limits.
type VerifyOptions struct {
	// Key is the public key that must match the bundle's signature. An unsigned bundle is then
	// refused. nil: signatures are not checked.
	//
	// Tyk's signature covers only the concatenated contents of the files. It still matches if
	// somebody removes hooks, swaps names or moves the boundary between two files. Use Expect,
	// SHA256 or [VerifyDetached] for a bundle that somebody may have changed.
	Key *rsa.PublicKey

	// Expect is the manifest that the bundle must have, except for checksum and signature. nil:
	// any.
	Expect *Manifest
	// SHA256 is the digest of the whole zip, in hex. Empty: any.
	SHA256 string

	MaxSize  int64 // 0: DefaultMaxSize
	MaxFiles int   // manifest.json not counted; 0: DefaultMaxFiles
	MaxRatio int64 // 0: DefaultMaxRatio

	// Progress is called after each piece that was read. nil: not at all.
	Progress func(Event)
}

// Verify reads the whole bundle of size bytes at r and returns its manifest. The bundle must be a
// flat zip of manifest.json and exactly the regular files in file_list, within the limits. Two
// entries of one name must be equal. The checksum must match, and the signature too if o has a key.
// Like gateways, Verify ignores empty directories and the files that macOS adds to a zip.
//
// Errors have the kinds [ErrStructure], also for damaged and truncated archives, [ErrLimit],
// [ErrChecksum], [ErrUnsigned], [ErrSignature], [ErrExpected] and [ErrKey]. Verify every bundle
// before publishing it, because some gateways load one with a wrong checksum or signature: see
// [Enforces].
func Verify(r io.ReaderAt, size int64, o VerifyOptions) (*Manifest, error) {
	return verify(context.Background(), r, size, o)
}

func verify(ctx context.Context, r io.ReaderAt, size int64, o VerifyOptions) (*Manifest, error) {
	const op = "verify bundle"
	a, err := open(op, r, size, o)
	if err != nil {
		return nil, err
	}
	if err := o.expected(op, a, r, size); err != nil {
		return nil, err
	}
	if err := a.stream(ctx, op, func(string) (io.WriteCloser, error) {
		return discard{}, nil
	}); err != nil {
		return nil, err
	}
	return a.manifest, nil
}

type discard struct{ io.Writer }

func (discard) Write(p []byte) (int, error) { return len(p), nil }
func (discard) Close() error                { return nil }

// archive is a bundle with a valid structure. Its content is not yet read.
type archive struct {
	o        VerifyOptions
	entries  map[string]*zip.File
	dirs     map[string]bool // directory entries
	manifest *Manifest
	raw      []byte // manifest.json as it is in the bundle
	total    int64
}

// open checks everything that needs no unpacking.
func open(op string, r io.ReaderAt, size int64, o VerifyOptions) (*archive, error) {
	limits, err := o.limits(op)
	if err != nil {
		return nil, err
	}
	if o.Key != nil {
		if err := checkKey(op, o.Key); err != nil {
			return nil, err
		}
	}
	if r == nil {
		return nil, &Error{Op: op, Err: errors.New("no bundle given")}
	}
	a := &archive{o: limits, entries: map[string]*zip.File{}, dirs: map[string]bool{}}
	z, err := zip.NewReader(r, size)
	// ErrInsecurePath comes with a usable reader, and only if GODEBUG requests it. The names are
	// checked below.
	if err != nil && !errors.Is(err, zip.ErrInsecurePath) {
		return nil, failure(op, "", err)
	}
	// Twice as fast as the standard library's, with its errors.
	z.RegisterDecompressor(zip.Deflate, func(r io.Reader) io.ReadCloser { return flate.NewReader(r) })
	if err := limits.count(len(z.File) - 1); err != nil {
		return nil, failure(op, "", err)
	}
	var packed uint64
	for _, f := range z.File {
		if err := a.entry(f); err != nil {
			return nil, failure(op, fmt.Sprintf("%q", f.Name), err)
		}
		packed += f.CompressedSize64
	}
	if packed > uint64(size) {
		return nil, failure(op, "", fmt.Errorf("%w: its entries overlap", ErrStructure))
	}
	if err := limits.size(a.total); err != nil {
		return nil, failure(op, "", err)
	}
	if err := a.readManifest(op); err != nil {
		return nil, err
	}
	return a, nil
}

func (a *archive) entry(f *zip.File) error {
	bad := func(format string, args ...any) error {
		return fmt.Errorf("%w: %s", ErrStructure, fmt.Sprintf(format, args...))
	}
	// Gateways create the directory and continue.
	if dir, ok := strings.CutSuffix(f.Name, "/"); ok && f.Mode().IsDir() &&
		f.UncompressedSize64 == 0 && fs.ValidPath(dir) {
		a.dirs[dir] = true
		return nil
	}
	name := path.Clean(f.Name)
	// Gateways unpack the entries of macOS and ignore them, if their directory comes first.
	if strings.HasPrefix(f.Name, "__MACOSX/") && a.dirs[path.Dir(name)] && f.Mode().IsRegular() &&
		f.UncompressedSize64 <= ratioFloor {
		return nil
	}
	if name != ManifestName {
		if problem := zipNameProblem(f.Name); problem != "" {
			return bad("the name %s", problem)
		}
	}
	// Of two entries gateways keep the last.
	earlier := a.entries[name]
	switch {
	case earlier != nil && (name == ManifestName || earlier.CRC32 != f.CRC32 ||
		earlier.UncompressedSize64 != f.UncompressedSize64):
		return bad("two entries have this name")
	case !f.Mode().IsRegular():
		return bad("the entry is %s", kind(f.Mode()))
	case f.Flags&(1<<0|1<<6|1<<13) != 0:
		return bad("the entry is encrypted")
	case f.Method != zip.Deflate && f.Method != zip.Store:
		return bad("gateways cannot unpack compression method %d", f.Method)
	case name == ManifestName: // has a limit of its own
	case f.UncompressedSize64 > uint64(a.o.MaxSize):
		return fmt.Errorf("%w: %d bytes unpacked, at most %d", ErrLimit, f.UncompressedSize64,
			a.o.MaxSize)
	default:
		if err := a.o.ratio(&f.FileHeader); err != nil {
			return err
		}
	}
	a.entries[name] = f
	if name != ManifestName {
		a.total += int64(f.UncompressedSize64)
	}
	return nil
}

// metadata reports whether macOS adds such an entry to a zip.
func metadata(name string) bool {
	return strings.HasPrefix(name, "__MACOSX/") || path.Base(name) == ".DS_Store"
}

// zipNameProblem explains a mistake of the person who made the zip.
func zipNameProblem(name string) string {
	problem, _ := nameProblem(name)
	dir, rest, below := strings.Cut(strings.TrimPrefix(name, "./"), "/")
	switch {
	case problem == "":
	case metadata(name):
		return "is of macOS metadata; make the zip with packbundle, or with zip -X on the files"
	case below && rest == ManifestName && fs.ValidPath(dir):
		return "puts the manifest into the directory " + dir + "; zip the files themselves, not " +
			"their directory"
	}
	return problem
}

func (a *archive) readManifest(op string) error {
	f := a.entries[ManifestName]
	if f == nil {
		return failure(op, "", fmt.Errorf("%w: no %s", ErrStructure, ManifestName))
	}
	if f.UncompressedSize64 > maxManifest {
		return failure(op, ManifestName, fmt.Errorf("%w: %d bytes, at most %d", ErrLimit,
			f.UncompressedSize64, maxManifest))
	}
	in, err := f.Open()
	if err == nil {
		// The size is a claim until it has been read; zip.File holds entries to it.
		a.raw, err = io.ReadAll(in)
	}
	if err != nil {
		return failure(op, ManifestName, err)
	}
	if a.manifest, err = Parse(a.raw); err != nil {
		return failure(op, ManifestName, fmt.Errorf("%w: %w", ErrStructure, err))
	}
	list := map[string]bool{}
	for _, name := range a.manifest.FileList {
		name = path.Clean(name)
		switch {
		case name == ManifestName || a.entries[name] == nil:
			return failure(op, fmt.Sprintf("%q", name), fmt.Errorf("%w: file_list has it, the zip does not",
				ErrStructure))
		}
		list[name] = true
	}
	for name := range a.entries {
		if name != ManifestName && !list[name] && !metadata(name) {
			return failure(op, fmt.Sprintf("%q", name), fmt.Errorf("%w: the zip has it, file_list does not",
				ErrStructure))
		}
	}
	if a.o.Key != nil && a.manifest.Signature == "" {
		return failure(op, "", ErrUnsigned)
	}
	return nil
}

// stream unpacks every file into the writer that create returns for it, in list order, and compares
// the sums.
func (a *archive) stream(ctx context.Context, op string, create func(name string) (io.WriteCloser,
	error)) error {
	s := newSums(a.o.Key != nil)
	c := copier{ctx: ctx, total: a.total, progress: a.o.Progress}
	seen := map[string]bool{}
	for _, name := range a.manifest.FileList {
		name = path.Clean(name)
		into := create
		if seen[name] { // listed twice: it counts twice, and is there once
			into = func(string) (io.WriteCloser, error) { return discard{}, nil }
		}
		seen[name] = true
		if err := a.unpack(name, s, &c, into); err != nil {
			return failure(op, name, err)
		}
	}
	if err := s.check(a.manifest, a.o.Key); err != nil {
		return failure(op, "", err)
	}
	return nil
}

func (a *archive) unpack(name string, s *sums, c *copier, create func(string) (io.WriteCloser,
	error)) (err error) {
	in, err := a.entries[name].Open()
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := create(name)
	if err != nil {
		return err
	}
	defer func() {
		if e := out.Close(); err == nil {
			err = e
		}
	}()
	return c.copy(io.MultiWriter(out, s), in, name)
}

// failure returns an [Error] about a bundle. It has a sentinel for bad content, but not for a failed
// read or write.
func failure(op, object string, err error) error {
	if own := new(Error); errors.As(err, &own) && own.Op == op {
		return err
	}
	for _, corrupt := range []error{zip.ErrFormat, zip.ErrChecksum, zip.ErrAlgorithm, io.EOF,
		io.ErrUnexpectedEOF} {
		if errors.Is(err, corrupt) {
			err = fmt.Errorf("%w, or cut short: %w", ErrStructure, err)
			break
		}
	}
	if deflate := flate.CorruptInputError(0); errors.As(err, &deflate) {
		err = fmt.Errorf("%w, or cut short: %w", ErrStructure, err)
	}
	e := &Error{Op: op, Object: object, Err: err}
	for _, kind := range []error{ErrLimit, ErrUnsigned, ErrSignature, ErrStructure, ErrChecksum} {
		if e.Kind == nil && errors.Is(err, kind) {
			e.Kind = kind
		}
	}
	switch {
	case errors.Is(err, ErrLimit):
		e.Next = "raise the limit if you trust the bundle"
	case errors.Is(err, ErrUnsigned):
		e.Next = "build it with the private key, or leave the key out to check the rest"
	case errors.Is(err, ErrSignature):
		e.Next = "check that the key is the signer's; if it is, do not use the bundle"
	case errors.Is(err, ErrStructure), errors.Is(err, ErrChecksum):
		e.Next = "do not use the bundle: build or fetch it again"
	case errors.Is(err, fs.ErrExist):
		e.Next = "extract into a new directory"
	default:
		e.Retry = true
	}
	return e
}
