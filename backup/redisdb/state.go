package redisdb

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"example.com/tykupgrade/backup"
	"example.com/tykupgrade/backup/internal/step"
	"example.com/tykupgrade/internal/atomicfile"
)

// phase is the phase of a restore. It is on disk before the phase begins.
type phase string

const (
	// the old data is being saved, or the new file is being copied; nothing has changed
	phaseSaving   phase = "saving"
	phaseEmptying phase = "emptying" // the old data is being removed
	phaseWriting  phase = "writing"  // the set's keys are being written
	phasePlacing  phase = "placing"  // servers are being stopped, and files moved
	phaseRestored phase = "restored" // done, but neither accepted nor undone
	phaseUndoing  phase = "undoing"  // the old data is being restored
	phaseAccepted phase = "accepted" // the replaced files are being removed
)

// journal describes a restore for a later process.
type journal struct {
	Schema    int       `json:"schema"`
	Kind      string    `json:"kind"` // "live" or "offline"
	Component string    `json:"component"`
	Set       string    `json:"set"`     // digest of the component's files
	SetDir    string    `json:"set_dir"` // its directory, for messages
	Target    string    `json:"target"`
	TargetIDs []string  `json:"target_ids,omitempty"` // identify the target after a failover
	Phase     phase     `json:"phase"`
	Started   time.Time `json:"started"`
	// the set of the old data; empty: the target was empty
	Rescue string `json:"rescue,omitempty"`
	// keys from the beginning of the set that the server has confirmed
	Acked   int64     `json:"acked,omitempty"`
	Sent    int64     `json:"sent,omitempty"`    // keys that the server may have got; 0: unknown
	Servers []*placed `json:"servers,omitempty"` // offline
}

const journalSchema = 1

// stateDir is the directory for journals and rescue sets.
type stateDir struct {
	dir  string
	path string // of the journal
	lock *os.File
}

// openState checks the directory. With create, it makes a missing directory and locks it until
// close, so that there is only one restore of a component at a time.
func openState(dir, component string, create bool) (*stateDir, error) {
	if dir == "" {
		return nil, errors.New("StateDir is empty; set it to a directory for the journal and the set of " +
			"the replaced data")
	}
	abs, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	if err := step.OutsideSets(abs); err != nil {
		return nil, err
	}
	s := &stateDir{dir: abs, path: filepath.Join(abs, strings.ReplaceAll(component, "/", "_")+
		".restore.json")}
	if create {
		if err := os.MkdirAll(abs, 0o700); err != nil {
			return nil, step.Fail("open", dir, err)
		}
	}
	if err := checkPrivate(abs, false); err != nil {
		return nil, &backup.Error{Op: "open", Object: dir, Err: err,
			Next: "use a directory that only you and root can write to"}
	}
	if !create {
		return s, nil
	}
	s.lock, err = os.OpenFile(s.path+".lock", os.O_CREATE|os.O_RDWR|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, step.Fail("open", dir, err)
	}
	if err := syscall.Flock(int(s.lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		_ = s.lock.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, &backup.Error{Op: "lock", Object: dir, Kind: backup.ErrLocked,
				Next: "wait until the other restore is done", Retry: true}
		}
		return nil, step.Fail("lock", dir, err)
	}
	return s, nil
}

func (s *stateDir) close() {
	if s.lock != nil {
		_ = syscall.Flock(int(s.lock.Fd()), syscall.LOCK_UN)
		_ = s.lock.Close()
	}
}

// checkPrivate refuses a directory that others could write to or exchange. below is set if a
// directory will be made in it, which is then checked again.
func checkPrivate(dir string, below bool) error {
	real, err := filepath.EvalSymlinks(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return checkPrivate(filepath.Dir(dir), true)
	}
	if err != nil {
		return err
	}
	for p := real; ; p = filepath.Dir(p) {
		info, err := os.Lstat(p)
		if err != nil {
			return err
		}
		st, ok := info.Sys().(*syscall.Stat_t)
		if !ok || !info.IsDir() {
			return fmt.Errorf("%s is not a directory", p)
		}
		// A sticky directory lets others add names, but not change ours.
		others := info.Mode().Perm()&0o022 != 0 && (info.Mode()&fs.ModeSticky == 0 || p == real && !below)
		if (st.Uid != 0 && int(st.Uid) != os.Geteuid()) || others {
			return fmt.Errorf("%s belongs to user %d with mode %v: others could change its files", p,
				st.Uid, info.Mode().Perm())
		}
		if p == filepath.Dir(p) {
			return nil
		}
	}
}

