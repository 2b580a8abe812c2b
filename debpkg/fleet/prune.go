package fleet

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"example.com/tykupgrade/debpkg"
	"example.com/tykupgrade/debpkg/rollout"
)

// PruneOptions set what [Inventory.Prune] forgets.
type PruneOptions struct {
	// Before is required. Prune forgets changes that ended earlier.
	Before time.Time
	// Keep has the reports of known journals. Their changes stay, unless the run was undone.
	// Prune does not look for other journals.
	Keep   []*rollout.Report
	DryRun bool // only report
}

// Pruned lists what one machine kept for reverts, and what Prune did with it.
type Pruned struct {
	Host    string          `json:"host"` // one of those on the machine
	Changes []debpkg.Pruned `json:"changes"`
	Bundles []PrunedBundle  `json:"bundles,omitempty"`
	Error   string          `json:"error,omitempty"`
}

// Prune removes the saved packages and configuration of old changes from the machines, and the
// cached bundles that a [Swap] moved away before that time. It is for runs that were never accepted.
// [Inventory.Forget] is for accepted runs. Prune calls [debpkg.Host.Prune], which keeps unfinished
// changes. A bundle stays as long as its change. An error of one machine does not stop the others.
// After an error or a kill, call Prune again.
func (inv *Inventory) Prune(ctx context.Context, o PruneOptions) ([]Pruned, error) {
	hosts, _ := inv.Machines()
	keep, inUse := []debpkg.Change{}, map[string]bool{}
	for _, rep := range o.Keep {
		some, err := revertible(rep)
		if err != nil {
			return nil, err
		}
		keep = append(keep, some...)
		paths, err := putAside(rep)
		if err != nil {
			return nil, err
		}
		for _, p := range paths {
			inUse[p] = true
		}
	}
	rows := make([]Pruned, len(hosts))
	errs := make([]error, len(hosts))
	var wg sync.WaitGroup
	slots := make(chan struct{}, 16)
	for i, h := range hosts {
		wg.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			list, err := inv.host(h, nil).Prune(ctx, debpkg.PruneOptions{Before: o.Before, Keep: keep,
				DryRun: o.DryRun})
			rows[i] = Pruned{Host: h.Name, Changes: append([]debpkg.Pruned{}, list...)}
			if err == nil {
				rows[i].Bundles, err = (&Swap{Runner: inv.Runner(h)}).prune(ctx, o, inUse, list)
			}
			if err != nil {
				rows[i].Error, errs[i] = err.Error(), fmt.Errorf("%s: %w", h.Name, err)
			}
		})
	}
	wg.Wait()
	return rows, errors.Join(errs...)
}

// revertible returns the changes that an undo of the run would revert. It takes everything that the
// run ever saved. One plan too many only keeps a change, one too few loses it.
func revertible(rep *rollout.Report) (list []debpkg.Change, err error) {
	err = eachRecord(rep, func(r record) {
		if r.Plan != nil {
			list = append(list, r.change())
		}
	})
	return list, err
}
