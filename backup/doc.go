// Package backup saves what an upgrade could damage in one set: configuration files, Redis, MongoDB
// and PostgreSQL. It verifies the set, restores from it, and compares the result with it.
//
// A set is a directory. It is built under a temporary name and renamed last, so a set that opens is
// complete:
//
//	<id>/
//	  manifest.json    what, when, from which versions; every file with its digest
//	  manifest.sha256  for sha256sum -c
//	  manifest.json.sig the author's signature, for ssh-keygen -Y verify; optional
//	  config/…         of package hostfiles
//	  redis/<node>.rdb of package redisdb
//	  mongo/…          of package mongodb: exactly what mongodump --out writes
//
// [Take] writes a set. [Open] and [Set.Verify] read it. [Set.Restore] restores from it, and
// [Set.Undo] undoes a restore. [Prune] removes old sets. [Set.Export] and [Import] move a set as a
// single file.
//
// Each package with a [Source] registers its kind with [RegisterKind]. A program that verifies or
// restores a component must import the package of its kind. Package backuptest has conformance
// tests for any Source and Restorer.
//
// Only their owner can read the directories and files of a set, because they contain secrets.
// Checksums find damage, and encryption with age keeps an export secret. Neither shows who made a
// set. Restore therefore refuses a set that another user could have changed. A signature of the
// manifest identifies the author. [Options].Signer and [Set.Sign] make it.
// [RestoreOptions].RequireSignature and [Set.VerifySignature] check it.
//
// Limits: A set must be on a local POSIX file system. The components of a set are not consistent
// with each other. The manifest states the consistency of each one.
package backup
