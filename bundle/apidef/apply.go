package apidef

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"example.com/tykupgrade/internal/atomicfile"
)

// Apply carries out a plan on a store. It first writes the file journal, which holds the documents
// for [Revert] and is readable only by its owner. The journal must not be in the directory of a
// [Directory].
//
// If the journal exists, it must be of the same plan. Apply then continues the work of a killed
// process and skips APIs that have the new document. If an API holds a third document, the error is
// of kind [ErrChanged], and Apply writes nothing. If a write fails or ctx ends, Apply restores the
// written APIs. If that fails too, the error is of kind [ErrPartial]; call Apply or Revert again.
func Apply(ctx context.Context, s Store, p *Plan, journal string) error {
	const op = "apply bundle change"
	if p == nil || len(p.Edits) == 0 {
		return &Error{Op: op, Err: errors.New("no plan given")}
	}
	unlock, err := lock(op, journal)
	if err != nil {
		return err
	}
	defer unlock()
	if d, ok := s.(Directory); ok && sameDir(d.Path, filepath.Dir(journal)) {
		return &Error{Op: op, Object: journal, Err: errors.New("the journal is in app_path"),
			Next: "name a journal elsewhere"}
	}
	if err := clean(journal); err != nil {
		return &Error{Op: op, Object: journal, Err: err, Retry: true}
	}
	kept, err := ReadJournal(journal)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if err := writeJournal(ctx, journal, p); err != nil {
			return &Error{Op: op, Object: journal, Err: err, Retry: true}
		}
	case err != nil:
		return err
	case kept.digest() != p.digest():
		return &Error{Op: op, Object: journal, Kind: ErrJournal,
			Next: "apply or revert that plan first, see ReadJournal"}
	}
	// Read everything before writing anything.
	found, err := look(ctx, op, s, p)
	if err != nil {
		return err
	}
	var done []API
	for i, e := range p.Edits {
		if err = write(ctx, s, found[i], e.Next); err != nil {
			break
		}
		done = append(done, e.Next)
	}
	if err == nil {
		err = commit(ctx, s, done)
	}
	if err == nil {
		return nil
	}
	// Even if ctx has ended, restore the changed APIs.
	back, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
	defer cancel()
	if failed := revert(back, op, s, p); failed != nil {
		return &Error{Op: op, Kind: ErrPartial, Err: errors.Join(err, failed),
			Next: "call Apply or Revert again", Retry: true}
	}
	return &Error{Op: op, Err: fmt.Errorf("%w; every API has its former document again", err),
		Retry: true}
}

// Revert restores the exact documents that the plan in the journal read, and removes the journal.
// It may be called at any time, also twice. Revert skips an API that holds a third document, names
// it in the error, restores the others and keeps the journal. Without a journal it does nothing.
func Revert(ctx context.Context, s Store, journal string) error {
	const op = "revert bundle change"
	unlock, err := lock(op, journal)
	if err != nil {
		return err
	}
	defer unlock()
	p, err := ReadJournal(journal)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := revert(ctx, op, s, p); err != nil {
		return err
	}
	return remove(op, journal)
}

// Accept removes the journal. A revert is then no longer possible. Without a journal it does
// nothing.
func Accept(journal string) error {
	const op = "accept bundle change"
	unlock, err := lock(op, journal)
	if err != nil {
		return err
	}
	defer unlock()
	return remove(op, journal)
}

func remove(op, journal string) error {
	err := os.Remove(journal)
	if err == nil {
		err = atomicfile.SyncDir(filepath.Dir(journal))
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return &Error{Op: op, Object: journal, Err: err, Retry: true}
	}
	return nil
}

// look reads every API. A third document is an error of kind [ErrChanged].
func look(ctx context.Context, op string, s Store, p *Plan) ([]API, error) {
	found := make([]API, len(p.Edits))
	for i, e := range p.Edits {
		var err error
		if found[i], err = s.API(ctx, e.Was.ID); err != nil {
			return nil, err
		}
		if err := e.knows(op, s, found[i]); err != nil {
			return nil, err
		}
	}
	return found, nil
}

