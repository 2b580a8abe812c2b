package debpkg

import (
	"context"
	"fmt"
	"path"
)

// Repair configures the half-installed packages that an interrupted run left. It keeps edited
// conffiles, or takes the maintainer's with [Options].NewConffiles. It installs nothing. The error
// is an [ErrScript] if a package's own script fails again.
func (h *Host) Repair(ctx context.Context) error {
	op := task{"repair", "half-installed packages"}
	return h.retryLocked(ctx, op, func() error {
		h.event(Event{Kind: EventStep, Text: op.String()})
		dir := path.Join(h.o.StateDir, "runs", "repair")
		// An earlier repair may still be running.
		if _, err := h.follow(ctx, dir); err != nil {
			return op.wrap(err)
		}
		look, err := h.survey(ctx)
		if err != nil {
			return op.wrap(err)
		}
		argv := append([]string{"dpkg"}, look.options...)
		if h.o.NewConffiles {
			argv = append(argv, "--force-confnew")
		} else {
			argv = append(argv, "--force-confdef", "--force-confold")
		}
		prep, err := h.prepare(ctx, dir)
		if err != nil {
			return op.wrap(err)
		}
		if err := h.start(ctx, job{prep: prep, dir: dir, argv: append(argv, "--configure",
			"-a")}); err != nil {
			h.discard(ctx, prep)
			return op.wrap(err)
		}
		s, err := h.follow(ctx, dir)
		if err != nil {
			return op.wrap(err)
		}
		if s.name == "ended" && s.n == 0 {
			return nil
		}
		output, err := h.log(ctx, dir)
		if err != nil {
			return op.wrap(err)
		}
		return classify(op, output, nil)
	})
}

// Forget removes the saved .deb files and configuration of a change from the host. They are then
// missing for a revert. The error is an [ErrLocked] while the change or its revert is running, and
// an [ErrRefused] if the change was made on another host.
func (h *Host) Forget(ctx context.Context, c Change) error {
	dir := path.Clean(c.Dir)
	if c.Dir == "" && c.Plan.Digest != "" && c.Plan.digest() == c.Plan.Digest {
		dir = h.runDir(c.Plan)
	}
	if path.Dir(dir) != path.Join(h.o.StateDir, "runs") {
		return task{"forget", "a change"}.wrap(fmt.Errorf("%q is not a directory of this host's runs",
			c.Dir))
	}
	op := task{"forget", "the change in " + dir}
	look, err := h.survey(ctx)
	if err != nil {
		return op.wrap(err)
	}
	if err := sameHost(op, c, look); err != nil {
		return err
	}
	for _, d := range []string{dir, dir + "-revert"} {
		s, _, err := h.jobState(ctx, d)
		if err != nil {
			return op.wrap(err)
		}
		if s.name == "running" {
			return &Error{Op: op.verb, Object: op.object, Kind: ErrLocked,
				Detail: fmt.Sprintf("process %d is working on it", s.n), Retry: true,
				Next: "wait for it to end"}
		}
	}
	return h.forget(ctx, dir)
}
