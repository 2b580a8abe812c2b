package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"example.com/tykupgrade/debpkg"
	"example.com/tykupgrade/examples/internal/cli"
)

func (c *command) facts(ctx context.Context) (any, error) {
	f, err := c.open().Facts(ctx)
	if err != nil {
		return nil, err
	}
	if !c.json {
		c.printFacts(f)
	}
	return f, nil
}

// requests turns the flags into one request per component, in the procedure's
// order: dashboard, gateway, pump, then others as given.
func (c *command) requests() ([][]debpkg.Request, error) {
	var list [][]debpkg.Request
	var others []debpkg.Request
	add := func(pkg, version string) error {
		v, err := debpkg.ParseVersion(version)
		if err != nil {
			return usageError("%s: %v", pkg, err)
		}
		others = append(others, debpkg.Request{Package: pkg, Version: v, Deb: c.debs})
		return nil
	}
	for _, comp := range debpkg.Components() {
		if v := *c.versions[comp.Package]; v != "" {
			if err := add(comp.Package, v); err != nil {
				return nil, err
			}
			list = append(list, others)
			others = nil
		}
	}
	for _, p := range c.packages {
		name, version, ok := strings.Cut(p, "=")
		switch {
		case ok:
			if err := add(name, version); err != nil {
				return nil, err
			}
		case strings.HasSuffix(p, "-"):
			others = append(others, debpkg.Request{Package: strings.TrimSuffix(p, "-"), Remove: true})
		default:
			return nil, usageError("-package %s: write name=version, or name- to remove it", p)
		}
	}
	// These go together: an edition replaces another in one step.
	if others != nil {
		list = append(list, others)
	}
	if list == nil {
		return nil, usageError("name a version: -dashboard, -gateway, -pump or -package")
	}
	return list, nil
}

func (c *command) makePlans(ctx context.Context, h *debpkg.Host) ([]debpkg.Plan, error) {
	list, err := c.requests()
	if err != nil {
		return nil, err
	}
	if !c.noUpdate && c.debs == "" {
		if err := h.Update(ctx); err != nil {
			return nil, err
		}
	}
	var plans []debpkg.Plan
	for _, want := range list {
		p, err := h.Plan(ctx, want...)
		if err != nil {
			return plans, err
		}
		plans = append(plans, p)
	}
	c.stderr.Clear()
	if !c.json {
		for _, p := range plans {
			c.stdout.Printf("%s\n", p)
		}
	}
	for _, p := range plans {
		if err := p.Refused(); err != nil {
			return plans, err
		}
	}
	return plans, nil
}

func (c *command) plan(ctx context.Context) (any, error) {
	plans, err := c.makePlans(ctx, c.open())
	return plans, err
}

func (c *command) apply(ctx context.Context) (any, error) {
	if c.out == "" {
		c.out = "upgradehost-" + time.Now().UTC().Format("20060102T150405Z") + ".json"
	}
	all, err := readChanges(c.out)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	h := c.open()
	var made []debpkg.Change
	finished := len(all) > 0
	for i, change := range all {
		if change.Started.IsZero() {
			// Its process was killed; the same plan finds what became of it.
			finished = false
			c.stderr.Printf("finishing what an earlier apply began\n")
			if made, err = c.carryOut(ctx, h, all, i, made, true); err != nil {
				return made, err
			}
		}
	}
	plans, err := c.makePlans(ctx, h)
	if err != nil {
		return nil, err
	}
	plans = slices.DeleteFunc(plans, debpkg.Plan.Empty)
	if len(plans) == 0 {
		return made, nil
	}
	if finished {
		return nil, usageError("%s holds what a revert of earlier changes needs; name another file with -out", c.out)
	}
	if err := c.ask(); err != nil {
		return nil, err
	}
	for _, p := range plans {
		all = append(all, debpkg.Change{Plan: p})
		if made, err = c.carryOut(ctx, h, all, len(all)-1, made, false); err != nil {
			return made, err
		}
	}
	if !c.json {
		c.stdout.Printf("To go back: upgradehost revert -change %s\n", c.out)
	}
	return made, nil
}

// carryOut applies the plan of all[i], which an earlier apply may have begun.
// The file tells of it before it begins, and a failed change stays in it: that is
// what has to be reverted.
func (c *command) carryOut(ctx context.Context, h *debpkg.Host, all []debpkg.Change, i int, made []debpkg.Change, begun bool) ([]debpkg.Change, error) {
	if err := c.writeChanges(all); err != nil {
		return made, err
	}
	do := h.Apply
	if c.stage {
		do = h.Stage
	}
	change, err := do(ctx, all[i].Plan)
	// Only the host's own word settles that what an earlier apply began is not there.
	if begun && change.Started.IsZero() && err != nil && !errors.Is(err, debpkg.ErrChanged) && !errors.Is(err, debpkg.ErrRefused) {
		return made, fmt.Errorf("%w\n%s still tells of it: call again, or name another file with -out to leave it", err, c.out)
	}
	if change.Started.IsZero() { // nothing was done
		return made, errors.Join(err, c.writeChanges(slices.Delete(slices.Clone(all), i, i+1)))
	}
	all[i], made = change, append(made, change)
	if werr := c.writeChanges(all); werr != nil {
		return made, errors.Join(err, werr)
	}
	if err != nil {
		return made, fmt.Errorf("%w\nto go back: upgradehost revert -change %s", err, c.out)
	}
	c.stderr.Clear()
	if !c.json {
		c.printChange(change)
	}
	return made, nil
}

