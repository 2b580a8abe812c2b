package postgres_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"example.com/tykupgrade/backup"
	"example.com/tykupgrade/backup/postgres"
	lab "example.com/tykupgrade/internal/lab/postgres"
)

// everything is a schema with what pg_dump has to carry.
const everything = `
CREATE ROLE dash LOGIN; CREATE ROLE reader;
CREATE SCHEMA app;
CREATE TYPE app.mood AS ENUM ('sad', 'ok', 'happy');
CREATE TABLE app.users (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text NOT NULL UNIQUE, mood app.mood DEFAULT 'ok',
	upper_name text GENERATED ALWAYS AS (upper(name)) STORED);
INSERT INTO app.users (name) SELECT 'user ' || i FROM generate_series(1, 500) i;
CREATE TABLE "odd ""name"" with $pace;" ("c'o l" int, "Ü" text); INSERT INTO "odd ""name"" with $pace;" VALUES (1, E'tab\there\nline\\slash'), (2, NULL);
CREATE TABLE kinds (id serial PRIMARY KEY, j json, jb jsonb, b bytea, a int[], f float8, n numeric, t timestamptz, u uuid, iv interval);
INSERT INTO kinds (j, jb, b, a, f, n, t, u, iv) VALUES ('{"a":  1}', '{"b": [1, null]}', '\x00ff5c', '{1,NULL,3}', 'NaN', 'NaN', '2026-11-29 01:02:03.456789+02', 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', '1 mon 2 days'),
	(NULL, NULL, '', '{}', 'Infinity', 1e40, 'infinity', NULL, '-3 hours'), ('[]', '"x"', NULL, NULL, '-Infinity', 0.1, '-infinity', NULL, NULL);
CREATE UNLOGGED TABLE cache (k text PRIMARY KEY, v text); INSERT INTO cache VALUES ('a', 'b');
CREATE TABLE parted (id int, day date) PARTITION BY RANGE (day);
CREATE TABLE parted_1 PARTITION OF parted FOR VALUES FROM ('2026-01-01') TO ('2026-07-01');
CREATE TABLE parted_2 PARTITION OF parted DEFAULT;
INSERT INTO parted SELECT i, '2026-01-01'::date + i FROM generate_series(1, 300) i;
CREATE TABLE secret (id int, owner text); ALTER TABLE secret ENABLE ROW LEVEL SECURITY; CREATE POLICY own ON secret USING (owner = current_user);
INSERT INTO secret VALUES (1, 'dash'), (2, 'reader');
CREATE VIEW app.happy AS SELECT * FROM app.users WHERE mood = 'happy';
CREATE MATERIALIZED VIEW counts AS SELECT mood, count(*) FROM app.users GROUP BY 1;
CREATE FUNCTION app.double(i int) RETURNS int LANGUAGE sql IMMUTABLE AS $$ SELECT
-- Name: fake; Type: TABLE; Schema: public; Owner: nobody
 i * 2 $$;
CREATE TABLE orders (id int PRIMARY KEY, u int REFERENCES app.users, CHECK (id > 0)); INSERT INTO orders VALUES (1, 1);
CREATE INDEX orders_by_user ON orders (u) WHERE u > 0;
GRANT SELECT ON orders TO reader; ALTER TABLE kinds OWNER TO dash;
CREATE TABLE empty_table (x int);
SELECT lo_from_bytea(4711, decode(repeat('00ff5c27', 30000), 'hex'));
CREATE TABLE wide (x text); INSERT INTO wide SELECT repeat('x', 700000) || i FROM generate_series(1, 3) i;
COMMENT ON TABLE orders IS 'what was ordered';
`

func server(t testing.TB) *lab.Server {
	t.Helper()
	s := lab.Start(t)
	s.SQL(t, "postgres", "CREATE DATABASE tyk_analytics")
	s.SQL(t, "tyk_analytics", everything)
	s.SQL(t, "postgres", "ALTER DATABASE tyk_analytics SET work_mem = '5MB'; GRANT CONNECT ON "+
		"DATABASE tyk_analytics TO reader; COMMENT ON DATABASE tyk_analytics IS 'the dashboard''s'")
	return s
}

