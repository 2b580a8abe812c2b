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

// PruneOptions say what [Inventory.Prune] forgets.
type PruneOptions struct {
	// Before is required: changes that ended earlier are forgotten.
	Before time.Time
	// Keep has the runs of the known journals. Their changes stay unless the runs are undone.
	// Prune knows no other journals.
	Keep   []*rollout.Report
	DryRun bool // only report
}

// Pruned is what one machine keeps for reverts, and what became of it.
type Pruned struct {
	Host    string          `json:"host"` // one of those on the machine
	Changes []debpkg.Pruned `json:"changes"`
	Error   string          `json:"error,omitempty"`
}

// Prune forgets what the machines keep of old changes by [debpkg.Host.Prune], which never
// forgets an unfinished one: saved packages and configuration. For runs that were never
// accepted; [Inventory.Forget] is for those that are. An error of one machine does not stop
// the others. Call it again after an error or a kill.
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

// revertible are the changes that an undo of the run would revert. It takes all that the run
// ever saved: a plan too many keeps a change too many, and a plan too few loses one.
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
					Next: "look at the journal"}
			}
			if r.Plan != nil {
				list = append(list, r.change())
			}
		}
	}
	return list, nil
}
