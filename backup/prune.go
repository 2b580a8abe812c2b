package backup

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"example.com/tykupgrade/backup/internal/step"
	"example.com/tykupgrade/internal/atomicfile"
)

// Policy selects the sets that [Prune] may remove: those beyond the Keep newest, and those older
// than MaxAge. A zero field selects none. At least one must be set.
type Policy struct {
	Keep   int
	MaxAge time.Duration
	DryRun bool             // report only
	Now    func() time.Time // nil: time.Now
}

// Pruned is the result of [Prune]: IDs of sets, newest first.
type Pruned struct {
	Kept     []string `json:"kept"`
	Removed  []string `json:"removed"`  // with DryRun: would be removed
	Verified string   `json:"verified"` // the newest set that passes verification, never removed
}

// Prune removes the sets below dir that p selects. It never removes the newest set that passes
// [LevelStructure]. If none passes, it removes nothing. It leaves alone directories that do not
// open as a set, and sets that a restore is using. The error names them. A set is renamed before it
// is removed, so it is never visible in part. The next Prune finishes a killed one.
func Prune(ctx context.Context, dir string, p Policy) (Pruned, error) {
	var out Pruned
	if p.Keep < 0 || p.MaxAge < 0 || (p.Keep == 0 && p.MaxAge == 0) {
		return out, step.Fail("prune", dir, errors.New("set Policy.Keep or Policy.MaxAge, "+
			"or both"))
	}
	if p.Now == nil {
		p.Now = time.Now
	}
	if _, err := os.Stat(dir); err != nil {
		return out, step.Fail("prune", dir, err)
	}
	unlock, err := lock(dir)
	if err != nil {
		return out, step.Fail("prune", dir, err)
	}
	defer unlock()
	sets, bad := List(dir)
	findings := []error{bad}
	if len(sets) == 0 {
		return out, bad
	}
	if !p.DryRun {
		if err := sweep(dir); err != nil {
			return out, step.Fail("remove leftovers in", dir, err)
		}
	}
	// If a set is from the future, a clock is or was wrong. Such a set stays and does not count
	// as the newest.
	sets, future := split(sets, p.Now())
	for _, s := range future {
		out.Kept = append(out.Kept, s.ID)
		findings = append(findings, &Error{Op: "prune", Object: s.Dir,
			Err:  fmt.Errorf("its time %s is in the future", s.Start.Format(time.RFC3339)),
			Next: "check the clock; remove the set by hand if it is not wanted"})
	}
	for _, s := range sets {
		err := s.Verify(ctx, VerifyOptions{})
		if err == nil {
			out.Verified = s.ID
			break
		}
		if e := step.Ended(ctx); e != nil {
			return out, step.Fail("prune", dir, e)
		}
		findings = append(findings, err)
	}
	if out.Verified == "" {
		return out, fmt.Errorf("prune %s: no set passes verification, nothing was removed: %w", dir,
			errors.Join(findings...))
	}
	var gone []string
	defer func() { _ = removeAll(gone) }()
	for i, s := range sets {
		tooMany := p.Keep > 0 && i >= p.Keep
		tooOld := p.MaxAge > 0 && p.Now().Sub(s.Start) > p.MaxAge
		if s.ID == out.Verified || (!tooMany && !tooOld) {
			out.Kept = append(out.Kept, s.ID)
			continue
		}
		if err := step.Ended(ctx); err != nil {
			return out, step.Fail("prune", dir, err)
		}
		if !p.DryRun {
			path, err := s.hide(dir)
			gone = append(gone, path)
			if err != nil {
				findings = append(findings, err)
				out.Kept = append(out.Kept, s.ID)
				continue
			}
		}
		out.Removed = append(out.Removed, s.ID)
	}
	if len(gone) > 0 {
		findings = append(findings, atomicfile.SyncDir(dir), removeAll(gone))
	}
	return out, errors.Join(findings...)
}

// futureTolerance is how far clocks of hosts that share sets may differ.
const futureTolerance = 5 * time.Minute

// split separates the sets that were taken after now.
func split(sets []*Set, now time.Time) (past, future []*Set) {
	for _, s := range sets {
		if s.Start.Sub(now) > futureTolerance {
			future = append(future, s)
		} else {
			past = append(past, s)
		}
	}
	return past, future
}

func removeAll(paths []string) error {
	var errs []error
	for _, p := range paths {
		if p != "" {
			errs = append(errs, os.RemoveAll(p))
		}
	}
	return errors.Join(errs...)
}

// hide renames a set that is about to be removed and returns the new path.
func (s *Set) hide(dir string) (string, error) {
	f, err := os.Open(filepath.Join(s.Dir, step.ManifestName))
	if err != nil {
		return "", step.Fail("remove", s.Dir, err)
	}
	defer func() { _ = atomicfile.UnlockClose(f) }()
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); errors.Is(err,
		syscall.EWOULDBLOCK) {
		return "", &Error{Op: "remove", Object: s.Dir, Err: ErrLocked, Next: "a restore is using it",
			Retry: true}
	}
	gone := filepath.Join(dir, "."+filepath.Base(s.Dir)+removedSuffix)
	if err := os.Rename(s.Dir, gone); err != nil {
		return "", step.Fail("remove", s.Dir, err)
	}
	return gone, nil
}
