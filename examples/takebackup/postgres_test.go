package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"example.com/tykupgrade/internal/lab/postgres"
)

func TestPostgresThereAndBack(t *testing.T) {
	t.Parallel()
	s := postgres.Start(t)
	s.SQL(t, "postgres", "CREATE DATABASE tyk_analytics")
	s.SQL(t, "tyk_analytics", "CREATE TABLE apis (id int PRIMARY KEY, doc jsonb); INSERT INTO apis "+
		"VALUES (1, '{}')")
	uri := filepath.Join(t.TempDir(), "uri")
	if err := os.WriteFile(uri, []byte(s.Database("tyk_analytics")+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "sets")
	c := cmd{t: t}
	c.run(0, "take", "-dir", dir, "-postgres", "-postgres-uri-file", uri)
	s.SQL(t, "tyk_analytics", "DROP TABLE apis; CREATE TABLE later (x int)")
	if out, _ := c.run(1, "verify", "-dir", dir, "-level", "live", "-postgres", "-postgres-uri-file",
		uri, "latest"); strings.Contains(out, "ok") {
		t.Errorf("a changed database passes: %s", out)
	}
	c.run(5, "restore", "-dir", dir, "-postgres", "-postgres-uri-file", uri, "latest")
	c.run(0, "restore", "-dir", dir, "-postgres", "-postgres-uri-file", uri, "-replace", "latest")
	if got := s.SQL(t, "tyk_analytics", "SELECT count(*) FROM apis"); got != "1" {
		t.Errorf("%s rows", got)
	}
	c.run(2, "take", "-dir", dir, "-config", "-postgres-db", "x")

	// Without the owners both a restore and a comparison do without them.
	s.SQL(t, "tyk_analytics", "CREATE ROLE takebackup_owner; ALTER TABLE apis OWNER TO "+
		"takebackup_owner")
	c.run(0, "take", "-dir", dir, "-postgres", "-postgres-uri-file", uri)
	c.run(0, "restore", "-dir", dir, "-postgres", "-postgres-uri-file", uri, "-replace",
		"-postgres-no-owner", "latest")
	live := []string{"verify", "-dir", dir, "-level", "live", "-postgres", "-postgres-uri-file", uri,
		"latest"}
	if _, msg := c.run(1, live...); !strings.Contains(msg, "public.apis differs") {
		t.Error(msg)
	}
	c.run(0, append(live, "-postgres-no-owner")...)
}
