package backup

import "context"

// RestoreStages restores in stages. Each stage is one [Set.Restore], and between runs after it.
// between may be nil. Put configuration files before data and restart their services in between,
// because a server that loads data makes its clients unhealthy.
//
// A failed stage undoes its own components. Those of earlier stages stay restored. The report lists
// all requested components with their states.
func (s *Set) RestoreStages(ctx context.Context, o RestoreOptions, between func(context.Context,
	Report) error, stages ...[]Restorer) (Report, error) {
	whole := Report{Set: s.ID, DryRun: o.DryRun}
	for _, to := range stages {
		if len(to) == 0 {
			continue
		}
		part, err := s.Restore(ctx, o, to...)
		for _, c := range part.Components {
			if c.State != StateNotRequested {
				whole.Components = append(whole.Components, c)
			}
		}
		if err == nil && between != nil && !o.DryRun {
			err = between(ctx, part)
		}
		if err != nil {
			return whole, err
		}
	}
	return whole, nil
}

// Changed returns the number of items that the restore of the component created, replaced or
// dropped.
func (c ComponentReport) Changed() int {
	n := 0
	for _, i := range c.Items {
		switch i.Action {
		case ActionCreate, ActionReplace, ActionDrop:
			n++
		}
	}
	return n
}
