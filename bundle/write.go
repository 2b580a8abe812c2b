package bundle

import (
	"archive/zip"
	"context"
	"crypto"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"path"

	"example.com/tykupgrade/internal/atomicfile"
)

// Options changes how a bundle is written. The zero value writes an unsigned one.
type Options struct {
	// Signer signs the bundle. Its key must be RSA. [ParsePrivateKey] returns such a signer; key
	// services and hardware modules work too. nil: unsigned.
	Signer crypto.Signer

	// Limits as in [VerifyOptions]. Write refuses with [ErrLimit] a bundle that [Verify] with the
	// same limits would refuse. 0: the defaults.
	MaxSize  int64
	MaxFiles int
	MaxRatio int64

	// Progress is called in the calling goroutine after each piece that was read. nil: never.
	Progress func(Event)
}

// Event reports the progress of reading, writing or extracting a bundle.
type Event struct {
	File  string // the file being read
	Done  int64  // bytes, over all files
	Total int64
}

// Result describes the bundle that was written.
type Result struct {
	Manifest *Manifest // as written: with checksum and signature
	Size     int64     // bytes
	SHA256   string    // of the zip, lower-case hex
}

// Name returns a file name that changes with the bundle's content: "<stem>-<12 digits of
// SHA256>.zip". Use it for an archive of bundles. To switch running gateways, keep the name that
// the APIs use: see [Mode].
func (r Result) Name(stem string) string {
	return stem + "-" + r.SHA256[:min(12, len(r.SHA256))] + ".zip"
}

// Write writes a bundle to w: the files of m from src in the order of file_list, then
// manifest.json. It does not change m; the manifest in the result has checksum and signature. Equal
// input gives equal bytes on every machine. Write needs about 12 MiB of memory for a bundle of any
// size.
//
// Without a signer the signature is empty, even if m has one, because that one may belong to other
// files. "tyk bundle build" keeps it; this is the only difference between the manifests.
//
// Findings of severity [Refused] are an error of kind [ErrManifest], and exceeded limits one of
// kind [ErrLimit]. After an error, do not use the data in w; [WriteFile] leaves none.
func Write(w io.Writer, src fs.FS, m *Manifest, o Options) (Result, error) {
	return write(context.Background(), w, src, m, o)
}

// WriteFile writes the bundle to a file with mode 0644. The file appears when it is complete and on
// disk. After an error, or if ctx ends, an earlier file is unchanged and no temporary file is left.
// After a kill a temporary file may be left. A path that is a directory or a symbolic link is
// refused.
func WriteFile(ctx context.Context, path string, src fs.FS, m *Manifest,
	o Options) (Result, error) {
	var result Result
	var failed error
	_, err := atomicfile.Write(ctx, path, atomicfile.Options{Mode: 0o644, NoDigest: true},
		func(w io.Writer) error {
			result, failed = write(ctx, w, src, m, o)
			return failed
		})
	switch {
	case failed != nil:
		return Result{}, failed
	case err != nil:
		return Result{}, &Error{Op: "write bundle", Err: err, Retry: !errors.Is(err,
			atomicfile.ErrNotRegular)}
	}
	return result, nil
}

func write(ctx context.Context, w io.Writer, src fs.FS, m *Manifest, o Options) (Result, error) {
	if m == nil || src == nil {
		return Result{}, &Error{Op: "write bundle", Err: errors.New("no manifest or no files given")}
	}
	v := &validation{m: m, src: src}
	if refused := v.refused(); len(refused) > 0 {
		return Result{}, &Error{Op: "write bundle", Kind: ErrManifest, Findings: refused}
	}
	limits, err := (VerifyOptions{MaxSize: o.MaxSize, MaxFiles: o.MaxFiles, MaxRatio: o.MaxRatio}).
		limits("write bundle")
	if err != nil {
		return Result{}, err
	}
	if err := limits.count(len(m.FileList)); err != nil {
		return Result{}, failure("write bundle", "", err)
	}
	if err := limits.size(v.total); err != nil {
		return Result{}, failure("write bundle", "", err)
	}
	var public *rsa.PublicKey
	if o.Signer != nil {
		var err error
		if public, err = checkSigner(o.Signer); err != nil {
			return Result{}, err
		}
	}

	var d deflater
	defer d.wait()
	out := &counter{w: w, hash: sha256.New()}
	z := zip.NewWriter(out)
	z.RegisterCompressor(zip.Deflate, d.open)
	s := newSums(o.Signer != nil)
	c := copier{ctx: ctx, total: v.total, progress: o.Progress}
	headers := make([]*zip.FileHeader, 0, len(m.FileList))
	for _, name := range m.FileList {
		// No time and no mode, as tyk bundle build does it: they would differ from machine to machine.
		h := &zip.FileHeader{Name: name, Method: zip.Deflate}
		headers = append(headers, h)
		if err := addFile(z, s, &c, src, h); err != nil {
			return Result{}, &Error{Op: "write bundle", Object: name, Err: err, Retry: true}
		}
	}
	done := m.clone()
	done.Checksum, done.Signature = s.checksum(), ""
	if o.Signer != nil {
		var err error
		if done.Signature, err = s.sign(o.Signer, public); err != nil {
			return Result{}, err
		}
	}
	entry, err := z.Create(ManifestName)
	var n int64
	if err == nil {
		n, err = done.WriteTo(entry)
	}
	if err == nil {
		err = z.Close()
	}
	if err != nil {
		return Result{}, &Error{Op: "write bundle", Object: ManifestName, Err: err, Retry: true}
	}
	if n > maxManifest {
		return Result{}, failure("write bundle", ManifestName, fmt.Errorf("%w: %d bytes, at most %d",
			ErrLimit, n, maxManifest))
	}
	for _, h := range headers { // the sizes are known now
		if err := limits.ratio(h); err != nil {
			return Result{}, failure("write bundle", h.Name, err)
		}
	}
	return Result{Manifest: done, Size: out.n, SHA256: hex.EncodeToString(out.hash.Sum(nil))}, nil
}

func addFile(z *zip.Writer, s *sums, c *copier, src fs.FS, h *zip.FileHeader) error {
	f, err := src.Open(path.Clean(h.Name))
	if err != nil {
		return err
	}
	defer f.Close()
	entry, err := z.CreateHeader(h)
	if err != nil {
		return err
	}
	return c.copy(io.MultiWriter(s, entry), f, h.Name)
}

// copier copies several files, reporting progress over all of them.
type copier struct {
	ctx         context.Context
	done, total int64
	progress    func(Event)
	buf         []byte
}

func (c *copier) copy(dst io.Writer, src io.Reader, name string) error {
	if c.buf == nil {
		c.buf = make([]byte, 256<<10)
	}
	for {
		if err := c.ctx.Err(); err != nil {
			if cause := context.Cause(c.ctx); cause != err {
				err = fmt.Errorf("%w: %w", err, cause)
			}
			return err
		}
		n, err := src.Read(c.buf)
		if _, err := dst.Write(c.buf[:n]); err != nil {
			return err
		}
		if c.done += int64(n); c.progress != nil && n > 0 {
			c.progress(Event{File: name, Done: c.done, Total: c.total})
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// counter counts and digests the bytes that pass through.
type counter struct {
	w    io.Writer
	hash hash.Hash
	n    int64
}

func (c *counter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += int64(n)
	_, _ = c.hash.Write(p[:n])
	return n, err
}
