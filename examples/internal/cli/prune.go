package cli

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"strings"
	"time"

	"example.com/tykupgrade/debpkg"
	"example.com/tykupgrade/debpkg/fleet"
	"example.com/tykupgrade/debpkg/rollout"
)

// PruneFlags registers the flags of [Call.Prune].
func PruneFlags(f *flag.FlagSet) {
	f.Duration("older-than", 0, "forget the kept files of changes that ended longer ago than this "+
		"`AGE`, such as 720h")
	f.Bool("dry-run", false, "only print what would be forgotten")
}

// Before returns the time that the flag -older-than means. now is for tests; nil means time.Now.
func (c *Call) Before(now func() time.Time) (time.Time, error) {
	age := c.Duration("older-than")
	switch {
	case !c.Given["older-than"]:
		return time.Time{}, Wrong("-older-than is missing")
	case age <= 0:
		return time.Time{}, Wrong("invalid -older-than %q: want more than 0, such as 720h", age)
	}
	if now == nil {
		now = time.Now
	}
	return now().Add(-age), nil
}

// Prune asks, then removes the files that hosts keep of old changes. It spares changes that the
// runs of these journals can still undo. Its flags are those of [PruneFlags], -json and -yes. now
// is for tests; nil means time.Now.
func (c *Call) Prune(ctx context.Context, inv *fleet.Inventory, now func() time.Time,
	journals ...string) error {
	o, json := fleet.PruneOptions{DryRun: true}, c.On("json")
	var err error
	if o.Before, err = c.Before(now); err != nil {
		return err
	}
	for _, journal := range journals {
		rep, err := rollout.History(journal)
		if err != nil {
			return Refuse(fmt.Errorf("list runs that can still be undone: %w", err))
		}
		o.Keep = append(o.Keep, rep)
	}
	rows, err := inv.Prune(ctx, o)
	if !json {
		c.pruned(rows)
	}
	what := forgotten(rows)
	if what != "" && !c.On("dry-run") { // an unreachable machine does not stop the others
		question := fmt.Sprintf("forget %s for good", what)
		if err := c.Sure(c.On("yes"), question); err != nil {
			return err
		}
		o.DryRun = false
		rows, err = inv.Prune(ctx, o)
		if !json {
			c.Out.Printf("%s forgotten\n", cmp.Or(forgotten(rows), "nothing"))
		}
	}
	if json && rows != nil {
		err = errors.Join(err, c.JSON(rows))
	}
	return err
}

func (c *Call) pruned(rows []fleet.Pruned) {
	for _, r := range rows {
		for _, p := range r.Changes {
			c.Out.Printf("%s %s\n", r.Host, p)
		}
		for _, b := range r.Bundles {
			c.Out.Printf("%s %s\n", r.Host, b)
		}
		if len(r.Changes)+len(r.Bundles) == 0 && r.Error == "" {
			c.Out.Printf("%s keeps nothing\n", r.Host)
		}
	}
}

// forgotten counts what is or would be forgotten: "2 changes", "1 change and 1 cached bundle"; "":
// nothing.
func forgotten(rows []fleet.Pruned) string {
	changes, bundles := 0, 0
	for _, r := range rows {
		for _, p := range r.Changes {
			if p.State == debpkg.PruneForgotten {
				changes++
			}
		}
		for _, b := range r.Bundles {
			if b.State == debpkg.PruneForgotten {
				bundles++
			}
		}
	}
	var parts []string
	if changes > 0 {
		parts = append(parts, Count(changes, "change"))
	}
	if bundles > 0 {
		parts = append(parts, Count(bundles, "cached bundle"))
	}
	return strings.Join(parts, " and ")
}
