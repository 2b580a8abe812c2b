// Package backup takes what an upgrade could damage - configuration files,
// Redis, MongoDB - into one set that is complete or absent, proves the set
// before it is used, restores from it and proves the result.
//
// A set is a directory. It is built under a temporary name and renamed last, so
// that a set that can be opened is complete:
//
//	<id>/
//	  manifest.json    what, when, from which versions; every file with its digest
//	  manifest.sha256  for sha256sum -c
//	  config/…         a [Files] source
//	  redis/<node>.rdb a [Redis] source
//	  mongo/…          a Mongo source: exactly what mongodump --out writes
//
// [Take] writes a set, [Open] and [Set.Verify] read it, [Set.Restore] brings it
// back, [Prune] removes old ones, [Set.Export] and [Import] move one as a single
// file. Directories and files of a set are readable by their owner alone: they
// hold the secrets of the system that they came from.
//
// Limits: local POSIX file systems for the set itself; sources of one set are
// not consistent with each other, each says in the manifest what it promises.
package backup
