package postgres_test

import (
	"fmt"
	"sync/atomic"
	"testing"

	"example.com/tykupgrade/backup"
	"example.com/tykupgrade/backup/postgres"
	lab "example.com/tykupgrade/internal/lab/postgres"
)

// home is a database of one test, on a server that tests may share.
type home struct {
	*lab.Server
	DB string
}

var serial atomic.Int32

// unique returns a name that no other test in this process has.
func unique(prefix string) string { return fmt.Sprint(prefix, "_", serial.Add(1)) }

// small is a database with one table on the server that tests share.
func small(t *testing.T) home {
	t.Helper()
	return home{lab.Shared(t), unique("small")}.fill(t)
}

// alone is the database small on a server of its own, for tests that change the server or look at
// all its sessions.
func alone(t *testing.T) home {
	t.Helper()
	return home{lab.Start(t), "small"}.fill(t)
}

func (h home) fill(t *testing.T) home {
	t.Helper()
	h.SQL(t, "postgres", "CREATE DATABASE "+h.DB)
	h.SQL(t, h.DB, "CREATE TABLE t (x int PRIMARY KEY, y text); INSERT INTO t SELECT i, "+
		"repeat('y', 100) FROM generate_series(1, 1000) i")
	return h
}

func (h home) take(t *testing.T) *backup.Set {
	t.Helper()
	set, err := backup.Take(t.Context(), t.TempDir(), backup.Options{}, &postgres.Source{
		Server: postgres.Server{URI: h.URI}, Databases: []string{h.DB}})
	if err != nil {
		t.Fatal(err)
	}
	return set
}

// own is the condition for the database and those that a restore makes of it.
func (h home) own() string {
	return fmt.Sprintf("(datname = '%[1]s' OR datname LIKE '%[1]s\\_tykupgrade%%')", h.DB)
}

func (h home) names(t *testing.T) string {
	t.Helper()
	return h.SQL(t, "postgres", "SELECT string_agg(datname, ' ' ORDER BY datname) FROM pg_database "+
		"WHERE "+h.own())
}
