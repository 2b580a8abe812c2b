package backup

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"filippo.io/age"
	"github.com/klauspost/compress/zstd"

	"example.com/tykupgrade/backup/internal/step"
	"example.com/tykupgrade/internal/atomicfile"
)

// ExportOptions changes how a set is exported. The zero value is useful.
type ExportOptions struct {
	Recipients []age.Recipient // who can read the export; none: it is not encrypted
	Progress   func(Event)     // called for one event at a time
}

// Export writes the set as one file: a tar archive compressed with zstd, to be
// named .tar.zst, and with recipients encrypted with age, to be named
// .tar.zst.age; standard tools read both. Every digest is checked on the way,
// so that a damaged set is not exported. path is replaced only by the whole
// file, which is readable by its owner alone.
func (s *Set) Export(ctx context.Context, path string, o ExportOptions) error {
	if err := step.OutsideSets(filepath.Dir(path)); err != nil {
		return step.Fail("export", s.Dir, err)
	}
	release, err := s.hold()
	if err != nil {
		return step.Fail("export", s.Dir, err)
	}
	defer release()
	findings, err := s.unexpected()
	if err = errors.Join(append(findings, err)...); err != nil {
		return step.Fail("export", s.Dir, err)
	}
	_, err = atomicfile.Write(ctx, path, atomicfile.Options{NoDigest: true}, func(w io.Writer) error {
		out, done, err := packer(w, o.Recipients)
		if err != nil {
			return err
		}
		return errors.Join(s.pack(ctx, out, step.Serial(o.Progress)), done())
	})
	if err != nil {
		return step.Fail("export", s.Dir, err)
	}
	return nil
}

// packer stacks compression on encryption on w; done ends both.
func packer(w io.Writer, recipients []age.Recipient) (out io.Writer, done func() error, err error) {
	closers := []io.Closer{}
	if len(recipients) > 0 {
		enc, err := age.Encrypt(w, recipients...)
		if err != nil {
			return nil, nil, err
		}
		w, closers = enc, append(closers, enc)
	}
	z, err := zstd.NewWriter(w, zstd.WithEncoderConcurrency(1))
	if err != nil {
		return nil, nil, err
	}
	return z, func() error {
		err := z.Close()
		for _, c := range closers {
			err = errors.Join(err, c.Close())
		}
		return err
	}, nil
}

func (s *Set) pack(ctx context.Context, w io.Writer, progress func(Event)) error {
	tw := tar.NewWriter(w)
	entries := []File{{Path: step.ManifestName, Size: -1}, {Path: step.ChecksumName, Size: -1}}
	for _, f := range s.Files {
		if f.Link == "" {
			entries = append(entries, f)
		}
	}
	e := Event{Phase: PhaseExport, TotalBytes: s.Bytes()}
	for _, want := range entries {
		e.Item = want.Path
		err := s.packFile(ctx, tw, want, func(n int64) {
			e.Bytes += n
			progress(e)
		})
		if err != nil {
			return step.Fail("export", want.Path, err)
		}
	}
	e.Done = true
	progress(e)
	return tw.Close()
}

func (s *Set) packFile(ctx context.Context, tw *tar.Writer, want File, progress func(int64)) error {
	f, err := step.OpenRegular(filepath.Join(s.Dir, filepath.FromSlash(want.Path)))
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if want.Size >= 0 && info.Size() != want.Size {
		return fmt.Errorf("%w: it has %d bytes, the manifest says %d", ErrDamaged, info.Size(), want.Size)
	}
	// The directory goes into the archive, so that unpacking by hand makes one.
	err = tw.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: s.ID + "/" + want.Path, Mode: 0o600, Size: info.Size(), ModTime: s.End, Format: tar.FormatPAX})
	if err != nil {
		return err
	}
	h := sha256.New()
	if _, err := io.Copy(tw, io.TeeReader(&step.ReadMeter{Ctx: ctx, R: f, Add: progress}, h)); err != nil {
		return err
	}
	if got := hex.EncodeToString(h.Sum(nil)); want.SHA256 != "" && got != want.SHA256 {
		return fmt.Errorf("%w: its SHA-256 is %s, the manifest says %s", ErrDamaged, got, want.SHA256)
	}
	return nil
}

// Import unpacks what [Set.Export] wrote into a new set below dir. With
// identities it takes an encrypted export only, and refuses any other with
// [ErrUnsafe]. Encryption with age keeps an export secret; it does not tell who
// made it, since anybody who has the recipient can encrypt.
// As with [Take] the set is verified up to
// [LevelStructure] before it gets its name, and nothing is left otherwise.
func Import(ctx context.Context, dir string, r io.Reader, identities ...age.Identity) (*Set, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, step.Fail("import into", dir, err)
	}
	if err := step.OutsideSets(dir); err != nil {
		return nil, step.Fail("import into", dir, err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, step.Fail("import into", dir, err)
	}
	unlock, err := lock(dir)
	if err != nil {
		return nil, step.Fail("import into", dir, err)
	}
	defer unlock()
	set, err := unpack(ctx, dir, r, identities)
	if err != nil {
		return nil, step.Fail("import into", dir, err)
	}
	return set, nil
}

