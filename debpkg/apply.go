package debpkg

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"time"
)

// Change is the result of an Apply, and all that a Revert needs. It can be marshalled and read back
// on another machine. Its files are on the host, below Dir.
type Change struct {
	Plan        Plan
	Dir         string // on the host; empty for a change from apt's history
	Started     time.Time
	Ended       time.Time `json:",omitzero"`
	Staged      bool      // the units were not restarted
	Before      []Package // the packages of the plan
	After       []Package
	UnitsBefore []Unit
	UnitsAfter  []Unit
	Units       map[string][]string // units by package
	Saved       []Saved             // .deb files of the earlier versions
	Files       []string            // saved configuration and other files
	FilesSHA256 string              `json:",omitempty"` // of their archive
	// where Apply looked for such files, and for dpkg's copies next to them
	Looked   []string `json:",omitempty"`
	ExitCode int      // apt's
	// an error of apt, although the packages are as planned
	Note string `json:",omitempty"`
}

// ServiceNames returns the units of the changed packages, for
// [Host.Restart] and [Host.WaitStable].
func (c Change) ServiceNames() []string {
	var names []string
	for _, u := range c.Units {
		names = append(names, u...)
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// UnitText describes one of UnitsAfter in words.
func (c Change) UnitText(u Unit) string {
	if c.Staged {
		return u.Name + " still runs the earlier version; restart it to switch"
	}
	return u.String()
}

// Apply carries out a plan. It refuses a plan whose Refused is not nil, and one that no longer
// describes the host ([ErrChanged]). Before it changes anything, it waits for other package
// managers, saves the .deb of each installed version and the configuration, and downloads all it
// needs.
//
// apt then runs detached, so it finishes even if the connection is lost or the program ends. Apply
// attaches to it again when the connection is back, or when it is called again with the same plan.
// For a plan that has been carried out, it returns the same Change. If ctx ends before dpkg has
// begun, nothing is changed. After that, Apply waits for dpkg for up to two minutes.
//
// Apply succeeds if the packages are in the planned state and the units that ran before are stable.
// apt's exit code does not count. With an error such as [ErrScript], [ErrOutcome] or [ErrUnit], the
// Change describes what was done. It can be reverted if its Started is not zero.
func (h *Host) Apply(ctx context.Context, p Plan) (Change, error) {
	return h.apply(ctx, p, false)
}

// Stage is Apply without the restart of units. It masks the units until the end of the run, so that
// the packages' scripts cannot restart them. The old processes keep serving until [Host.Restart] of
// the Change's ServiceNames. A unit that dies before that starts again with the new version. Stage
// takes only plans of upgrades and downgrades, because the scripts of a first installation unmask
// units.
func (h *Host) Stage(ctx context.Context, p Plan) (Change, error) {
	for _, a := range p.Actions {
		if a.Kind == Install || a.Kind == Remove {
			return Change{}, &Error{Op: "stage", Object: join(p.Requests), Kind: ErrRefused,
				Detail: fmt.Sprintf("the plan is to %s %s, and only what is installed can keep serving",
					a.Kind, a.Package), Next: "use Apply"}
		}
	}
	return h.apply(ctx, p, true)
}

func (h *Host) apply(ctx context.Context, p Plan, stage bool) (Change, error) {
	if h.err != nil {
		return Change{}, h.err
	}
	if p.digest() != p.Digest || p.Digest == "" {
		return Change{}, &Error{Op: "apply", Object: "the plan", Kind: ErrRefused,
			Detail: "its digest does not match its content", Next: "make the plan again"}
	}
	if err := p.Refused(); err != nil {
		return Change{}, err
	}
	if p.Empty() {
		return Change{Plan: p}, nil
	}
	op := task{"apply", join(p.Requests)}
	dir := h.runDir(p)
	deadline := time.Now().Add(h.o.LockWait)
	for busy := false; ; {
		// An earlier call may have got further than its caller knows.
		c, done, err := h.resume(ctx, op, dir)
		if done || err != nil {
			return c, err
		}
		if busy {
			if err := h.waitLocks(ctx, op, deadline); err != nil {
				return Change{}, err
			}
		}
		c, err = h.applyOnce(ctx, op, dir, p, stage)
		// Another package manager is at work, or came first: nothing has changed.
		if busy = errors.Is(err, ErrLocked); busy && time.Now().Before(deadline) {
			if err := pause(ctx, lockPause); err != nil {
				return Change{}, op.wrap(err)
			}
			continue
		}
		// Or another operator with the same plan, who is changing the host.
		if err != nil && c.Dir == "" && ctx.Err() == nil {
			if c, done, rerr := h.resume(ctx, op, dir); done {
				return c, rerr
			}
		}
		return c, err
	}
}

// runDir returns the directory of the run of a plan whose digest has been checked.
func (h *Host) runDir(p Plan) string { return path.Join(h.o.StateDir, "runs", p.Digest[:16]) }

// resume attaches to a run of the same plan, or returns the result of one whose effects are still
// there. A run that was reverted does not count.
func (h *Host) resume(ctx context.Context, op task, dir string) (Change, bool, error) {
	s, data, err := h.jobState(ctx, dir)
	if err != nil {
		return Change{}, false, op.wrap(err)
	}
	if s.name == "none" {
		return Change{}, false, nil
	}
	c, err := readChange(dir, data)
	if err != nil {
		return Change{}, false, op.wrap(err)
	}
	if s.name != "running" {
		now, err := h.Packages(ctx, names(c.Plan.Actions)...)
		if err != nil {
			return Change{}, false, op.wrap(err)
		}
		met := Change{Plan: c.Plan, After: now}.unmet() == nil
		// Reverted since, or changed again.
		if samePackages(now, c.Before) || len(c.After) > 0 && !met && !samePackages(now, c.After) {
			return Change{}, false, nil
		}
	}
	h.event(Event{Kind: EventStep, Text: "attach to the run of this plan in " + dir})
	c, err = h.conclude(ctx, op, c, survey{})
	return c, true, err
}

// samePackages reports whether all versions and states are equal. It ignores holds.
func samePackages(a, b []Package) bool {
	if len(a) != len(b) {
		return false
	}
	for _, p := range a {
		q, ok := find(b, p.Name)
		if !ok || p.Version != q.Version || p.Status != q.Status {
			return false
		}
	}
	return true
}

func names(actions []Action) []string {
	var list []string
	for _, a := range actions {
		list = append(list, a.Package)
	}
	return list
}

func (h *Host) applyOnce(ctx context.Context, op task, dir string, p Plan,
	stage bool) (_ Change, err error) {
	// Before the comparison: a run that begins after it is noticed by its start.
	prep, err := h.prepare(ctx, dir)
	if err != nil {
		return Change{}, op.wrap(err)
	}
	started := false
	defer func() {
		if !started {
			h.discard(ctx, prep)
		}
	}()
	h.event(Event{Kind: EventStep, Text: "compare the plan with the host"})
	now, look, err := h.planned(ctx, p.Requests, p.Fetched, true)
	if err != nil {
		return Change{}, err
	}
	if err := now.Refused(); err != nil {
		return Change{}, err
	}
	// Neither refuses anything. Warnings come and go, such as that of a lock.
	now.Problems = p.Problems
	if now.digest() != p.Digest {
		return Change{}, &Error{Op: op.verb, Object: op.object, Kind: ErrChanged,
			Detail: strings.Join(p.differences(now), "; "), Next: "check what changed, make a new plan " +
				"and have it approved"}
	}
	c := Change{Plan: p, Dir: dir, Started: time.Now().UTC(), Staged: stage}
	c.record(look)
	if c.Saved, err = h.saveDebs(ctx, p.Actions, look, prep, dir); err != nil {
		return Change{}, op.wrap(err)
	}
	if err := h.saveFiles(ctx, &c, prep); err != nil {
		return Change{}, op.wrap(err)
	}
	in := p.install()
	if !p.Fetched {
		h.event(Event{Kind: EventStep, Text: "download"})
		if _, err := h.apt(ctx, op, in, "--download-only"); err != nil {
			return Change{}, err
		}
	}
	j := job{prep: prep, dir: dir, argv: h.aptGet(in, "-o", "APT::Status-Fd=3", "-o",
		fmt.Sprintf("DPkg::Lock::Timeout=%d", int(h.o.LockWait.Seconds()))), change: c}
	for _, a := range p.Actions {
		if (a.Held || p.Hold) && a.Kind != Remove {
			j.hold = append(j.hold, a.Package)
		}
	}
	j.pins = pins{dir: look.preferences(), all: p.Pin, want: pinsOf(p.Actions, false)}
	if stage {
		for _, u := range c.UnitsBefore {
			if u.LoadState == "loaded" {
				j.mask = append(j.mask, u.Name)
			}
		}
	}
	h.event(Event{Kind: EventStep, Text: join(p.Requests)})
	if err := h.start(ctx, j); err != nil {
		if errors.Is(err, ErrConnection) {
			// It may be running. Another call finds out.
			return c, op.wrap(err)
		}
		return Change{}, op.wrap(err)
	}
	started = true
	return h.conclude(ctx, op, c, look)
}

// pinsOf returns the versions after the actions, or before them.
func pinsOf(actions []Action, before bool) []string {
	var list []string
	for _, a := range actions {
		v := a.To
		if before {
			v = a.From
		} else if a.Kind == Remove {
			v = Version{}
		}
		list = append(list, a.Package+"="+v.text)
	}
	return list
}

// record notes the state of packages and units before the change.
func (c *Change) record(s survey) {
	c.Units = map[string][]string{}
	for _, p := range s.Packages {
		if slices.ContainsFunc(c.Plan.Actions, func(a Action) bool { return a.Package == p.Name }) {
			c.Before = append(c.Before, p)
			if u := s.units[p.Name]; len(u) > 0 {
				c.Units[p.Name] = u
			}
		}
	}
	c.UnitsBefore = pick(s.states, c.ServiceNames())
}

// pick returns the units with these names, in the names' order.
func pick(units []Unit, names []string) []Unit {
	var list []Unit
	for _, name := range names {
		if i := slices.IndexFunc(units, func(u Unit) bool { return u.Name == name }); i >= 0 {
			list = append(list, units[i])
		}
	}
	return list
}

// readChange reads what a run recorded in dir.
func readChange(dir string, data []byte) (Change, error) {
	var c Change
	if err := json.Unmarshal(data, &c); err != nil {
		return Change{}, task{"read", "what an earlier run recorded"}.fail(Error{Err: err,
			Next: "read the log in " + dir + " and remove the directory to begin again"})
	}
	return c, nil
}

// install returns the command line that carries out the plan.
func (p Plan) install() install {
	debs := map[string]Deb{}
	for _, a := range p.Actions {
		if a.Deb != "" {
			debs[a.Package] = Deb{Path: a.Deb}
		}
	}
	in := installOf(p.Requests, debs)
	for _, a := range p.Actions {
		in.downgrade = in.downgrade || a.Kind == Downgrade
		in.held = in.held || a.Held
	}
	return in
}
