package debpkg

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"time"
)

// RevertOptions changes what a Revert restores.
type RevertOptions struct {
	// Files also restores the configuration files, and overwritten files such as policies and
	// templates. It removes dpkg's copies next to them, such as .dpkg-dist. The present files
	// are saved next to the earlier ones on the host, apart from a .dpkg-dist that the owner of its
	// directory cannot read. A configuration file that only the newer version has stays.
	Files bool
}

// Revert installs exactly the versions from before c. It takes them from the saved .deb files, or
// from a source if only a repacked file was saved. For a change from [Host.RevertFromHistory], it
// takes them from a source or apt's cache. It removes packages that c newly installed, but not
// their configuration. It restores holds. Revert resets systemd's start limit, and the units that
// ran before c are stable when it returns.
//
// Revert also works after a failed Apply with half-installed packages. Like Apply, it runs detached
// and may be called again. An [ErrNoRollback] means that nothing was changed. If the caller was
// killed during Apply and has only the Plan of the Change, the host adds the rest.
func (h *Host) Revert(ctx context.Context, c Change, o RevertOptions) error {
	if h.err != nil {
		return h.err
	}
	if len(c.Plan.Actions) == 0 {
		return nil
	}
	op := task{"revert", strings.Join(names(c.Plan.Actions), ", ")}
	c, err := h.recorded(ctx, op, c)
	if err != nil {
		return err
	}
	for _, a := range c.Plan.Actions {
		if !changedName.MatchString(a.Package) {
			return op.wrap(fmt.Errorf("%q is not a package name", a.Package))
		}
	}
	dir := c.revertDir(h.o.StateDir)
	// Neither the change nor an earlier revert of it may be running.
	for _, d := range []string{c.Dir, dir} {
		if d == "" {
			continue
		}
		if _, err := h.follow(ctx, d); err != nil {
			return op.wrap(err)
		}
	}
	look, err := h.survey(ctx, names(c.Plan.Actions)...)
	if err != nil {
		return op.wrap(err)
	}
	if err := sameHost(op, c, look); err != nil {
		return err
	}
	if o.Files {
		if err := h.checkFiles(ctx, op, c); err != nil {
			return err
		}
	}
	deadline := time.Now().Add(h.o.LockWait)
	repaired := false
	for again := len(look.Locks) > 0; ; again = true {
		if again {
			if err := h.waitLocks(ctx, op, deadline); err != nil {
				return err
			}
			if look, err = h.survey(ctx, names(c.Plan.Actions)...); err != nil {
				return op.wrap(err)
			}
		}
		look, err = h.revertPackages(ctx, op, dir, c, look)
		switch {
		case errors.Is(err, ErrLocked) && time.Now().Before(deadline):
			if err := pause(ctx, lockPause); err != nil {
				return op.wrap(err)
			}
			continue
		case errors.Is(err, ErrInterrupted) && !repaired:
			// dpkg must finish its own journal before anything else. If a script fails
			// there, that does not matter, because its package is replaced.
			repaired = true
			if err := h.Repair(ctx); err != nil {
				h.o.Log.WarnContext(ctx, "repair before the revert", "err", err)
			}
			continue
		case err != nil:
			return err
		}
		break
	}
	if o.Files {
		if err := h.revertFiles(ctx, op, c); err != nil {
			return err
		}
	}
	return h.revertUnits(ctx, c, o, look)
}

// sameHost refuses a change that was made on another host. A host that was
// renamed is the same.
func sameHost(op task, c Change, look survey) error {
	was, is := c.Plan.Host, look.Identity
	if was == (Identity{}) || was == is || was.Machine != "" && was.Machine == is.Machine {
		return nil
	}
	return op.fail(Error{Kind: ErrRefused, Detail: fmt.Sprintf("the change was made on %s (machine "+
		"%s), this is %s (machine %s)", was.Hostname, dash(was.Machine), is.Hostname, dash(is.Machine)),
		Next: "revert it there; if this host was reinstalled, nothing of the change is left: plan " +
			"the version that you want"})
}

