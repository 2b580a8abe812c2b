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
	"example.com/tykupgrade/examples/internal/term"
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
	h := c.open()
	plans, err := c.makePlans(ctx, h)
	if err != nil {
		return nil, err
	}
	plans = slices.DeleteFunc(plans, debpkg.Plan.Empty)
	if len(plans) == 0 {
		return nil, nil
	}
	if err := c.ask(); err != nil {
		return nil, err
	}
	if c.out == "" {
		c.out = "upgradehost-" + time.Now().UTC().Format("20060102T150405Z") + ".json"
	}
	do := h.Apply
	if c.stage {
		do = h.Stage
	}
	var changes []debpkg.Change
	for _, p := range plans {
		change, err := do(ctx, p)
		// A failed change is written too: it is what has to be reverted.
		if !change.Started.IsZero() {
			changes = append(changes, change)
			if werr := c.writeChanges(changes); werr != nil {
				return changes, errors.Join(err, werr)
			}
		}
		if err != nil {
			if !change.Started.IsZero() {
				err = fmt.Errorf("%w\nto go back: upgradehost revert -change %s", err, c.out)
			}
			return changes, err
		}
		c.stderr.Clear()
		if !c.json {
			c.printChange(change)
		}
	}
	if !c.json {
		c.stdout.Printf("To go back: upgradehost revert -change %s\n", c.out)
	}
	return changes, nil
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

func (c *command) writeChanges(changes []debpkg.Change) error {
	data, err := json.MarshalIndent(changes, "", "  ")
	if err != nil {
		return fmt.Errorf("write %s: %w", c.out, err)
	}
	if err := os.WriteFile(c.out+".tmp", append(data, '\n'), 0o600); err != nil {
		return fmt.Errorf("write what a revert needs: %w", err)
	}
	return os.Rename(c.out+".tmp", c.out)
}

func (c *command) revert(ctx context.Context) (any, error) {
	if (c.change == "") == (c.last == "") {
		return nil, usageError("give either -change FILE or -last PACKAGES")
	}
	h := c.open()
	var changes []debpkg.Change
	if c.change != "" {
		data, err := os.ReadFile(c.change)
		if err != nil {
			return nil, err
		}
		if err := json.Unmarshal(data, &changes); err != nil {
			return nil, fmt.Errorf("read %s: %w", c.change, err)
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
				c.stdout.Printf("%s %s is back from %s\n", c.stdout.Paint(term.Good, "ok"), state(a.Package, a.From), state(a.Package, a.To))
			}
		}
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
				result := c.stdout.Paint(term.Good, "ok")
				if e.Error != "" {
					result = c.stdout.Paint(term.Bad, e.Error)
				}
				rows = append(rows, []string{e.Start.Format(time.DateTime), string(a.Kind), a.Package, a.From.String(), a.To.String(), result})
			}
		}
		c.stdout.Printf("%s", c.stdout.Table(rows))
	}
	return entries, nil
}
