package fleet

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"

	"example.com/tykupgrade/debpkg/rollout"
)

// Forget removes from the hosts what only a revert of the run needs: saved packages and
// configuration, and old cached bundles. Call it once the run is accepted. Afterwards the run
// cannot be reverted. Hosts that the run did not finish keep everything. After an error or a kill,
// call Forget again.
func (inv *Inventory) Forget(ctx context.Context, rep *rollout.Report) error {
	var wg sync.WaitGroup
	slots := make(chan struct{}, 16)
	errs := make([]error, len(inv.Hosts))
	for i, h := range inv.Hosts {
		r, ok := recordOf(rep, h.Name)
		if !ok {
			continue
		}
		wg.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			err := (&Swap{Runner: inv.Runner(h)}).forget(ctx, r)
			if r.Change != nil && len(r.Plan.Actions) > 0 {
				err = errors.Join(err, inv.host(h, nil).Forget(ctx, *r.Change))
			}
			if err != nil {
				errs[i] = fmt.Errorf("%s: %w", h.Name, err)
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// recordOf returns what the install step of a done host saved last.
func recordOf(rep *rollout.Report, host string) (record, bool) {
	var r record
	for _, t := range rep.Targets {
		if t.Name != host || t.Status != rollout.StatusDone {
			continue
		}
		for _, s := range t.Steps {
			if s.Name == stepInstall && s.Note != nil {
				_ = json.Unmarshal(s.Note, &r)
			}
		}
	}
	return r, r.Plan != nil
}