// recorded completes a change of which the caller has only the plan.
func (h *Host) recorded(ctx context.Context, op task, c Change) (Change, error) {
	if c.Dir != "" {
		return c, h.inState(op, c)
	}
	if c.Plan.Digest == "" {
		return c, nil
	}
	if c.Plan.digest() != c.Plan.Digest {
		return c, op.fail(Error{Kind: ErrRefused, Detail: "the digest of its plan does not match the " +
			"plan's content", Next: "use the change as Apply returned it"})
	}
	dir := h.runDir(c.Plan)
	s, data, err := h.jobState(ctx, dir)
	if err != nil {
		return c, op.wrap(err)
	}
	if s.name == "none" {
		return c, nil
	}
	whole, err := readChange(dir, data)
	if err != nil {
		return c, op.wrap(err)
	}
	return whole, h.inState(op, whole)
}

// inState refuses a change whose files are outside of StateDir. Root installs these files, and only
// root can write to StateDir.
func (h *Host) inState(op task, c Change) error {
	bad := path.Clean(c.Dir) != c.Dir || path.Dir(c.Dir) != path.Join(h.o.StateDir, "runs")
	for _, s := range c.Saved {
		bad = bad || path.Clean(s.Path) != s.Path || path.Dir(s.Path) != c.Dir
	}
	for _, f := range append(slices.Clone(c.Files), c.Looked...) {
		bad = bad || !path.IsAbs(f) || path.Clean(f) != f || strings.Contains(f, "\n")
	}
	if bad {
		return op.fail(Error{Kind: ErrRefused, Detail: "the change names files outside of " +
			path.Join(h.o.StateDir, "runs"), Next: "use the change as Apply returned it, and the " +
			"StateDir that it was made with"})
	}
	return nil
}

// revertDir returns the directory of the revert's run, next to that of the change.
func (c Change) revertDir(state string) string {
	if c.Dir != "" {
		return c.Dir + "-revert"
	}
	data, err := json.Marshal(c.Plan.Actions)
	if err != nil {
		data = nil // strings and numbers always marshal
	}
	sum := sha256.Sum256(data)
	return path.Join(state, "runs", "history-"+hex.EncodeToString(sum[:8]))
}

// back returns the actions that are still to be undone.
func back(c Change, now []Package) []Action {
	var list []Action
	for _, a := range c.Plan.Actions {
		p, ok := find(now, a.Package)
		there := ok && p.Status != "config-files"
		switch {
		case a.From.IsZero() && there, !a.From.IsZero() && (!there || p.Version.Compare(a.From) != 0 ||
			!p.Installed()):
			list = append(list, a)
		}
	}
	return list
}

