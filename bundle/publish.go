package bundle

import (
	"context"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"example.com/tykupgrade/internal/atomicfile"
)

// Digest identifies a file by its size and content.
type Digest struct {
	Size   int64  `json:"size"`
	SHA256 string `json:"sha256"` // lower-case hex
}

// DigestFile reads the file at path and returns its digest.
func DigestFile(path string) (Digest, error) {
	f, err := os.Open(path)
	if err != nil {
		return Digest{}, err
	}
	defer f.Close()
	h := sha256.New()
	n, err := io.Copy(h, f)
	return Digest{n, hex.EncodeToString(h.Sum(nil))}, err
}

// Publication replaces a bundle in a directory that a bundle server serves. The old bundle stays
// next to the new one, hidden, until the publication is accepted or reverted.
//
// Two files next to the bundle keep the state: the record .NAME.publication and the old bundle
// .NAME.kept. Every method may be called again, also after a kill -9 at any moment, and continues
// from the state that it finds. Readers of the bundle see the old file or the new one, each as a
// whole. A lock on Dir excludes other processes: the second call fails with [ErrLocked] and may be
// retried.
type Publication struct {
	Dir  string // the served directory; nobody but its owner and root may write there
	Name string // the bundle's name in the APIs
	Run  string // id of the run; another run is refused until this one is accepted or reverted

	// Key is the key that must have signed a published file. Publish checks the signature of
	// [SignFile] next to the file. A missing signature is refused with [ErrUnsigned] and a wrong
	// one with [ErrSignature], before anything changes. nil: any file is published.
	Key *rsa.PublicKey
}

// State is the progress of a publication.
type State string

// The states of a publication.
const (
	StateNone      State = "none"      // no record; nothing to revert or accept
	StatePrepared  State = "prepared"  // recorded; the old bundle is still served
	StatePublished State = "published" // the new bundle is served
	StateAccepted  State = "accepted"  // accepted; Accept has not yet removed all files
)

// Record is the state that a publication keeps on disk.
type Record struct {
	Run      string  `json:"run"`
	Old      *Digest `json:"old"` // nil: no bundle had the name
	New      Digest  `json:"new"`
	Accepted bool    `json:"accepted,omitempty"`
}

func (p Publication) path() string   { return filepath.Join(p.Dir, p.Name) }
func (p Publication) record() string { return filepath.Join(p.Dir, "."+p.Name+".publication") }

// Kept returns the path of the old bundle. The file exists from Publish until Accept or Revert.
func (p Publication) Kept() string { return filepath.Join(p.Dir, "."+p.Name+".kept") }

func (p Publication) fail(op string, kind, err error, hint string) error {
	return &Error{Op: op, Object: p.path(), Kind: kind, Err: err, Next: hint, Retry: kind == nil}
}

func (p Publication) check(op string) error {
	if p.Name == "" || p.Name != filepath.Base(p.Name) || strings.HasPrefix(p.Name, ".") ||
		p.Run == "" || !filepath.IsAbs(p.Dir) {
		return &Error{Op: op, Object: p.Name, Err: errors.New("want a bare file name, a run and an " +
			"absolute directory")}
	}
	info, err := os.Stat(p.Dir)
	if err != nil {
		return p.fail(op, nil, err, "name the directory that the bundle server serves")
	}
	if !info.IsDir() {
		return &Error{Op: op, Object: p.Dir, Err: errors.New("not a directory")}
	}
	if info.Mode().Perm()&0o002 != 0 && info.Mode()&fs.ModeSticky == 0 {
		return &Error{Op: op, Object: p.Dir, Err: errors.New("everybody can write there"),
			Next: "chmod o-w " + p.Dir}
	}
	return nil
}

// read returns the record, or nil without one.
func (p Publication) read(op string) (*Record, error) {
	info, err := os.Lstat(p.record())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, p.fail(op, nil, err, "")
	}
	if stat, ok := info.Sys().(*syscall.Stat_t); !info.Mode().IsRegular() ||
		info.Mode().Perm()&0o022 != 0 ||
		ok && int(stat.Uid) != os.Geteuid() && stat.Uid != 0 {
		return nil, p.fail(op, ErrChanged, fmt.Errorf("others can write %s", p.record()),
			"check who made it, then remove it")
	}
	data, err := os.ReadFile(p.record())
	if err != nil {
		return nil, p.fail(op, nil, err, "")
	}
	r := &Record{}
	if err := json.Unmarshal(data, r); err != nil || r.Run == "" || len(r.New.SHA256) != 64 {
		return nil, p.fail(op, ErrChanged, fmt.Errorf("%s is not a record: %w", p.record(),
			errors.Join(err, fs.ErrInvalid)), "compare it with the bundle, then remove it")
	}
	return r, nil
}

