package pluginbuild

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/docker/docker/api/types/container"
)

// Sweep removes the containers that crashed runs left, on this machine or
// another one with the same engine: those with our labels and all of this
// Builder's Labels that were created longer than age ago. It returns their
// names. age must be longer than any build may take, because running ones are
// removed too; it must be positive.
func (b *Builder) Sweep(ctx context.Context, age time.Duration) ([]string, error) {
	if age <= 0 {
		return nil, fmt.Errorf("sweep: %w: age %v is not positive", ErrRequest, age)
	}
	list, err := b.docker.ContainerList(ctx, container.ListOptions{All: true, Filters: b.filter()})
	if err != nil {
		return nil, fail(ctx, StageConnect, "Docker engine", fmt.Errorf("list containers: %w", err))
	}
	limit := time.Now().Add(-age)
	var removed []string
	var errs []error
	for _, c := range list {
		if !b.ours(c.Labels) || time.Unix(c.Created, 0).After(limit) {
			continue
		}
		if err := b.removeContainer(ctx, c.ID); err != nil {
			errs = append(errs, err)
			continue
		}
		name := c.ID
		if len(c.Names) > 0 {
			name = strings.TrimPrefix(c.Names[0], "/")
		}
		removed = append(removed, name)
	}
	return removed, errors.Join(errs...)
}
