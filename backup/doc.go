// Package backup takes what an upgrade could damage into one set: configuration
// files, Redis, MongoDB. It verifies the set, restores from it and compares the
// result with it.
//
// A set is a directory. It is built under a temporary name and renamed last, so
// that a set that can be opened is complete:
//
//	<id>/
//	  manifest.json    what, when, from which versions; every file with its digest
//	  manifest.sha256  for sha256sum -c
//	  manifest.json.sig the author's signature, for ssh-keygen -Y verify; optional
//	  config/…         of package hostfiles
//	  redis/<node>.rdb of package redisdb
//	  mongo/…          of package mongodb: exactly what mongodump --out writes
//
// [Take] writes a set. [Open] and [Set.Verify] read it. [Set.Restore] restores
// from it, and [Set.Undo] takes that back. [Prune] removes old sets. [Set.Export]
// and [Import] move a set as a single file.
//
// The packages with a [Source] register their kinds with [RegisterKind]: a program
// that verifies or restores a component imports the package of its kind. Package
// backuptest holds the conformance suite for any Source and Restorer.
//
// Directories and files of a set are readable by their owner alone: they hold the
// secrets of the system that they came from. Checksums find damage, and age keeps an
// export secret; neither tells who made a set. Restore therefore refuses a set that
// another user could have changed. A signature over the manifest names the author:
// [Options].Signer or [Set.Sign] makes it, and [RestoreOptions].RequireSignature or
// [Set.VerifySignature] checks it.
//
// Limits: local POSIX file systems for the set itself. The sources of one set are
// not consistent with each other; each says in the manifest what it promises.
package backup