func (p Publication) write(ctx context.Context, r *Record) error {
	data, err := json.Marshal(r)
	if err != nil {
		return err
	}
	_, err = atomicfile.Write(ctx, p.record(), atomicfile.Options{Mode: 0o644, NoDigest: true},
		func(w io.Writer) error {
			_, err := w.Write(append(data, '\n'))
			return err
		})
	return err
}

// lock excludes other processes. The kernel releases it with the process.
func (p Publication) lock(op string) (func(), error) {
	d, err := os.Open(p.Dir)
	if err != nil {
		return nil, p.fail(op, nil, err, "")
	}
	if err := syscall.Flock(int(d.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		_ = d.Close()
		return nil, &Error{Op: op, Object: p.Dir, Kind: ErrLocked, Next: "wait for it", Retry: true}
	}
	return func() { _ = atomicfile.UnlockClose(d) }, nil
}

// begin checks, locks and reads the record of this run.
func (p Publication) begin(op string) (*Record, func(), error) {
	if err := p.check(op); err != nil {
		return nil, nil, err
	}
	unlock, err := p.lock(op)
	if err != nil {
		return nil, nil, err
	}
	r, err := p.read(op)
	if err == nil {
		err = p.clean(op)
	}
	if err == nil && r != nil && r.Run != p.Run {
		err = p.fail(op, ErrPublished, fmt.Errorf("run %s", r.Run), "accept or revert that run first")
	}
	if err != nil {
		unlock()
		return nil, nil, err
	}
	return r, unlock, nil
}

// clean removes the temporary files of a killed process.
func (p Publication) clean(op string) error {
	entries, err := os.ReadDir(p.Dir)
	for _, e := range entries {
		for _, path := range []string{p.path(), p.Kept(), p.record()} {
			if strings.HasPrefix(e.Name(), "."+filepath.Base(path)+".tmp-") {
				err = errors.Join(err, os.Remove(filepath.Join(p.Dir, e.Name())))
			}
		}
	}
	if err != nil {
		return p.fail(op, nil, err, "")
	}
	return nil
}

// now returns the digest of the served file, or nil.
func (p Publication) now() (*Digest, error) { return digestOf(p.path()) }

func digestOf(path string) (*Digest, error) {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, nil
	case err != nil:
		return nil, err
	case !info.Mode().IsRegular():
		return nil, fmt.Errorf("%s %w", path, atomicfile.ErrNotRegular)
	}
	d, err := DigestFile(path)
	return &d, err
}

func same(a, b *Digest) bool { return a == nil && b == nil || a != nil && b != nil && *a == *b }

// State returns the state and the record of any run that has published under this name. The record
// is nil for [StateNone]. State takes no lock and changes nothing.
func (p Publication) State() (State, *Record, error) {
	const op = "read publication"
	r, err := p.read(op)
	if err != nil || r == nil {
		return StateNone, nil, err
	}
	if r.Accepted {
		return StateAccepted, r, nil
	}
	now, err := p.now()
	if err != nil {
		return "", r, p.fail(op, nil, err, "")
	}
	if same(now, &r.New) {
		return StatePublished, r, nil
	}
	return StatePrepared, r, nil
}

// Publish serves file under the name. It writes the record first, then copies the old bundle aside
// and compares the copy, and then replaces the bundle. A second call with the same run and file
// continues an interrupted one or does nothing. After an error the old bundle or the new one is
// served as a whole. Errors of kind [ErrPublished] or [ErrChanged] change nothing.
func (p Publication) Publish(ctx context.Context, file string) (Record, error) {
	const op = "publish bundle"
	r, unlock, err := p.begin(op)
	if err != nil {
		return Record{}, err
	}
	defer unlock()
	next, err := DigestFile(file)
	if err != nil {
		return Record{}, p.fail(op, nil, err, "")
	}
	if p.Key != nil {
		if err := verifyBeside(file, next, p.Key); err != nil {
			return Record{}, err
		}
	}
	now, err := p.now()
	if err != nil {
		return Record{}, p.fail(op, nil, err, "")
	}
	switch {
	case r == nil:
		r = &Record{Run: p.Run, Old: now, New: next}
		if err := p.write(ctx, r); err != nil {
			return Record{}, p.fail(op, nil, err, "")
		}
	case r.Accepted:
		return Record{}, p.fail(op, ErrAccepted, nil, "give the next publication its own run")
	case r.New != next:
		return Record{}, p.fail(op, ErrPublished, errors.New("the same run published other content"),
			"revert it first")
	}
	if same(now, &r.New) {
		return *r, nil
	}
	if !same(now, r.Old) {
		return Record{}, p.fail(op, ErrChanged, nil, "compare it with "+p.Kept()+
			" and decide which one is right")
	}
	if r.Old != nil {
		if kept, err := digestOf(p.Kept()); err != nil || !same(kept, r.Old) {
			if err := p.copy(ctx, p.path(), p.Kept(), *r.Old, 0o600); err != nil {
				return Record{}, p.fail(op, nil, err, "")
			}
		}
	}
	if err := p.copy(ctx, file, p.path(), next, 0o644); err != nil {
		return Record{}, p.fail(op, nil, err, "")
	}
	return *r, nil
}

