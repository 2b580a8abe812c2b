package backup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"

	"example.com/tykupgrade/backup/internal/step"
)

// RestoreStages restores in stages: all restorers of one stage as one [Set.Restore], then
// between, then the next. Put configuration files before data, and restart what reads them
// in between: a server that loads data makes its clients unhealthy. between may be nil.
//
// A failed stage takes back its own components. Those of earlier stages stay restored; the
// report, which lists the components that were asked for, tells which.
func (s *Set) RestoreStages(ctx context.Context, o RestoreOptions, between func(context.Context, Report) error, stages ...[]Restorer) (Report, error) {
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

// Find opens a set below dir: "latest", an id, or any set by a path with a slash.
func Find(dir, name string) (*Set, error) {
	if name != "latest" {
		if !strings.Contains(name, "/") {
			name = filepath.Join(dir, name)
		}
		return Open(name)
	}
	sets, err := List(dir)
	if len(sets) > 0 {
		return sets[0], nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	return nil, &step.Error{Op: "find set", Object: dir, Err: fmt.Errorf("%w: the directory holds no set", ErrNotASet), Next: "take one first"}
}