func take(t testing.TB, s *lab.Server) *backup.Set {
	t.Helper()
	set, err := backup.Take(t.Context(), t.TempDir(), backup.Options{}, &postgres.Source{
		Server: postgres.Server{URI: s.URI}, Databases: []string{"tyk_analytics"}})
	if err != nil {
		t.Fatal(err)
	}
	return set
}

func names(t testing.TB, s *lab.Server) string {
	t.Helper()
	return s.SQL(t, "postgres", "SELECT string_agg(datname, ' ' ORDER BY datname) FROM pg_database "+
		"WHERE NOT datistemplate AND datname <> 'postgres'")
}

func TestThereAndBack(t *testing.T) {
	t.Parallel()
	s := server(t)
	set := take(t, s)
	var d postgres.Details
	st, _ := set.Component("postgres")
	if err := st.DecodeDetails(&d); err != nil || d.LSN == "" || d.Major < 13 ||
		d.Databases[0].Encoding != "UTF8" || d.Databases[0].Snapshot == "" {
		t.Fatalf("%v: %+v", err, d)
	}
	if st.Consistency != backup.ConsistencySnapshot || st.Items != 500+2+3+1+300+2+1+3 {
		t.Errorf("%s, %d rows", st.Consistency, st.Items)
	}
	if got := strings.Join(d.Databases[0].Roles, " "); !strings.Contains(got, "dash") ||
		!strings.Contains(got, "reader") {
		t.Errorf("roles %q", got)
	}
	live := &postgres.Source{Server: postgres.Server{URI: s.URI}, Databases: []string{"tyk_analytics"}}
	scratch := &postgres.Scratch{Server: postgres.Server{URI: s.URI}}
	for _, p := range []backup.Prover{live, scratch} {
		if err := set.Verify(t.Context(), backup.VerifyOptions{Level: backup.LevelLive,
			Against: []backup.Prover{p}}); err != nil {
			t.Fatalf("%T: %v", p, err)
		}
	}
	if got := names(t, s); got != "tyk_analytics" {
		t.Errorf("databases %s", got)
	}
	// An upgrade that went wrong.
	s.SQL(t, "tyk_analytics", "DELETE FROM orders; UPDATE kinds SET f = 1; DROP VIEW app.happy; "+
		"CREATE TABLE new_version (x int); SELECT lo_unlink(4711)")
	err := set.Verify(t.Context(), backup.VerifyOptions{Level: backup.LevelLive,
		Against: []backup.Prover{live}})
	for _, want := range []string{"view app.happy is missing",
		"table public.new_version is not in the set", "table data public.orders has 0 rows, the set 1",
		"table data public.kinds differs"} {
		if !errors.Is(err, backup.ErrDiffers) || !strings.Contains(err.Error(), want) {
			t.Errorf("no %q in: %v", want, err)
		}
	}
	to := &postgres.Restore{Server: postgres.Server{URI: s.URI}}
	if _, err := set.Restore(t.Context(), backup.RestoreOptions{DryRun: true}, to); !errors.Is(err,
		backup.ErrNotEmpty) {
		t.Errorf("without Replace: %v", err)
	}
	to.Replace = true
	report, err := set.Restore(t.Context(), backup.RestoreOptions{Keep: true}, to)
	if err != nil || report.Components[0].State != backup.StateVerified ||
		report.Components[0].Items[0].Action != backup.ActionReplace {
		t.Fatalf("%v: %+v", err, report)
	}
	again := &postgres.Restore{Server: postgres.Server{URI: s.URI}, Replace: true} // a later process
	check := func(restored bool) {
		t.Helper()
		if got := s.SQL(t, "tyk_analytics", "SELECT count(*) FROM orders"); (got == "1") != restored {
			t.Errorf("%s orders", got)
		}
		if got := s.SQL(t, "tyk_analytics", "SELECT current_setting('work_mem')"); got != "5MB" {
			t.Errorf("work_mem %s", got)
		}
		if got := s.SQL(t, "postgres", "SELECT shobj_description(oid, 'pg_database') || "+
			"has_database_privilege('reader', oid, 'CONNECT') FROM pg_database WHERE datname = "+
			"'tyk_analytics'"); got != "the dashboard'strue" {
			t.Errorf("comment and grants %q", got)
		}
	}
	check(true)
	if _, err := again.Plan(t.Context(), st); !errors.Is(err, backup.ErrNotEmpty) ||
		!strings.Contains(err.Error(), "Accept or Set.Undo") {
		t.Errorf("a second restore before the first is accepted: %v", err)
	}
	for _, want := range []backup.State{backup.StateUndone, backup.StateNothing} {
		report, err := set.Undo(t.Context(), again)
		if err != nil || report.Components[0].State != want {
			t.Fatalf("%+v %v, want %s", report, err, want)
		}
		check(false)
	}
	if got := names(t, s); got != "tyk_analytics" {
		t.Errorf("databases after undo: %s", got)
	}
	report, err = set.Restore(t.Context(), backup.RestoreOptions{}, again)
	if err != nil || report.Components[0].State != backup.StateVerified {
		t.Fatalf("%v: %+v", err, report)
	}
	check(true)
	if got := names(t, s); got != "tyk_analytics" {
		t.Errorf("databases after accept: %s", got)
	}
	// Into a server that has nothing.
	s.SQL(t, "postgres", "DROP DATABASE tyk_analytics")
	fresh := &postgres.Restore{Server: postgres.Server{URI: s.URI}}
	if _, err := set.Restore(t.Context(), backup.RestoreOptions{Keep: true}, fresh); err != nil {
		t.Fatal(err)
	}
	if report, err := set.Undo(t.Context(), fresh); err != nil || names(t, s) != "" ||
		report.Components[0].State != backup.StateUndone {
		t.Errorf("%+v %v, databases %q", report, err, names(t, s))
	}
	if _, err := set.Restore(t.Context(), backup.RestoreOptions{}, fresh); err != nil {
		t.Fatal(err)
	}
	check(true)
}

