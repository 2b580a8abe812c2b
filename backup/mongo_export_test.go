package backup

import (
	"context"
	"time"
)

// RefreshEvery shortens the time between refreshes of sessions.
func (m *Mongo) RefreshEvery(d time.Duration) { m.refresh = d }

// DumpInto writes the files of a component into dir, without set and manifest.
func (m *Mongo) DumpInto(ctx context.Context, dir string) (Component, error) {
	return m.Backup(ctx, NewWriter(dir, m.Name(), nil))
}