func (c *command) ask() error {
	if c.yes {
		return nil
	}
	c.stderr.Printf("Carry this out? Type yes: ")
	answer, err := c.stdin.ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("read the answer: %w", err)
	}
	if strings.TrimSpace(answer) != "yes" {
		return errDeclined
	}
	return nil
}

func readChanges(file string) ([]debpkg.Change, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var changes []debpkg.Change
	if err := json.Unmarshal(data, &changes); err != nil {
		return nil, fmt.Errorf("read %s: %w; is it a file that apply wrote?", file, err)
	}
	return changes, nil
}

// writeChanges replaces the file, and removes it when there is nothing to tell.
func (c *command) writeChanges(changes []debpkg.Change) error {
	if len(changes) == 0 {
		return os.Remove(c.out)
	}
	data, err := json.MarshalIndent(changes, "", "  ")
	if err != nil {
		return fmt.Errorf("write %s: %w", c.out, err)
	}
	if err := cli.WriteFile(c.out, append(data, '\n')); err != nil {
		return fmt.Errorf("write what a revert needs: %w", err)
	}
	return nil
}

func (c *command) revert(ctx context.Context) (any, error) {
	if (c.change == "") == (c.last == "") {
		return nil, usageError("give either -change FILE or -last PACKAGES")
	}
	h := c.open()
	var changes []debpkg.Change
	if c.change != "" {
		var err error
		if changes, err = readChanges(c.change); err != nil {
			return nil, err
		}
	} else {
		change, err := h.RevertFromHistory(ctx, strings.Split(c.last, ",")...)
		if err != nil {
			return nil, err
		}
		changes = append(changes, change)
	}
	// The last change first.
	for _, change := range slices.Backward(changes) {
		if err := h.Revert(ctx, change, debpkg.RevertOptions{Files: c.files}); err != nil {
			return nil, err
		}
		c.stderr.Clear()
		if !c.json {
			for _, a := range change.Plan.Actions {
				c.stdout.Printf("%s %s is back from %s\n", c.stdout.Paint(cli.Good, "ok"), state(a.Package, a.From), state(a.Package, a.To))
			}
		}
	}
	return nil, nil
}

func (c *command) repair(ctx context.Context) (any, error) {
	if err := c.open().Repair(ctx); err != nil {
		return nil, err
	}
	c.stderr.Clear()
	if !c.json {
		c.stdout.Printf("%s no package is left half-installed\n", c.stdout.Paint(cli.Good, "ok"))
	}
	return nil, nil
}

// forget asks the host first: the file is of use as long as the host keeps
// anything of what it tells.
func (c *command) forget(ctx context.Context) (any, error) {
	if c.change == "" {
		return nil, usageError("give -change FILE, which apply wrote")
	}
	changes, err := readChanges(c.change)
	if err != nil {
		return nil, err
	}
	h := c.open()
	for _, change := range changes {
		if err := h.Forget(ctx, change); err != nil {
			return nil, err
		}
	}
	if err := os.Remove(c.change); err != nil {
		return nil, err
	}
	if !c.json {
		c.stdout.Printf("%s nothing is kept of %s any more; it cannot be reverted\n", c.stdout.Paint(cli.Good, "ok"), c.change)
	}
	return nil, nil
}

func (c *command) history(ctx context.Context) (any, error) {
	entries, err := c.open().History(ctx)
	if err != nil {
		return nil, err
	}
	if entries == nil {
		entries = []debpkg.Entry{} // [] rather than null
	}
	if !c.json {
		rows := [][]string{{"WHEN", "WHAT", "PACKAGE", "FROM", "TO", "RESULT"}}
		for _, e := range entries {
			for _, a := range e.Actions {
				result := c.stdout.Paint(cli.Good, "ok")
				if e.Error != "" {
					result = c.stdout.Paint(cli.Bad, e.Error)
				}
				rows = append(rows, []string{e.Start.Format(time.DateTime), string(a.Kind), a.Package, a.From.String(), a.To.String(), result})
			}
		}
		c.stdout.Printf("%s", c.stdout.Table(rows))
	}
	return entries, nil
}
