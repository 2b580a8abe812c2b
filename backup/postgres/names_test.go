package postgres_test

import (
	"errors"
	"strings"
	"testing"

	"example.com/tykupgrade/backup"
	"example.com/tykupgrade/backup/postgres"
	lab "example.com/tykupgrade/internal/lab/postgres"
)

// A database may have any name. One that others hold in a way which EndClients cannot end
// is refused before anything changes.
func TestOddName(t *testing.T) {
	t.Parallel()
	s := lab.Start(t, "wal_level = logical", "max_wal_senders = 2", "max_replication_slots = 2",
		"max_prepared_transactions = 2")
	const name = `100% "odd"/o'clock?x=1&y #z`
	s.SQL(t, "postgres", `CREATE DATABASE "100% ""odd""/o'clock?x=1&y #z"`)
	s.SQL(t, name, "CREATE TABLE t AS SELECT generate_series(1, 9) x")
	server := postgres.Server{URI: s.URI}
	set, err := backup.Take(t.Context(), t.TempDir(), backup.Options{}, &postgres.Source{Server: server,
		Databases: []string{name}})
	if err != nil {
		t.Fatal(err)
	}
	to := &postgres.Restore{Server: server, Replace: true, EndClients: true}
	for _, c := range []struct{ hold, release, words string }{
		{"BEGIN; DELETE FROM t WHERE x = 1; PREPARE TRANSACTION 'half done'",
			"ROLLBACK PREPARED 'half done'", "half done"},
		{"SELECT pg_create_logical_replication_slot('follower', 'pgoutput')",
			"SELECT pg_drop_replication_slot('follower')", "follower"},
	} {
		s.SQL(t, name, c.hold)
		report, err := set.Restore(t.Context(), backup.RestoreOptions{DryRun: true}, to)
		var e *backup.Error
		if !errors.Is(err, postgres.ErrInUse) || !errors.As(err, &e) || e.Hint() == "" ||
			!strings.Contains(err.Error(), c.words) {
			t.Errorf("%s: %+v %v", c.words, report, err)
		}
		s.SQL(t, name, c.release)
	}
	s.SQL(t, name, "DELETE FROM t WHERE x > 3")
	if _, err := set.Restore(t.Context(), backup.RestoreOptions{Keep: true}, to); err != nil {
		t.Fatal(err)
	}
	if n := s.SQL(t, name, "SELECT count(*) FROM t"); n != "9" {
		t.Errorf("%s rows restored", n)
	}
	if _, err := set.Undo(t.Context(), to); err != nil {
		t.Fatal(err)
	}
	if n := s.SQL(t, name, "SELECT count(*) FROM t"); n != "3" {
		t.Errorf("%s rows after Undo", n)
	}
	if got := names(t, s); got != name {
		t.Errorf("databases %s", got)
	}
}
