// Package postgres backs up and restores PostgreSQL databases with the standard tools: psql,
// pg_dump and pg_restore. A Runner runs them on this machine or on the database host.
//
//	set, err := backup.Take(ctx, dir, backup.Options{}, &postgres.Source{Server: server})
//	…
//	report, err := set.Restore(ctx, backup.RestoreOptions{},
//		&postgres.Restore{Server: server, Replace: true})
//
// A [Source] writes one custom-format archive of each database into a set. Each archive shows its
// database at one moment. The manifest records row counts, LSN, versions, encoding, roles,
// tablespaces and extensions of that moment. [Restore] builds a new database next to the live one,
// compares it with the archive, and swaps the two by name in one transaction. [Scratch] compares
// without a change of the live database.
//
// The comparison covers every object that pg_dump writes: tables, sequences, indexes, constraints,
// views, functions, large objects and privileges. Rows are compared by count and order-independent
// digest.
//
// # Limits
//
// Roles, passwords and tablespaces belong to the server, so the set names them but does not contain
// them. The objects of an extension come from the extension. Verification needs pg_restore on the
// verifying machine. Tested with PostgreSQL 15 and 17, and with 13 as the older server.
package postgres

import (
	"context"

	"example.com/tykupgrade/backup"
)

// Kind is the kind of the components that a [Source] writes.
const Kind = "postgres"

func init() {
	backup.RegisterKind(Kind, func(ctx context.Context, s *backup.Stored) error {
		return checkStructure(ctx, s)
	})
}
