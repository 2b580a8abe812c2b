package fleet

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"strings"
	"time"

	"example.com/tykupgrade/debpkg"
	"example.com/tykupgrade/debpkg/rollout"
)

// notesDir is where a host keeps a note of each cached bundle that is aside. Only root can write
// there, as it says what root removes.
const notesDir = "/var/lib/tykupgrade/bundles"

// PrunedBundle is a cached bundle that a [Swap] has put aside for a revert.
type PrunedBundle struct {
	Dir       string            `json:"dir"` // of the gateway's cache, to which a revert moves it back
	State     debpkg.PruneState `json:"state"`
	At        time.Time         `json:"at,omitzero"` // when the swap began
	Kilobytes int64             `json:"kilobytes"`   // on the host's disk
}

// String returns the bundle in words for people.
func (b PrunedBundle) String() string {
	what := "cached bundle " + b.Dir
	if !b.At.IsZero() {
		what += " of " + b.At.UTC().Format("2006-01-02 15:04 MST")
	}
	return fmt.Sprintf("%s (%d MiB): %s", what, (b.Kilobytes+1023)/1024, b.State)
}

// name is that of the file with the note.
func (c cached) name() string {
	sum := sha256.Sum256([]byte(c.Path))
	return fmt.Sprintf("%x", sum[:8])
}

// note is a line with the time, one with the run, and the path.
func (c cached) note() string {
	return c.At.UTC().Format(time.RFC3339) + "\n" + c.Run + "\n" + c.Path
}

// readNote reads what [cached.note] wrote into a file of this name.
func readNote(name, text string) (cached, error) {
	at, rest, _ := strings.Cut(text, "\n")
	run, dir, _ := strings.Cut(rest, "\n")
	c := cached{Path: strings.TrimSuffix(dir, "\n"), Kept: true, Run: run}
	var err error
	c.At, err = time.Parse(time.RFC3339, at)
	if err == nil && (!isCache(c.Path) || c.name() != name) {
		err = errors.New("not the note of a cached bundle")
	}
	return c, err
}

// prune forgets the bundles that were put aside before a time. It keeps those that may still be
// put back: a run in inUse did that, or changes has a change of the same run that stays.
func (s *Swap) prune(ctx context.Context, o PruneOptions, inUse map[string]bool,
	changes []debpkg.Pruned) ([]PrunedBundle, error) {
	var stdout, stderr bytes.Buffer
	dir := cmp.Or(s.notes, notesDir)
	err := s.Runner(ctx, []string{"sh", "-ec", notesScript, notesName, dir}, nil, &stdout, &stderr)
	switch {
	case errors.Is(err, debpkg.ErrHelper):
		return nil, nil // who may call the helper only cannot swap bundles
	case err != nil:
		return nil, &Error{Op: "read", Object: dir, Kind: ErrCache, Err: said(err, stderr.String()),
			Retry: true}
	}
	stays := map[string]debpkg.PruneState{}
	for _, c := range changes {
		if c.State != debpkg.PruneForgotten {
			stays[c.Dir] = c.State
		}
	}
	var list []PrunedBundle
	var old []cached
	for row := range strings.SplitSeq(strings.TrimSuffix(stdout.String(), "\x1c"), "\x1c") {
		part := strings.SplitN(row, "\x1d", 3)
		if len(part) != 3 {
			continue
		}
		c, err := readNote(part[0], part[2])
		if err == nil && part[1] == "" { // a swap was killed before it began, or somebody removed it
			old = append(old, c)
			continue
		}
		b := PrunedBundle{Dir: c.Path, At: c.At}
		_, _ = fmt.Sscan(part[1], &b.Kilobytes)
		switch state, ok := stays[c.Run]; {
		case err != nil:
			b.Dir, b.State = path.Join(dir, part[0]), debpkg.PruneUnreadable
		case part[1] == "?":
			b.State = debpkg.PruneUnreadable
		case inUse[c.Path]:
			b.State = debpkg.PruneInUse
		case ok:
			b.State = state
		case !c.At.Before(o.Before):
			b.State = debpkg.PruneYoung
		default:
			b.State, old = debpkg.PruneForgotten, append(old, c)
		}
		list = append(list, b)
	}
	if o.DryRun {
		return list, nil
	}
	_, err = s.files(ctx, forgetScript, old)
	return list, err
}

// notesName is the name of notesScript for hosts in memory.
const notesName = "fleet-notes"

// putAside are the cached bundles that an undo of the run would put back.
func putAside(rep *rollout.Report) (paths []string, err error) {
	err = eachRecord(rep, func(r record) {
		for _, c := range r.Cached {
			paths = append(paths, c.Path)
		}
	})
	return paths, err
}

// eachRecord calls f with all that the install steps of a run that can be undone ever saved.
func eachRecord(rep *rollout.Report, f func(record)) error {
	if rep == nil || rep.Outcome == rollout.OutcomeUndone {
		return nil
	}
	for _, t := range rep.Targets {
		for _, s := range t.Steps {
			if s.Name != stepInstall || s.Note == nil {
				continue
			}
			var r record
			if err := json.Unmarshal(s.Note, &r); err != nil {
				return &Error{Op: "read", Object: "what the run saved of " + t.Name, Err: err,
					Next: "check the journal"}
			}
			f(r)
		}
	}
	return nil
}
