package debpkg

import (
	"context"
	"encoding/json"
	"fmt"
	"path"
	"slices"
	"strings"
	"time"
)

// conclude follows the run to its end and checks the result. before is the host before the run,
// if known.
func (h *Host) conclude(ctx context.Context, op task, c Change, before survey) (Change, error) {
	s, err := h.follow(ctx, c.Dir)
	if err != nil {
		return c, op.wrap(err)
	}
	// The result is recorded even if the caller has stopped waiting.
	dctx, cancel := h.lasting(ctx)
	defer cancel()
	c.ExitCode, c.Ended = s.n, time.Now().UTC()
	if s.name == "dead" && c.Staged {
		if err := h.unmask(dctx, c.UnitsBefore); err != nil {
			return c, op.wrap(err)
		}
	}
	look, err := h.after(dctx, before, names(c.Plan.Actions)...)
	if err != nil {
		return c, op.wrap(err)
	}
	c.After = look.Packages
	wrong := c.unmet()
	var output said
	if len(wrong) > 0 || s.name == "dead" || s.n != 0 {
		if output, err = h.log(dctx, c.Dir); err != nil {
			return c, op.wrap(err)
		}
	}
	var verdict error
	switch {
	case len(wrong) > 0 && s.name == "dead":
		verdict = &Error{Op: op.verb, Object: op.object, Kind: ErrInterrupted,
			Detail: "the run vanished: " + strings.Join(wrong, "; "), Output: output.String(),
			Next: "call Repair, then Revert or apply a new plan"}
	case len(wrong) > 0:
		e := classify(op, output, &Error{Op: op.verb, Object: op.object, Kind: ErrOutcome,
			Detail: strings.Join(wrong, "; ")})
		e.Detail = strings.TrimSpace(e.Detail + "\n" + strings.Join(wrong, "; "))
		verdict = e
	case s.name == "dead" || s.n != 0:
		// Half-configured packages that the change does not concern make every run fail.
		c.Note = classify(op, output, nil).Error()
		h.o.Log.WarnContext(ctx, "the packages are as planned, but apt complained", "note", c.Note)
	}
	if verdict == nil {
		c, verdict = h.judgeUnits(dctx, c, look)
	}
	if err := h.saveChange(dctx, c); err != nil {
		h.o.Log.WarnContext(ctx, "the change is not recorded on the host", "err", err)
	}
	if verdict == nil && ctx.Err() != nil {
		return c, op.wrap(fmt.Errorf("the change is complete, but: %w", ended(ctx)))
	}
	return c, verdict
}

// unmask unmasks the units if the job of a staged change was killed. Nothing starts a masked unit.
func (h *Host) unmask(ctx context.Context, units []Unit) error {
	var names []string
	for _, u := range units {
		if u.LoadState == "loaded" {
			names = append(names, u.Name)
		}
	}
	if len(names) == 0 {
		return nil
	}
	if _, err := h.output(ctx, append([]string{"systemctl", "unmask", "--runtime", "--"},
		names...)...); err != nil {
		return task{"unmask", strings.Join(names, ", ")}.wrap(err)
	}
	return nil
}

func (h *Host) saveChange(ctx context.Context, c Change) error {
	data, err := json.Marshal(c)
	if err != nil {
		return err
	}
	return h.writeFile(ctx, path.Join(c.Dir, "change.json"), data)
}

// unmet lists the differences from the plan.
func (c Change) unmet() []string {
	var list []string
	for _, a := range c.Plan.Actions {
		now, ok := find(c.After, a.Package)
		there := ok && now.Status != "config-files"
		switch {
		case a.Kind == Remove && there:
			list = append(list, fmt.Sprintf("%s is still %s", a.Package, now.Status))
		case a.Kind == Remove:
		case !there:
			list = append(list, a.Package+" is not installed")
		case now.Version.Compare(a.To) != 0 || !now.Installed():
			list = append(list, fmt.Sprintf("%s is %s at %s instead of installed at %s", a.Package,
				now.Status, now.Version, a.To))
		case (a.Held || c.Plan.Hold) && !now.Held():
			list = append(list, a.Package+" is not on hold")
		}
	}
	return list
}

// judgeUnits waits until the units that ran before, and new ones, are stable.
func (h *Host) judgeUnits(ctx context.Context, c Change, look survey) (Change, error) {
	c.Units = map[string][]string{}
	var wait []string
	for _, a := range c.Plan.Actions {
		if a.Kind == Remove || len(look.units[a.Package]) == 0 {
			continue
		}
		c.Units[a.Package] = look.units[a.Package]
		for _, u := range look.units[a.Package] {
			i := slices.IndexFunc(c.UnitsBefore, func(b Unit) bool { return b.Name == u })
			comp, ok := component(a.Package)
			switch {
			// A unit that a timer or an administrator starts need not run.
			case i < 0 && !(ok && comp.Unit == u) && !begun(look.states, u):
			case i < 0, c.UnitsBefore[i].Active(), c.UnitsBefore[i].ActiveState == "activating":
				wait = append(wait, u)
			}
		}
	}
	c.UnitsAfter = pick(look.states, c.ServiceNames())
	if !c.Staged {
		states, err := h.waitStable(ctx, wait)
		for i, u := range c.UnitsAfter {
			if j := slices.IndexFunc(states, func(s Unit) bool { return s.Name == u.Name }); j >= 0 {
				c.UnitsAfter[i] = states[j]
			}
		}
		return c, err
	}
	for _, u := range c.UnitsBefore {
		// A unit file in /etc wins over the mask in /run.
		i := slices.IndexFunc(c.UnitsAfter, func(a Unit) bool { return a.Name == u.Name })
		if u.Active() && i >= 0 && c.UnitsAfter[i].InvocationID != u.InvocationID {
			c.Note = strings.TrimSpace(c.Note + " " + u.Name +
				" was restarted although the change was staged")
		}
	}
	return c, nil
}
