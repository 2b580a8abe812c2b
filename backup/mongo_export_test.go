package backup

import "time"

// RefreshEvery shortens the time between refreshes of sessions.
func (m *Mongo) RefreshEvery(d time.Duration) { m.refresh = d }
