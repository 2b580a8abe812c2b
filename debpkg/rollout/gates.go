package rollout

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Gate is a condition on a running system, such as a latency or an error rate.
type Gate struct {
	Name     string
	Check    func(context.Context) error // nil: the condition holds
	Failures int                         // failed checks in a row until the gate fails; 0: one
}

// Watch returns a function for Canary.Watch and BlueGreenOptions.Watch. The function checks all
// gates at each interval until its context ends. It returns the error of the first gate that fails.
// A gate that was never checked is a failure too.
func Watch(every time.Duration, gates ...Gate) func(context.Context) error {
	return func(ctx context.Context) error {
		rows := make([]int, len(gates))
		for round := 0; ; round++ {
			for i, g := range gates {
				err := g.Check(ctx)
				if ctx.Err() != nil {
					if round == 0 {
						return fmt.Errorf("gate %s: not checked in time", g.Name)
					}
					return nil
				}
				if rows[i]++; err == nil {
					rows[i] = 0
				}
				if rows[i] > 0 && rows[i] >= g.Failures {
					return fmt.Errorf("gate %s: %w", g.Name, err)
				}
			}
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(every):
			}
		}
	}
}

// Pass returns nil once each gate has passed the given number of times in a row. If ctx ends first,
// Pass returns the last error of each gate that has not.
func Pass(ctx context.Context, every time.Duration, passes int, gates ...Gate) error {
	rows, last := make([]int, len(gates)), make([]error, len(gates))
	for {
		least := max(1, passes)
		for i, g := range gates {
			if last[i] = g.Check(ctx); last[i] == nil {
				rows[i]++
			} else {
				rows[i] = 0
			}
			least = min(least, rows[i])
		}
		if least >= max(1, passes) {
			return nil
		}
		select {
		case <-ctx.Done():
			errs := []error{ctx.Err(), context.Cause(ctx)}
			for i, g := range gates {
				if rows[i] < max(1, passes) {
					errs = append(errs, fmt.Errorf("gate %s: %d of %d passes in a row: %w", g.Name, rows[i],
						max(1, passes), last[i]))
				}
			}
			return errors.Join(errs...)
		case <-time.After(every):
		}
	}
}
