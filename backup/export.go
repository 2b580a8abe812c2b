package backup

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"

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

// Export writes the set to one file, a tar archive compressed with zstd (.tar.zst). With
// recipients, it is also encrypted with age (.tar.zst.age). Standard tools read both. Export checks
// every digest and refuses a damaged set. It replaces path only by the complete file, which only
// its owner can read. After kill -9, the next Export to the same path removes the leftovers.
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
	if err := atomicfile.Sweep(path); err != nil {
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

// packer compresses and then encrypts to w. done ends both.
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
	if _, err := s.signedBy(); err == nil {
		entries = append(entries, File{Path: signatureName, Size: -1})
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
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
	err = tw.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: s.ID + "/" + want.Path, Mode: 0o600,
		Size: info.Size(), ModTime: s.End, Format: tar.FormatPAX})
	if err != nil {
		return err
	}
	h := sha256.New()
	if _, err := io.Copy(tw, io.TeeReader(&step.ReadMeter{Ctx: ctx, R: f, Add: progress},
		h)); err != nil {
		return err
	}
	if got := hex.EncodeToString(h.Sum(nil)); want.SHA256 != "" && got != want.SHA256 {
		return fmt.Errorf("%w: its SHA-256 is %s, the manifest says %s", ErrDamaged, got, want.SHA256)
	}
	return nil
}
