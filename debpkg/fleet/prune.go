package fleet

import (
	"context"
	"encoding/json"
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
	Error   string          `json:"error,omitempty"`
}

// Prune removes the saved packages and configuration of old changes from the machines. It is for
// runs that were never accepted. [Inventory.Forget] is for accepted runs. Prune calls
// [debpkg.Host.Prune], which keeps unfinished changes. An error of one machine does not stop the
// others. After an error or a kill, call Prune again.
func (inv *Inventory) Prune(ctx context.Context, o PruneOptions) ([]Pruned, error) {
	hosts, _ := inv.Machines()
	keep := []debpkg.Change{}
	for _, rep := range o.Keep {
		some, err := revertible(rep)
		if err != nil {
			return nil, err
		}
		keep = append(keep, some...)
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
func revertible(rep *rollout.Report) ([]debpkg.Change, error) {
	if rep == nil || rep.Outcome == rollout.OutcomeUndone {
		return nil, nil
	}
	var list []debpkg.Change
	for _, t := range rep.Targets {
		for _, s := range t.Steps {
			if s.Name != stepInstall || s.Note == nil {
				continue
			}
			var r record
			if err := json.Unmarshal(s.Note, &r); err != nil {
				return nil, &Error{Op: "read", Object: "what the run saved of " + t.Name, Err: err,
					Next: "check the journal"}
			}
			if r.Plan != nil {
				list = append(list, r.change())
			}
		}
	}
	return list, nil
}