// knows refuses a document that is neither of the two. For an OAS API in a directory, one form may
// be written and the other not.
func (e Edit) knows(op string, s Store, now API) error {
	if sameIn(s, now, e.Next) || sameIn(s, now, e.Was) ||
		oneOf(now.Classic, e.Was.Classic, e.Next.Classic) && oneOf(now.OAS, e.Was.OAS, e.Next.OAS) {
		return nil
	}
	return &Error{Op: op, Object: e.Was.ID, Kind: ErrChanged,
		Next: "check who changed it, then revert the others or plan again"}
}

// write makes want the document of an API. A [Committer] does not show writes that have not taken
// effect, so write always repeats those.
func write(ctx context.Context, s Store, now, want API) error {
	if _, later := s.(Committer); !later && sameIn(s, now, want) {
		return nil
	}
	return s.Replace(ctx, now, want)
}

// revert restores the documents, the last edit first, and joins the errors.
func revert(ctx context.Context, op string, s Store, p *Plan) error {
	var failed []error
	var done []API
	for i := len(p.Edits) - 1; i >= 0; i-- {
		e := p.Edits[i]
		now, err := s.API(ctx, e.Was.ID)
		if err == nil {
			if err = e.knows(op, s, now); err == nil {
				err = write(ctx, s, now, e.Was)
			}
		}
		if err != nil {
			failed = append(failed, err)
			continue
		}
		done = append(done, e.Was)
	}
	return errors.Join(errors.Join(failed...), commit(ctx, s, done))
}

func commit(ctx context.Context, s Store, changed []API) error {
	if c, ok := s.(Committer); ok && len(changed) > 0 {
		return c.Commit(ctx, changed)
	}
	return nil
}

// lock excludes other processes from the journal's directory. The kernel releases it with the
// process.
func lock(op, journal string) (func(), error) {
	dir, err := os.Open(filepath.Dir(journal))
	if err != nil {
		return nil, &Error{Op: op, Object: journal, Err: err,
			Next: "name a journal in a directory that exists"}
	}
	if err := syscall.Flock(int(dir.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		_ = dir.Close()
		return nil, &Error{Op: op, Object: filepath.Dir(journal), Kind: ErrLocked, Next: "wait for it",
			Retry: true}
	}
	return func() { _ = atomicfile.UnlockClose(dir) }, nil
}

func sameDir(a, b string) bool {
	x, err1 := os.Stat(a)
	y, err2 := os.Stat(b)
	return err1 == nil && err2 == nil && os.SameFile(x, y)
}

func writeJournal(ctx context.Context, path string, p *Plan) error {
	data, err := json.Marshal(p)
	if err != nil {
		return err
	}
	_, err = atomicfile.Write(ctx, path, atomicfile.Options{Mode: 0o600, NoDigest: true},
		func(w io.Writer) error {
			_, err := w.Write(append(data, '\n'))
			return err
		})
	return err
}

// ReadJournal returns the plan in a journal. A missing file is an error that matches
// fs.ErrNotExist. A damaged file, or one that another user owns or can write, is an error of kind
// [ErrJournal].
func ReadJournal(path string) (*Plan, error) {
	const op = "read journal"
	info, err := os.Lstat(path)
	if err != nil {
		return nil, &Error{Op: op, Object: path, Err: err}
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !info.Mode().IsRegular() || info.Mode().Perm()&0o022 != 0 || ok &&
		int(stat.Uid) != os.Geteuid() {
		return nil, &Error{Op: op, Object: path, Kind: ErrJournal, Err: errors.New("others can write it"),
			Next: "check who made it, then remove it"}
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, &Error{Op: op, Object: path, Err: err}
	}
	p := &Plan{}
	if err := json.Unmarshal(data, p); err != nil || len(p.Edits) == 0 {
		return nil, &Error{Op: op, Object: path, Kind: ErrJournal, Err: fmt.Errorf("it is damaged: %w",
			errors.Join(err, fs.ErrInvalid))}
	}
	return p, nil
}