// revertPackages returns the state of the host afterwards. look is the state before.
func (h *Host) revertPackages(ctx context.Context, op task, dir string, c Change,
	look survey) (survey, error) {
	if look.Journal {
		return look, op.fail(Error{Kind: ErrInterrupted, Detail: "its run is unfinished",
			Next: "call Repair"})
	}
	todo := back(c, look.Packages)
	hold := c.heldBefore(h.o.Hold)
	if len(todo) == 0 {
		return look, h.holdAgain(ctx, op, hold, look.Packages)
	}
	in, err := h.revertArgs(ctx, op, c, todo, look)
	if err != nil {
		return look, err
	}
	if err := h.checkRevert(ctx, op, c, in, todo); err != nil {
		return look, err
	}
	if err := h.resetFailed(ctx, c.ServiceNames()); err != nil {
		return look, op.wrap(err)
	}
	prep, err := h.prepare(ctx, dir)
	if err != nil {
		return look, op.wrap(err)
	}
	h.event(Event{Kind: EventStep, Text: op.String()})
	j := job{prep: prep, dir: dir, hold: hold, auto: c.autoBefore(), change: c,
		pins: pins{dir: look.preferences(), all: h.o.Pin, want: pinsOf(c.Plan.Actions, true)},
		argv: h.aptGet(in, "-o", "APT::Status-Fd=3", "-o", fmt.Sprintf("DPkg::Lock::Timeout=%d",
			int(h.o.LockWait.Seconds())))}
	if err := h.start(ctx, j); err != nil {
		h.discard(ctx, prep)
		return look, op.wrap(err)
	}
	s, err := h.follow(ctx, dir)
	if err != nil {
		return look, op.wrap(err)
	}
	dctx, cancel := h.lasting(ctx)
	defer cancel()
	if look, err = h.after(dctx, look, names(c.Plan.Actions)...); err != nil {
		return look, op.wrap(err)
	}
	if left := back(c, look.Packages); len(left) > 0 {
		output, err := h.log(dctx, dir)
		if err != nil {
			return look, op.wrap(err)
		}
		e := classify(op, output, &Error{Op: op.verb, Object: op.object, Kind: ErrOutcome,
			Detail: strings.Join(names(left), ", ") + " not back"})
		if s.name == "dead" {
			e.Kind, e.Next = ErrInterrupted, "call Repair, then Revert again"
		}
		return look, e
	}
	return look, nil
}

// heldBefore returns the packages to hold after the revert: those that were on hold, or all.
func (c Change) heldBefore(all bool) []string {
	var list []string
	for _, b := range c.Before {
		if (all || b.Held()) && b.Status != "config-files" {
			list = append(list, b.Name)
		}
	}
	return list
}

// autoBefore returns the packages that apt had installed for others.
func (c Change) autoBefore() []string {
	var list []string
	for _, b := range c.Before {
		if b.Auto {
			list = append(list, b.Name)
		}
	}
	return list
}

func (h *Host) holdAgain(ctx context.Context, op task, hold []string, now []Package) error {
	hold = slices.DeleteFunc(slices.Clone(hold), func(n string) bool {
		p, ok := find(now, n)
		return ok && p.Held()
	})
	if len(hold) == 0 {
		return nil
	}
	if _, err := h.output(ctx, append([]string{"apt-mark", "hold", "--"}, hold...)...); err != nil {
		return op.wrap(fmt.Errorf("put %s on hold again: %w", strings.Join(hold, ", "), err))
	}
	return nil
}

// resetFailed clears systemd's start limit: after a crash loop it refuses to
// start the unit for ten seconds (systemd 252).
func (h *Host) resetFailed(ctx context.Context, units []string) error {
	if len(units) == 0 || h.o.Root != "" {
		return nil
	}
	// It fails for units that are not loaded, which have nothing to reset.
	_, err := h.script(ctx, nil, "reset-failed", units...)
	return err
}

func (h *Host) revertUnits(ctx context.Context, c Change, o RevertOptions, look survey) error {
	var wait []string
	for _, a := range c.Plan.Actions {
		if a.From.IsZero() {
			continue
		}
		for _, u := range look.units[a.Package] {
			i := slices.IndexFunc(c.UnitsBefore, func(b Unit) bool { return b.Name == u })
			switch {
			case i < 0 && len(c.UnitsBefore) == 0 && begun(look.states, u): // from apt's history
				wait = append(wait, u)
			case i >= 0 && (c.UnitsBefore[i].Active() || c.UnitsBefore[i].ActiveState == "activating"):
				wait = append(wait, u)
			}
		}
	}
	slices.Sort(wait)
	if wait = slices.Compact(wait); len(wait) == 0 {
		return nil
	}
	// The postinst script restarts the unit, but hides a failure.
	if o.Files || slices.ContainsFunc(pick(look.states, wait),
		func(u Unit) bool { return !u.Active() || u.NeedDaemonReload }) {
		return h.Restart(ctx, wait...)
	}
	return h.WaitStable(ctx, wait...)
}
