package fleet

import (
	"context"
	"errors"
	"time"

	"example.com/tykupgrade/health"
)

// Hurry sets how often load balancers are asked.
func (inv *Inventory) Hurry(every time.Duration) { inv.every = every }

// AskGates asks every gate once, however long that takes.
func (inv *Inventory) AskGates(ctx context.Context) error {
	rep, err := health.Once(ctx, health.Policy{TryTimeout: 5 * time.Minute}, inv.gateProbes()...)
	errs := []error{err}
	for _, p := range rep.Probes {
		if p.Status != health.Pass {
			errs = append(errs, errors.New(p.Probe+": "+p.Error))
		}
	}
	return errors.Join(errs...)
}
