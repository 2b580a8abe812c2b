// Package redisdb backs up Redis and Valkey into a set, and restores them.
//
//	client, err := redisdb.NewClient(uri, nil)
//	set, err := backup.Take(ctx, dir, backup.Options{}, &redisdb.Source{Client: client})
//	report, err := set.Restore(ctx, backup.RestoreOptions{},
//		&redisdb.Live{Client: client, StateDir: "/var/lib/tykupgrade/redis"})
//
// [Source] reads one server, the master that Sentinel names, or every master of a
// cluster. [Live] writes key by key into servers that run, [Offline] places the
// file of a server of this machine and restarts it. [Scratch] loads a set into a
// server of its own and compares. [Dump] makes a set of an existing dump.rdb.
//
// Both restores check everything before they change anything, and keep a journal:
// after kill -9 the next run reports the state of the servers, and goes forward or
// back.
//
// # Limits
//
// Files of RDB version 15 and newer (Redis 8.10) are checked by header and checksum
// only. They are restored with Offline only, and so is data that modules keep outside
// of keys. The rules of servers were seen in Redis 7.0.15. Those of other releases
// come from their sources.
package redisdb
