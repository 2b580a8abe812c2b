package backup

import "context"

// RestoreStages restores in stages: all restorers of one stage as one [Set.Restore], then
// between, then the next. Put configuration files before data, and restart what reads them
// in between: a server that loads data makes its clients unhealthy. between may be nil.
//
// A failed stage takes back its own components. Those of earlier stages stay restored; the
// report, which lists the components that were requested, tells which.
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

// Changed reports whether the restore of a component changed an item.
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
