// Package mongodb backs up MongoDB into a set of package backup, and restores it. The files are
// those of mongodump --out. Digests show whether a restored collection equals the dumped one.
//
//	set, err := backup.Take(ctx, dir, backup.Options{}, &mongodb.Source{Server: server})
//	…
//	_, err = set.Restore(ctx, backup.RestoreOptions{}, &mongodb.Restore{Server: server, Mode: mongodb.Replace})
//
// [Source] writes a component, and [Restore] restores it. [OpenDump] reads a dump of mongodump.
// [Leftovers] lists what killed restores left on a server, and [Prune] removes it.
//
// # Limits
//
// The oplog, users and roles, archives, and time series of MongoDB 8.3 and newer are not supported.
// Tests run against a stub of the wire protocol. Not tested with a real replica set: none was
// available.
package mongodb