// Clients refuse the restore, or are ended right before the swap.
func TestClients(t *testing.T) {
	t.Parallel()
	s := small(t)
	set := s.take(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	done := make(chan struct{})
	go func() {
		defer close(done)
		for ctx.Err() == nil { // a client that reconnects
			_, _ = s.TrySQL(s.DB, "SELECT pg_sleep(5)")
		}
	}()
	for s.SQL(t, "postgres", "SELECT count(*) FROM pg_stat_activity WHERE datname = '"+
		s.DB+"'") == "0" {
		time.Sleep(10 * time.Millisecond)
	}
	to := &postgres.Restore{Server: postgres.Server{URI: s.URI}, Replace: true}
	if _, err := set.Restore(t.Context(), backup.RestoreOptions{}, to); !errors.Is(err,
		postgres.ErrInUse) {
		t.Errorf("with a client: %v", err)
	}
	to.EndClients = true
	if _, err := set.Restore(t.Context(), backup.RestoreOptions{}, to); err != nil {
		t.Error(err)
	}
	cancel()
	_, _ = s.TrySQL("postgres", "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE "+
		s.own())
	<-done
	if got := s.names(t); got != s.DB {
		t.Errorf("databases %s", got)
	}
}

// Writes and DDL continue while the set is taken; it holds one moment.
func TestOneMoment(t *testing.T) {
	t.Parallel()
	s := small(t)
	s.SQL(t, s.DB, "CREATE TABLE a (x int); CREATE TABLE b (x int)")
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for i := 0; ctx.Err() == nil; i += 20 {
			var sql strings.Builder
			for i := range 20 {
				fmt.Fprintf(&sql, "BEGIN; INSERT INTO a VALUES (%d); INSERT INTO b VALUES (%d); COMMIT; "+
					"CREATE TABLE IF NOT EXISTS t%d (x int); SELECT pg_sleep(0.005);", i, i, i)
			}
			_, _ = s.TrySQL(s.DB, sql.String())
		}
	}()
	set := s.take(t)
	cancel()
	<-done
	var d postgres.Details
	st, _ := set.Component("postgres")
	if err := st.DecodeDetails(&d); err != nil {
		t.Fatal(err)
	}
	rows := map[string]int64{}
	for _, table := range d.Databases[0].Tables {
		rows[table.Name] = table.Rows
	}
	if rows["a"] != rows["b"] {
		t.Errorf("a has %d rows, b %d", rows["a"], rows["b"])
	}
}

