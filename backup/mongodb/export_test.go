package mongodb

import "time"

// RefreshEvery shortens the time between refreshes of sessions.
func (m *Source) RefreshEvery(d time.Duration) { m.refresh = d }

// Lease shortens how long a silent restore counts as alive.
func (m *Restore) Lease(d time.Duration) { m.lease = d }
