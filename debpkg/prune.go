package debpkg

import (
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"time"
)

// PruneState is what [Host.Prune] did with a change, or why it kept it.
type PruneState string

// The states of a change that a host keeps.
const (
	PruneForgotten  PruneState = "forgotten"  // with DryRun: it would be forgotten
	PruneYoung      PruneState = "young"      // it ended after PruneOptions.Before
	PruneInUse      PruneState = "in_use"     // PruneOptions.Keep names it
	PruneRunning    PruneState = "running"    // the change or its revert is running
	PruneUnfinished PruneState = "unfinished" // it failed or was cut off, and was not reverted since
	PruneUnreadable PruneState = "unreadable" // its record is missing or damaged
)

// String returns the state in words.
func (s PruneState) String() string {
	switch s {
	case PruneForgotten:
		return "forgotten"
	case PruneYoung:
		return "kept: not old enough"
	case PruneInUse:
		return "kept: it can still be reverted"
	case PruneRunning:
		return "kept: it is in progress"
	case PruneUnfinished:
		return "kept: it is not finished; revert it, or forget this change itself"
	case PruneUnreadable:
		return "kept: its record cannot be read; look at its log"
	}
	return string(s)
}

// Pruned is a change whose packages and configuration the host has saved.
type Pruned struct {
	Dir       string // on the host
	State     PruneState
	Requests  []Request `json:",omitempty"` // what the change was about
	Ended     time.Time `json:",omitzero"`  // for an unfinished change, when it started
	Kilobytes int64     // on the host's disk
}

// String returns the change in words.
func (p Pruned) String() string {
	what := join(p.Requests)
	if what == "" {
		what = path.Base(p.Dir)
	}
	if !p.Ended.IsZero() {
		what += " of " + p.Ended.UTC().Format("2006-01-02 15:04 MST")
	}
	return fmt.Sprintf("%s (%d MiB): %s", what, (p.Kilobytes+1023)/1024, p.State)
}

// PruneOptions set what [Host.Prune] forgets.
type PruneOptions struct {
	// Before is required. Prune forgets changes that ended earlier. The times are those that
	// the changes recorded, by the clocks of their operators.
	Before time.Time
	Keep   []Change // changes that a journal or a file of changes can still revert
	DryRun bool     // only report
}

// Prune removes the saved .deb files and configuration of old changes, which only a revert needs.
// It keeps changes that are in progress, changes in o.Keep, and unfinished changes that were not
// reverted. It returns the changes oldest first. After an error or a kill, call Prune again.
func (h *Host) Prune(ctx context.Context, o PruneOptions) ([]Pruned, error) {
	op := task{"prune", "the changes that the host keeps"}
	switch {
	case h.err != nil:
		return nil, h.err
	case o.Before.IsZero():
		return nil, op.fail(Error{Detail: "no time is set", Next: "set PruneOptions.Before"})
	}
	out, err := h.script(ctx, nil, "changes", path.Join(h.o.StateDir, "runs"))
	if err != nil {
		return nil, op.wrap(unsafe(op, err))
	}
	var list []Pruned
	for row := range strings.SplitSeq(strings.TrimSuffix(out, "\x1c"), "\x1c") {
		if row == "" {
			continue
		}
		p, err := h.pruned(row, o)
		if err != nil {
			return nil, op.wrap(err)
		}
		list = append(list, p)
	}
	slices.SortFunc(list, func(a, b Pruned) int {
		if n := a.Ended.Compare(b.Ended); n != 0 {
			return n
		}
		return strings.Compare(a.Dir, b.Dir)
	})
	for i := range list {
		if o.DryRun || list[i].State != PruneForgotten {
			continue
		}
		err := h.forget(ctx, list[i].Dir)
		switch {
		case errors.Is(err, ErrLocked):
			list[i].State = PruneRunning // it has begun since
		case err != nil:
			return list[:i], op.wrap(err)
		}
	}
	return list, nil
}

