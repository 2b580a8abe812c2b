package backup

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"crypto"
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

// ImportOptions changes which exports are accepted. The zero value accepts any export that is not
// encrypted.
type ImportOptions struct {
	// decrypt the export; with identities, an export that is not encrypted is an [ErrUnsafe]
	Identities []age.Identity
	AllowPlain bool // with Identities: accept an export that is not encrypted too
	// one of these keys must have signed the set, see [Set.VerifySignature]; empty: none
	RequireSignature []crypto.PublicKey
}

// Import unpacks an export of [Set.Export] into a new set below dir. As in [Take], the set is
// verified up to [LevelStructure] before it gets its name. After an error nothing is left.
//
// Encryption with age keeps an export secret. It does not show who made it, because anybody with
// the recipient can encrypt. A signature does.
func Import(ctx context.Context, dir string, r io.Reader, o ImportOptions) (*Set, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, step.Fail("import into", dir, err)
	}
	if err := step.OutsideSets(dir); err != nil {
		return nil, step.Fail("import into", dir, err)
	}
	in, closeIn, err := unpacker(&step.ReadMeter{Ctx: ctx, R: r}, o)
	if err != nil {
		return nil, step.Fail("import into", dir, err)
	}
	defer closeIn()
	u := &unpacking{ctx: ctx, in: in, tr: tar.NewReader(in), dir: dir}
	m, err := u.manifest()
	if err != nil {
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
	if err := sweep(dir); err != nil {
		return nil, step.Fail("remove leftovers in", dir, err)
	}
	set, err := u.unpack(m, o)
	if err != nil {
		return nil, step.Fail("import into", dir, err)
	}
	return set, nil
}

func (u *unpacking) unpack(m *Manifest, o ImportOptions) (_ *Set, err error) {
	ctx, dir := u.ctx, u.dir
	if _, err := os.Lstat(filepath.Join(dir, m.ID)); err == nil {
		return nil, &step.Error{Op: "import into", Object: dir,
			Err:  fmt.Errorf("set %s exists already: %w", m.ID, fs.ErrExist),
			Next: "use that set, or import into another directory"}
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
	// Only the compressor's own end may follow the end of the archive.
	if _, err := io.Copy(io.Discard, u.in); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	if len(o.RequireSignature) > 0 {
		set, err := open(partial)
		if err == nil {
			err = set.VerifySignature(o.RequireSignature...)
		}
		if err != nil {
			return nil, err
		}
	}
	return publish(ctx, dir, m.ID, func(Event) {})
}

// unpacker detects encryption and compression by the first bytes.
func unpacker(r io.Reader, o ImportOptions) (io.Reader, func(), error) {
	b := bufio.NewReader(r)
	const ageIntro = "age-encryption.org/"
	if head, _ := b.Peek(len(ageIntro)); string(head) == ageIntro {
		if len(o.Identities) == 0 {
			return nil, nil, &Error{Op: "decrypt", Object: "the export",
				Err: errors.New("it is encrypted with age"), Next: "give the identity that decrypts it"}
		}
		plain, err := age.Decrypt(b, o.Identities...)
		if err != nil {
			return nil, nil, err
		}
		b = bufio.NewReader(plain)
	} else if len(o.Identities) > 0 && !o.AllowPlain && len(head) > 0 {
		return nil, nil, &Error{Op: "read", Object: "export", Kind: ErrUnsafe,
			Err:  errors.New("it is not encrypted, although Identities is set"),
			Next: "check who made it, then set AllowPlain"}
	}
	if head, _ := b.Peek(4); !bytes.Equal(head, []byte{0x28, 0xb5, 0x2f, 0xfd}) {
		return nil, nil, &Error{Op: "read", Object: "export", Kind: ErrNotASet,
			Err:  errors.New("it is neither a .tar.zst nor a .tar.zst.age of this package"),
			Next: "use a file that Export wrote"}
	}
	z, err := zstd.NewReader(b, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(256<<20))
	if err != nil {
		return nil, nil, err
	}
	return z, z.Close, nil
}

type unpacking struct {
	ctx context.Context
	in  io.Reader // unpacked, including bytes after the archive's end
	tr  *tar.Reader
	dir string
	id  string

	raw    []byte      // manifest.json
	sum    []byte      // manifest.sha256
	sig    []byte      // manifest.json.sig, empty if the set is not signed
	peeked *tar.Header // read, but not returned yet
}

// peek returns the next header and leaves it for next.
func (u *unpacking) peek() (h *tar.Header, err error) {
	if u.peeked == nil {
		u.peeked, err = u.tr.Next()
	}
	return u.peeked, err
}

// next returns the header of the next entry, which must be want.
func (u *unpacking) next(want string) (*tar.Header, error) {
	h, err := u.peek()
	if errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%w: it ends before %s", ErrDamaged, want)
	}
	if err != nil {
		if e := step.Ended(u.ctx); e != nil {
			return nil, e
		}
		return nil, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	u.peeked = nil
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
	if h, err := u.peek(); err == nil && h.Name == u.id+"/"+signatureName {
		if u.sig, err = u.small(signatureName); err != nil {
			return nil, err
		}
	}
	m, err := ParseManifest(u.raw)
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(u.sum, m.checksums(u.raw)) || m.ID != u.id {
		return nil, fmt.Errorf("%w: %s does not belong to %s", ErrDamaged, step.ChecksumName,
			step.ManifestName)
	}
	return m, nil
}

// files unpacks the files in the order of the manifest. The two files that make the directory a set
// come last.
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
		sum, err := atomicfile.Write(u.ctx, path, atomicfile.Options{NoSync: true},
			func(w io.Writer) error {
				_, err := io.Copy(w, io.LimitReader(u.tr, f.Size+1))
				return err
			})
		if err != nil {
			return err
		}
		if sum.Size != f.Size || sum.SHA256 != f.SHA256 {
			return fmt.Errorf("%s: %w: size or SHA-256 differs from the manifest", f.Path, ErrDamaged)
		}
	}
	if _, err := u.peek(); !errors.Is(err, io.EOF) {
		return fmt.Errorf("%w: entries after the last file (%v)", ErrDamaged, err)
	}
	for _, f := range []struct {
		name string
		data []byte
	}{{signatureName, u.sig}, {step.ManifestName, u.raw}, {step.ChecksumName, u.sum}} {
		if len(f.data) == 0 {
			continue
		}
		if _, err := atomicfile.WriteBytes(u.ctx, filepath.Join(partial, f.name), atomicfile.Options{},
			f.data); err != nil {
			return err
		}
	}
	return nil
}
