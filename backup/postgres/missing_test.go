package postgres_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"example.com/tykupgrade/backup"
	"example.com/tykupgrade/backup/postgres"
	lab "example.com/tykupgrade/internal/lab/postgres"
)

// A target without a role, a tablespace, an extension or a locale that the set needs
// refuses with all their names, and nothing is written. Where only roles are missing, NoOwner
// restores.
func TestTargetLacks(t *testing.T) {
	t.Parallel()
	s := lab.Start(t)
	space := filepath.Join(filepath.Dir(s.Dir), "space")
	if err := os.Mkdir(space, 0o700); err != nil {
		t.Fatal(err)
	}
	if os.Geteuid() == 0 {
		if err := os.Chown(space, lab.User, lab.User); err != nil {
			t.Fatal(err)
		}
	}
	s.SQL(t, "postgres", "CREATE ROLE dash; CREATE ROLE reader")
	s.SQL(t, "postgres", "CREATE TABLESPACE fast LOCATION '"+space+"'")
	for _, db := range []string{"roles", "spaces"} {
		s.SQL(t, "postgres", "CREATE DATABASE "+db+" OWNER dash")
	}
	s.SQL(t, "roles", "CREATE TABLE t (x int); INSERT INTO t VALUES (1); GRANT SELECT ON t TO reader")
	s.SQL(t, "spaces", "CREATE TABLE t (x int) TABLESPACE fast; INSERT INTO t VALUES (1)")
	set, err := backup.Take(t.Context(), t.TempDir(), backup.Options{}, &postgres.Source{
		Server: postgres.Server{URI: s.URI}, Databases: []string{"roles", "spaces"}})
	if err != nil {
		t.Fatal(err)
	}
	bare := lab.Shared(t)
	for db, want := range map[string][]string{"roles": {"role dash", "role reader"},
		"spaces": {"role dash", "tablespace fast"}} {
		_, err := set.Restore(t.Context(), backup.RestoreOptions{}, &postgres.Restore{
			Server: postgres.Server{URI: bare.URI}, Databases: []string{db}})
		var e *backup.Error
		if !errors.Is(err, postgres.ErrMissing) || !errors.As(err, &e) || e.Hint() == "" {
			t.Fatalf("%s: %v", db, err)
		}
		for _, w := range want {
			if !strings.Contains(err.Error(), w) {
				t.Errorf("%s: %q is not in: %v", db, w, err)
			}
		}
	}
	lacks := func() string {
		return home{bare, "roles"}.names(t) + home{bare, "spaces"}.names(t)
	}
	if got := lacks(); got != "" {
		t.Errorf("databases %s", got)
	}
	to := &postgres.Restore{Server: postgres.Server{URI: bare.URI}, Databases: []string{"roles"},
		NoOwner: true}
	t.Cleanup(func() { bare.SQL(t, "postgres", "DROP DATABASE IF EXISTS roles") })
	if _, err := set.Restore(t.Context(), backup.RestoreOptions{}, to); err != nil {
		t.Error(err)
	}
	if got := lacks() + bare.SQL(t, "roles", "SELECT tableowner FROM pg_tables WHERE "+
		"tablename = 't'"); got != "rolespostgres" {
		t.Errorf("databases and owner %q", got)
	}
	if err := to.Prove(t.Context(), component(t, set)); err != nil {
		t.Error(err)
	}
	// What only the manifest says, for extensions and locales that every server here has.
	for what, change := range map[string]func(d *postgres.Database){
		"extension postgis":  func(d *postgres.Database) { d.Extensions = []string{"postgis"} },
		"locale tlh_KX.utf8": func(d *postgres.Database) { d.CType = "tlh_KX.utf8" },
	} {
		st := altered(t, set, func(d *postgres.Details) { change(&d.Databases[0]) })
		_, err := (&postgres.Restore{Server: postgres.Server{URI: s.URI}, Replace: true}).Plan(
			t.Context(), st)
		if !errors.Is(err, postgres.ErrMissing) || !strings.Contains(err.Error(), what) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func component(t *testing.T, set *backup.Set) *backup.Stored {
	t.Helper()
	st, ok := set.Component("postgres")
	if !ok {
		t.Fatal("no component")
	}
	return st
}

// altered is the component with another manifest.
func altered(t *testing.T, set *backup.Set, change func(d *postgres.Details)) *backup.Stored {
	t.Helper()
	st := component(t, set)
	var d postgres.Details
	err := st.DecodeDetails(&d)
	if err == nil {
		change(&d)
		err = st.SetDetails(d)
	}
	if err != nil {
		t.Fatal(err)
	}
	return st
}
