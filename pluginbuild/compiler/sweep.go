package compiler

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Sweep removes containers that crashed runs left in the engine, and returns their names. It
// removes those with this package's labels and all of the Builder's Labels that are older than age.
// age must be positive, and longer than any build takes, because Sweep also removes running
// containers.
func (b *Builder) Sweep(ctx context.Context, age time.Duration) ([]string, error) {
	if age <= 0 {
		return nil, &Error{Op: "sweep", Kind: ErrRequest, Err: fmt.Errorf("invalid age %v: want more "+
			"than 0", age)}
	}
	list, err := b.engine.list(ctx, containers, b.o.Labels)
	if err != nil {
		return nil, fail(ctx, StageConnect, "Docker engine", fmt.Errorf("list containers: %w", err))
	}
	limit := time.Now().Add(-age)
	var removed []string
	var errs []error
	for _, c := range list {
		if time.Unix(c.unix, 0).After(limit) {
			continue
		}
		if err := b.removeContainer(ctx, c.id); err != nil {
			errs = append(errs, err)
			continue
		}
		removed = append(removed, c.name)
	}
	return removed, errors.Join(errs...)
}