// copy writes from to the name to and compares what it read with want.
func (p Publication) copy(ctx context.Context, from, to string, want Digest,
	mode fs.FileMode) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	o := atomicfile.Options{Mode: mode, NoDigest: true}
	// A file that the web server's user owns stays that user's.
	if old, err := os.Lstat(p.path()); err == nil && os.Geteuid() == 0 && old.Mode().IsRegular() {
		if stat, ok := old.Sys().(*syscall.Stat_t); ok {
			o.Owner = &atomicfile.Owner{UID: int(stat.Uid), GID: int(stat.Gid)}
		}
		o.Mode = old.Mode().Perm()
	}
	_, err = atomicfile.Write(ctx, to, o, func(w io.Writer) error {
		h := sha256.New()
		n, err := io.Copy(io.MultiWriter(w, h), in)
		if err == nil && (Digest{n, hex.EncodeToString(h.Sum(nil))}) != want {
			err = fmt.Errorf("%s changed while it was read", from)
		}
		return err
	})
	return err
}

// Revert serves the old bundle again and removes the record. If no bundle had the name before,
// Revert removes the new one. Without a record it does nothing. If the publication is being
// accepted, the error is of kind [ErrAccepted]. If somebody else changed the bundle, the error is
// of kind [ErrChanged], and nothing changes.
func (p Publication) Revert(ctx context.Context) error {
	const op = "revert publication"
	r, unlock, err := p.begin(op)
	if err != nil {
		return err
	}
	defer unlock()
	if r == nil {
		return nil
	}
	if r.Accepted {
		return p.fail(op, ErrAccepted, nil, "publish the old bundle from your own copy")
	}
	now, err := p.now()
	if err != nil {
		return p.fail(op, nil, err, "")
	}
	switch {
	case same(now, r.Old):
	case !same(now, &r.New):
		return p.fail(op, ErrChanged, nil, "compare it with "+p.Kept()+" and decide which one is right")
	case r.Old == nil:
		if err := errors.Join(os.Remove(p.path()), atomicfile.SyncDir(p.Dir)); err != nil {
			return p.fail(op, nil, err, "")
		}
	default:
		if kept, err := digestOf(p.Kept()); err != nil || !same(kept, r.Old) {
			return p.fail(op, ErrChanged, errors.Join(err, fmt.Errorf("%s is not the old bundle", p.Kept())),
				"publish the old bundle from your own copy")
		}
		if err := p.copy(ctx, p.Kept(), p.path(), *r.Old, 0o644); err != nil {
			return p.fail(op, nil, err, "")
		}
	}
	return p.forget(op)
}

// Accept removes the old bundle and the record; a revert is then no longer possible. Without a
// record it does nothing. If the new bundle is not the served one, the error is of kind
// [ErrChanged].
func (p Publication) Accept(ctx context.Context) error {
	const op = "accept publication"
	r, unlock, err := p.begin(op)
	if err != nil {
		return err
	}
	defer unlock()
	if r == nil {
		return nil
	}
	if !r.Accepted {
		now, err := p.now()
		if err != nil {
			return p.fail(op, nil, err, "")
		}
		if !same(now, &r.New) {
			return p.fail(op, ErrChanged, errors.New("the new bundle is not served"),
				"publish it, or revert")
		}
		r.Accepted = true // first, so that a revert never looks for what is gone
		if err := p.write(ctx, r); err != nil {
			return p.fail(op, nil, err, "")
		}
	}
	return p.forget(op)
}

// forget removes what a finished publication leaves, the record last.
func (p Publication) forget(op string) error {
	for _, path := range []string{p.Kept(), p.record()} {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return p.fail(op, nil, err, "")
		}
	}
	if err := atomicfile.SyncDir(p.Dir); err != nil {
		return p.fail(op, nil, err, "")
	}
	return nil
}
