package redisdb

import "time"

// SetPatience is for tests that are not parallel. The result sets it back.
func SetPatience(d time.Duration) (restore func()) {
	old := patience
	patience = d
	return func() { patience = old }
}