func unpack(ctx context.Context, dir string, r io.Reader, identities []age.Identity) (_ *Set, err error) {
	in, closeIn, err := unpacker(&step.ReadMeter{Ctx: ctx, R: r}, identities)
	if err != nil {
		return nil, err
	}
	defer closeIn()
	u := &unpacking{ctx: ctx, tr: tar.NewReader(in), dir: dir}
	m, err := u.manifest()
	if err != nil {
		return nil, err
	}
	if _, err := os.Lstat(filepath.Join(dir, m.ID)); err == nil {
		return nil, fmt.Errorf("set %s: %w", m.ID, fs.ErrExist)
	}
	var need int64
	for _, f := range m.Files {
		need += f.Size
	}
	if err := step.CheckSpace(dir, need); err != nil {
		return nil, err
	}
	partial := partialDir(dir, m.ID)
	if err := errors.Join(os.RemoveAll(partial), os.Mkdir(partial, 0o700)); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.RemoveAll(partial))
		}
	}()
	if err := u.files(partial, m); err != nil {
		return nil, err
	}
	// What follows the archive's end must be the compressor's own end.
	if _, err := io.Copy(io.Discard, in); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	return publish(ctx, dir, m.ID, func(Event) {})
}

// unpacker recognises what the archive is wrapped in by its first bytes.
func unpacker(r io.Reader, identities []age.Identity) (io.Reader, func(), error) {
	b := bufio.NewReader(r)
	const ageIntro = "age-encryption.org/"
	if head, _ := b.Peek(len(ageIntro)); string(head) == ageIntro {
		if len(identities) == 0 {
			return nil, nil, errors.New("the export is encrypted with age; give an identity")
		}
		plain, err := age.Decrypt(b, identities...)
		if err != nil {
			return nil, nil, err
		}
		b = bufio.NewReader(plain)
	} else if len(identities) > 0 && len(head) > 0 {
		return nil, nil, &Error{Op: "read", Object: "export", Kind: ErrUnsafe, Err: errors.New("it is not encrypted, though an identity is given"),
			Next: "check who made it, then import it without an identity"}
	}
	if head, _ := b.Peek(4); !bytes.Equal(head, []byte{0x28, 0xb5, 0x2f, 0xfd}) {
		return nil, nil, fmt.Errorf("%w: neither a .tar.zst nor a .tar.zst.age of this package", ErrNotASet)
	}
	z, err := zstd.NewReader(b, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(256<<20))
	if err != nil {
		return nil, nil, err
	}
	return z, z.Close, nil
}

type unpacking struct {
	ctx context.Context
	tr  *tar.Reader
	dir string
	id  string

	raw []byte // manifest.json
	sum []byte // manifest.sha256
}

// next returns the header of the entry that must come now.
func (u *unpacking) next(want string) (*tar.Header, error) {
	h, err := u.tr.Next()
	if errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%w: it ends before %s", ErrDamaged, want)
	}
	if err != nil {
		if e := step.Ended(u.ctx); e != nil {
			return nil, e
		}
		return nil, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	id, name, _ := strings.Cut(h.Name, "/")
	if u.id == "" {
		u.id = id
	}
	if h.Typeflag != tar.TypeReg || id != u.id || name != want {
		return nil, fmt.Errorf("%w: entry %q where %q was expected", ErrDamaged, h.Name, u.id+"/"+want)
	}
	return h, nil
}

func (u *unpacking) small(name string) ([]byte, error) {
	h, err := u.next(name)
	if err != nil {
		return nil, err
	}
	if h.Size > maxManifest {
		return nil, fmt.Errorf("%w: %s has %d bytes", ErrDamaged, name, h.Size)
	}
	var b bytes.Buffer
	_, err = io.Copy(&b, u.tr)
	return b.Bytes(), err
}

func (u *unpacking) manifest() (_ *Manifest, err error) {
	if u.raw, err = u.small(step.ManifestName); err != nil {
		return nil, err
	}
	if u.sum, err = u.small(step.ChecksumName); err != nil {
		return nil, err
	}
	m, err := ParseManifest(u.raw)
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(u.sum, m.checksums(u.raw)) || m.ID != u.id {
		return nil, fmt.Errorf("%w: %s does not belong to %s", ErrDamaged, step.ChecksumName, step.ManifestName)
	}
	return m, nil
}

// files unpacks what the manifest lists, in its order, and the two files that
// make the directory a set last.
func (u *unpacking) files(partial string, m *Manifest) error {
	for _, c := range m.Components {
		if err := os.MkdirAll(filepath.Join(partial, filepath.FromSlash(c.Name)), 0o700); err != nil {
			return err
		}
	}
	for _, f := range m.Files {
		if f.Link != "" {
			continue
		}
		if _, err := u.next(f.Path); err != nil {
			return err
		}
		path := filepath.Join(partial, filepath.FromSlash(f.Path))
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			return err
		}
		sum, err := atomicfile.Write(u.ctx, path, atomicfile.Options{NoSync: true}, func(w io.Writer) error {
			_, err := io.Copy(w, io.LimitReader(u.tr, f.Size+1))
			return err
		})
		if err != nil {
			return err
		}
		if sum.Size != f.Size || sum.SHA256 != f.SHA256 {
			return fmt.Errorf("%s: %w: size or SHA-256 is not as in the manifest", f.Path, ErrDamaged)
		}
	}
	if _, err := u.tr.Next(); !errors.Is(err, io.EOF) {
		return fmt.Errorf("%w: entries after the last file (%v)", ErrDamaged, err)
	}
	for _, f := range []struct {
		name string
		data []byte
	}{{step.ManifestName, u.raw}, {step.ChecksumName, u.sum}} {
		if _, err := atomicfile.WriteBytes(u.ctx, filepath.Join(partial, f.name), atomicfile.Options{}, f.data); err != nil {
			return err
		}
	}
	return nil
}