// pruned reads a row of changesScript and decides about its change.
func (h *Host) pruned(row string, o PruneOptions) (Pruned, error) {
	part := strings.Split(row, "\x1d")
	if len(part) != 6 {
		return Pruned{}, fmt.Errorf("unexpected answer %q", tidy(row))
	}
	p := Pruned{Dir: path.Join(h.o.StateDir, "runs", part[0]), Kilobytes: number64(part[3])}
	run, err := parseState(part[1])
	if err != nil {
		return p, err
	}
	revert, err := parseState(part[2])
	if err != nil {
		return p, err
	}
	c, err := readChange(p.Dir, []byte(part[4]))
	p.Requests, p.Ended = c.Plan.Requests, c.Ended
	if p.Ended.IsZero() {
		p.Ended = c.Started
	}
	reverted := false
	if back, err := readChange(p.Dir, []byte(part[5])); err == nil && back.Started.Equal(c.Started) {
		reverted = revert.name == "ended" && revert.n == 0
	} else {
		revert.name = "none" // of an earlier time that the same plan was applied
	}
	switch {
	case run.name == "running", revert.name == "running":
		p.State = PruneRunning
	case err != nil, c.Dir != p.Dir, c.Started.IsZero():
		p.State = PruneUnreadable
	case revert.name != "none" && !reverted,
		!reverted && (run.name != "ended" || c.Ended.IsZero() || c.unmet() != nil):
		p.State = PruneUnfinished
	case slices.ContainsFunc(o.Keep, func(k Change) bool {
		return k.Dir == p.Dir || k.Plan.Digest != "" && k.Plan.Digest == c.Plan.Digest
	}):
		p.State = PruneInUse
	case !p.Ended.Before(o.Before):
		p.State = PruneYoung
	default:
		p.State = PruneForgotten
	}
	return p, nil
}

// changesScript: $1 directory of the runs. For each run of a plan it prints the name, its
// state and that of its revert, the kilobytes of both, and what both recorded.
const changesScript = safeFunc + lookFunc + `[ -d "$1" ] || exit 0
safe "$1" || exit
stand() {
	s=$(look "$1")
	if [ "$s" = dead ]; then s=$(look "$1"); fi # it may have ended between two looks
	printf '%s\035' "$s"
}
for d in "$1"/*; do
	n=${d##*/}
	case $n in *[!0-9a-f]*) continue ;; esac
	[ "${#n}" -eq 16 ] && [ -d "$d" ] && [ ! -L "$d" ] || continue
	printf '%s\035' "$n"
	stand "$d"; stand "$d-revert"
	k=0
	for x in "$d" "$d-revert"; do
		[ ! -d "$x" ] || { y=$(du -sk -- "$x") && k=$((k + ${y%%[!0-9]*})); }
	done
	printf '%s\035' "$k"
	[ ! -e "$d/change.json" ] || cat "$d/change.json"
	printf '\035'
	[ ! -e "$d-revert/change.json" ] || cat "$d-revert/change.json"
	printf '\034'
done`

// forgetScript: $1 job directory. The lock is that of a job's start. The record of the run
// goes last, so that a call that was cut off can be repeated.
const forgetScript = lookFunc + `set -e
[ -e "$1" ] || [ -e "$1-revert" ] || exit 0
exec 9<"${1%/*}"; flock 9
for d in "$1" "$1-revert"; do
	case $(look "$d") in running*) echo "the run in $d is under way" >&2; exit 75 ;; esac
done
for f in "$1"/*; do
	case ${f##*/} in change.json | rc | pid) ;; *) rm -rf -- "$f" ;; esac
done
rm -rf -- "$1-revert"
rm -rf -- "$1"`

// forget removes the directories of a run and of its revert.
func (h *Host) forget(ctx context.Context, dir string) error {
	op := task{"forget", "the change in " + dir}
	_, err := h.script(ctx, nil, "forget", dir)
	if exitCode(err) == 75 {
		return &Error{Op: op.verb, Object: op.object, Kind: ErrLocked, Detail: "it is in progress",
			Err: err, Retry: true, Next: "wait for it to end"}
	}
	return op.wrap(err)
}
