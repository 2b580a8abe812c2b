package cli

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"time"

	"example.com/tykupgrade/debpkg"
	"example.com/tykupgrade/debpkg/fleet"
	"example.com/tykupgrade/debpkg/rollout"
)

// Pruning are the flags of a prune of hosts.
type Pruning struct {
	OlderThan time.Duration
	DryRun    bool

	Now func() time.Time // for tests; nil: time.Now
}

// Flags registers them.
func (p *Pruning) Flags(f *flag.FlagSet) {
	f.DurationVar(&p.OlderThan, "older-than", 0, "forget what changes that ended longer ago than this "+
		"`AGE`, such as 720h, keep for a revert")
	f.BoolVar(&p.DryRun, "dry-run", false, "only say what would be forgotten")
}

// Before is the time that separates old from young.
func (p *Pruning) Before() (time.Time, error) {
	if p.OlderThan <= 0 {
		return time.Time{}, Wrong("invalid -older-than %q: want more than 0, such as 720h", p.OlderThan)
	}
	now := time.Now
	if p.Now != nil {
		now = p.Now
	}
	return now().Add(-p.OlderThan), nil
}

// Prune forgets what hosts keep of old changes, after a question. It keeps what the runs of
// these journals can still undo.
func (c *Call) Prune(ctx context.Context, inv *fleet.Inventory, p *Pruning, json, yes bool,
	journals ...string) error {
	o := fleet.PruneOptions{DryRun: true}
	var err error
	if o.Before, err = p.Before(); err != nil {
		return err
	}
	for _, journal := range journals {
		rep, err := rollout.History(journal)
		if err != nil {
			return Refuse(fmt.Errorf("what can still be undone is unknown: %w", err))
		}
		o.Keep = append(o.Keep, rep)
	}
	rows, err := inv.Prune(ctx, o)
	if !json {
		c.pruned(rows)
	}
	n := forgotten(rows)
	if n > 0 && !p.DryRun { // a machine that cannot be asked does not stop the others
		question := fmt.Sprintf("forget %s for good", Count(n, "change"))
		if err := c.Sure(yes, question); err != nil {
			return err
		}
		o.DryRun = false
		rows, err = inv.Prune(ctx, o)
		if !json {
			c.Out.Printf("%s forgotten\n", Count(forgotten(rows), "change"))
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
		if len(r.Changes) == 0 && r.Error == "" {
			c.Out.Printf("%s keeps nothing\n", r.Host)
		}
	}
}

func forgotten(rows []fleet.Pruned) int {
	n := 0
	for _, r := range rows {
		for _, p := range r.Changes {
			if p.State == debpkg.PruneForgotten {
				n++
			}
		}
	}
	return n
}
