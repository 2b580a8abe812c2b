package compiler

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Sweep removes the containers that crashed runs left, on this machine or
// another one with the same engine: those with our labels and all of this
// Builder's Labels that were created longer than age ago. It returns their
// names. age must be longer than any build may take, because running ones are
// removed too; it must be positive.
func (b *Builder) Sweep(ctx context.Context, age time.Duration) ([]string, error) {
	if age <= 0 {
		return nil, &Error{Op: "sweep", Kind: ErrRequest, Err: fmt.Errorf("age %v is not positive", age)}
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
