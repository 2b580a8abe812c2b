// Package mongodb backs up MongoDB into a set of package backup and restores it: what
// mongodump --out writes, with digests that decide whether a restored collection is the
// one that was dumped.
//
//	set, err := backup.Take(ctx, dir, backup.Options{}, &mongodb.Source{Server: server})
//	…
//	_, err = set.Restore(ctx, backup.RestoreOptions{}, &mongodb.Restore{Server: server, Mode: mongodb.Replace})
//
// [Source] writes a component, [Restore] restores it, and [OpenDump] reads what mongodump
// wrote. [Leftovers] lists what killed restores left on a server, and [Prune] removes it.
//
// # Limits
//
// No oplog, no users and roles, no archives, no time series of MongoDB 8.3 and newer. Tests
// run against a stub of the wire protocol. Not tested with a real replica set: none was
// available.
package mongodb