// load reads the journal, or returns nil if there is none.
func (s *stateDir) load() (*journal, error) {
	f, err := step.OpenRegular(s.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, step.Fail("read", s.path, err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, step.Fail("read", s.path, err)
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok || (st.Uid != 0 && int(st.Uid) != os.Geteuid()) || info.Mode().Perm()&0o022 != 0 ||
		info.Size() > 1<<20 {
		return nil, step.Fail("read", s.path, errors.New("others could have written this journal"))
	}
	var j journal
	if err := json.NewDecoder(f).Decode(&j); err != nil || j.Schema != journalSchema {
		return nil, step.Fail("read", s.path,
			fmt.Errorf("it is not a journal of this version: schema %d, %w", j.Schema, err))
	}
	if j.Rescue != "" && filepath.Dir(j.Rescue) != s.dir {
		return nil, step.Fail("read", s.path, fmt.Errorf("its rescue set %s is outside of %s", j.Rescue,
			s.dir))
	}
	return &j, nil
}

func (s *stateDir) save(ctx context.Context, j *journal) error {
	data, err := json.MarshalIndent(j, "", "  ")
	if err == nil {
		_, err = atomicfile.WriteBytes(ctx, s.path, atomicfile.Options{}, append(data, '\n'))
	}
	if err != nil {
		return step.Fail("write", s.path, err)
	}
	return nil
}

// next writes the journal with a new phase.
func (s *stateDir) next(ctx context.Context, j *journal, p phase) error {
	j.Phase = p
	return s.save(ctx, j)
}

func (s *stateDir) remove() error {
	if err := os.Remove(s.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return step.Fail("remove", s.path, err)
	}
	return atomicfile.SyncDir(s.dir)
}

// identity identifies a set by the digests of a component's files.
func identity(s *backup.Stored) string {
	h := sha256.New()
	for _, f := range s.Files {
		fmt.Fprintf(h, "%s %s\n", f.SHA256, f.Path)
	}
	return hex.EncodeToString(h.Sum(nil)[:16])
}

func newJournal(kind, component, target string, s *backup.Stored) *journal {
	return &journal{Schema: journalSchema, Kind: kind, Component: component, Set: identity(s),
		SetDir: filepath.Dir(s.Dir),
		Target: target, Phase: phaseSaving, Started: time.Now().UTC()}
}

// fits refuses a journal of another set, target or kind of restore. Targets with a common ID are
// the same one after a failover.
func (j *journal) fits(kind, target string, ids []string, s *backup.Stored) error {
	same := j.Target == target || slices.ContainsFunc(ids, func(id string) bool {
		return slices.Contains(j.TargetIDs, id)
	})
	if j.Kind == kind && same && j.Set == identity(s) {
		return nil
	}
	return j.unfinished(fmt.Sprintf("it restored the set %s into %s (%s)", j.SetDir, j.Target, j.Kind),
		"restore that set again to finish it, or call Undo or Accept with that set and that target")
}

func (j *journal) unfinished(what, next string) error {
	return &backup.Error{Op: "restore", Object: j.Target, Kind: ErrUnfinished,
		Err: fmt.Errorf("it began at %s and is in phase %q: %s; %s", j.Started.Format(time.RFC3339),
			j.Phase, j.state(), what), Next: next}
}

// state describes the data of the servers.
func (j *journal) state() string {
	was := "the server was empty before"
	if j.Rescue != "" {
		was = "its previous data is in the set " + j.Rescue
	}
	switch j.Phase {
	case phaseSaving:
		return "nothing has changed yet"
	case phaseEmptying:
		return "the server has all, some or none of its previous data; " + was
	case phaseWriting:
		return fmt.Sprintf("the server has at least %d keys of the set; %s", j.Acked, was)
	case phasePlacing:
		return "servers may be stopped, and their previous files may have other names in the same directory"
	case phaseRestored:
		return "the set is in place, neither accepted nor undone; " + was
	}
	return "the previous data is being restored; " + was
}
