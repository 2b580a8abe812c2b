// Package redisdb backs up Redis and Valkey into a set, and restores them.
//
//	client, err := redisdb.NewClient(uri, nil)
//	set, err := backup.Take(ctx, dir, backup.Options{}, &redisdb.Source{Client: client})
//	report, err := set.Restore(ctx, backup.RestoreOptions{},
//		&redisdb.Live{Client: client, StateDir: "/var/lib/tykupgrade/redis"})
//
// [Source] reads one server, the master that Sentinel names, or every master of a cluster. [Live]
// writes key by key into running servers. [Offline] replaces the file of a server on this machine
// and restarts it. [Scratch] loads a set into a temporary server and compares. [Dump] makes a set
// from an existing dump.rdb.
//
// Both restores check everything before they change anything. They keep a journal, so that the next
// run after kill -9 reports the state of the servers and goes forward or back.
//
// # Limits
//
// Files of RDB version 15 and newer (Redis 8.10) are checked only by header and checksum. Only
// Offline can restore them, and data that modules keep outside of keys. The rules of servers were
// seen in Redis 7.0.15. Those of other releases come from their source code.
package redisdb
