package postgres_test

import (
	"strings"
	"testing"

	"example.com/tykupgrade/backup"
	"example.com/tykupgrade/backup/backuptest"
	"example.com/tykupgrade/backup/postgres"
	lab "example.com/tykupgrade/internal/lab/postgres"
)

func TestConformancePostgres(t *testing.T) {
	t.Parallel()
	const secret = "canary-of-conformance"
	s := small(t)
	role := unique("dash")
	s.SQL(t, "postgres", "CREATE ROLE "+role+" LOGIN PASSWORD '"+secret+"'; GRANT pg_read_all_data TO "+
		role)
	login(t, s.Server, role)
	uri := strings.Replace(s.Database(s.DB), "postgres@", role+":"+secret+"@", 1)
	empty := lab.Start(t)
	backuptest.Run(t, backuptest.Case{
		Source: func(*testing.T) backup.Source { return &postgres.Source{Server: postgres.Server{URI: uri}} },
		Restorer: func(t *testing.T) backup.Restorer {
			return &postgres.Restore{Server: postgres.Server{URI: empty.URI}}
		},
		Change: func(t *testing.T) { s.SQL(t, s.DB, "UPDATE t SET y = 'changed' WHERE x = 7") },
		Broken: func(*testing.T) backup.Source {
			return &postgres.Source{Server: postgres.Server{URI: uri}, Databases: []string{"nothing here"}}
		},
		Secret: secret, Cancels: 6, // before and after each plan, and while data arrives
	})
}