// Every failure is typed, changes nothing and leaves no set.
func TestRefusals(t *testing.T) {
	t.Parallel()
	s := small(t)
	role := unique("limited")
	s.SQL(t, s.DB, "CREATE ROLE "+role+" LOGIN PASSWORD 'canary-secret'; GRANT SELECT ON t TO "+role+
		"; CREATE TABLE closed (x int)")
	login(t, s.Server, role)
	limited := strings.Replace(s.Database(s.DB), "postgres@", role+"@", 1)
	old := filepath.Join(t.TempDir(), "bin")
	if err := os.Mkdir(old, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, tool := range []string{"psql", "pg_restore"} {
		if err := os.Symlink(filepath.Join(s.Bin, tool), filepath.Join(old, tool)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(old, "pg_dump"),
		[]byte("#!/bin/sh\necho 'pg_dump (PostgreSQL) 9.6.24'\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		source postgres.Source
		kind   error
	}{
		"unreachable": {postgres.Source{Server: postgres.Server{
			URI: "postgresql://postgres@127.0.0.1:1/tyk_analytics"}}, postgres.ErrConnection},
		"wrong password": {postgres.Source{Server: postgres.Server{URI: limited,
			Password: "canary-wrong"}}, postgres.ErrLogin},
		"no password": {postgres.Source{Server: postgres.Server{URI: limited}}, postgres.ErrLogin},
		"no such database": {postgres.Source{Server: postgres.Server{URI: s.URI}, Databases: []string{
			"nothing here"}}, postgres.ErrNoDatabase},
		"no permission": {postgres.Source{Server: postgres.Server{URI: limited,
			Password: "canary-secret"}}, backup.ErrNotAllowed},
		"old pg_dump": {postgres.Source{Server: postgres.Server{URI: s.URI, Bin: old},
			Databases: []string{s.DB}}, postgres.ErrToolTooOld},
		"no tools": {postgres.Source{Server: postgres.Server{URI: s.URI, Runner: func(ctx context.Context,
			argv []string, in io.Reader, out, errs io.Writer) error {
			return errors.New("exec: sh: not found")
		}}}, nil},
		"bad URI": {postgres.Source{Server: postgres.Server{URI: "postgresql://u:ca?nary-x@h/db%zz"}},
			postgres.ErrConnection},
		"duplicate": {postgres.Source{Server: postgres.Server{URI: s.URI}, Databases: []string{"a", "a"}},
			nil},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			_, err := backup.Take(t.Context(), dir, backup.Options{}, &c.source)
			if err == nil || c.kind != nil && !errors.Is(err, c.kind) {
				t.Fatalf("error %v", err)
			}
			if strings.Contains(err.Error(), "canary") || strings.Contains(err.Error(), "nary") {
				t.Errorf("a secret in: %v", err)
			}
			if sets, _ := backup.List(dir); len(sets) > 0 {
				t.Error("a set was left")
			}
		})
	}
}

// logins guards the file that tests change on the server that they share.
var logins sync.Mutex

// login lets a role in with its password only.
func login(t *testing.T, s *lab.Server, role string) {
	t.Helper()
	logins.Lock()
	defer logins.Unlock()
	conf := filepath.Join(s.Dir, "pg_hba.conf")
	hba, err := os.ReadFile(conf)
	if err == nil {
		err = os.WriteFile(conf, append([]byte("host all "+role+" all scram-sha-256\n"), hba...), 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	s.SQL(t, "postgres", "SELECT pg_reload_conf()")
}
