// Package mongodb backs up MongoDB into a set of package backup and restores it: what
// mongodump --out writes, with digests that decide whether a restored collection is the
// one that was dumped.
//
//	set, err := backup.Take(ctx, dir, backup.Options{}, &mongodb.Source{Server: server})
//	…
//	_, err = set.Restore(ctx, backup.RestoreOptions{}, &mongodb.Restore{Server: server, Mode: mongodb.Replace})
//
// [Source] writes a component, [Restore] brings it back, [OpenDump] reads what mongodump
// wrote. [Leftovers] and [Prune] deal with restores that were killed.
//
// Limits: no oplog, no users and roles, no archives, no time series of MongoDB 8.3 and
// newer. Tests run against a stub of the wire protocol; a real replica
// set was not tested, because none was available.
package mongodb
