package postgres_test

import (
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"example.com/tykupgrade/backup"
	"example.com/tykupgrade/backup/postgres"
	lab "example.com/tykupgrade/internal/lab/postgres"
	"example.com/tykupgrade/internal/run"
)

// stub makes a directory with the real programs, some of which report another version. That
// of psql is the server's.
func stub(t *testing.T, s *lab.Server, versions map[string]int) string {
	t.Helper()
	dir := t.TempDir()
	for _, tool := range []string{"psql", "pg_dump", "pg_restore"} {
		real := filepath.Join(s.Bin, tool)
		text := "#!/bin/sh\n"
		switch v := versions[tool]; {
		case v == 0:
		case tool == "psql":
			text += fmt.Sprintf("\"%s\" \"$@\" | sed -uE 's/\"version\" : \"[^\"]*\", \"num\" : [0-9]+/"+
				"\"version\" : \"%d.4\", \"num\" : %d0004/'\nexit\n", real, v, v)
		default:
			text += fmt.Sprintf("if [ \"$1\" = --version ]; then echo '%s (PostgreSQL) %d.4'; exit; fi\n",
				tool, v)
		}
		text += "exec " + real + " \"$@\"\n"
		if err := run.WriteProgram(filepath.Join(dir, tool), []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// Version rules with programs that report other versions than they have: they stop a run before it
// changes anything. TestVersionTable has the other rules.
func TestVersionRules(t *testing.T) {
	t.Parallel()
	s := small(t)
	now, err := strconv.Atoi(filepath.Base(filepath.Dir(s.Bin)))
	if err != nil {
		t.Fatal(err)
	}
	set := s.take(t)
	for _, c := range []struct {
		name       string
		tools      map[string]int
		take, back error
		words      string
	}{
		{"same", nil, nil, nil, ""},
		{"pg_dump is newer than the server", map[string]int{"pg_dump": now + 1},
			postgres.ErrToolTooOld, nil, fmt.Sprintf("postgresql-client-%d on this machine", now+1)},
		{"pg_restore is older", map[string]int{"pg_restore": now - 1}, nil,
			postgres.ErrToolTooOld, fmt.Sprint("postgresql-client-", now)},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			server := postgres.Server{URI: s.URI, Bin: stub(t, s.Server, c.tools)}
			_, take := (&postgres.Source{Server: server, Databases: []string{s.DB}}).Plan(t.Context())
			_, back := (&postgres.Restore{Server: server, Replace: true, EndClients: true}).Plan(t.Context(),
				component(t, set))
			for verb, r := range map[string]struct{ got, want error }{"take": {take, c.take},
				"restore": {back, c.back}} {
				var e *backup.Error
				switch {
				case r.want == nil && r.got == nil:
				case !errors.Is(r.got, r.want) || !errors.As(r.got, &e) ||
					!strings.Contains(e.Hint(), c.words):
					t.Errorf("%s: %v", verb, r.got)
				}
			}
		})
	}
}

// The same rules with this machine's version and an older one, and with a newer one.
func TestTwoMajors(t *testing.T) {
	t.Parallel()
	t.Run("13 and this", func(t *testing.T) { twoMajors(t, lab.Major(t, 13), lab.Bin(t)) })
	t.Run("this and 17", func(t *testing.T) { twoMajors(t, lab.Bin(t), lab.Major(t, 17)) })
}

// twoMajors is a round trip with two real major versions: an older server is dumped with
// newer programs, and its set goes into either server.
func twoMajors(t *testing.T, oldBin, newBin string) {
	older, newer := lab.StartBin(t, oldBin), lab.StartBin(t, newBin)
	older.SQL(t, "postgres", "CREATE DATABASE tyk_analytics")
	newer.SQL(t, "postgres", "CREATE ROLE dash LOGIN; CREATE ROLE reader")
	older.SQL(t, "tyk_analytics", everything)
	at := func(s *lab.Server, tools string) postgres.Server {
		return postgres.Server{URI: s.URI, Bin: tools}
	}
	source := func(s *lab.Server, tools string) *postgres.Source {
		return &postgres.Source{Server: at(s, tools), Databases: []string{"tyk_analytics"}}
	}
	taken := map[string]*backup.Set{}
	for name, tools := range map[string]string{"old tools": oldBin, "new tools": newer.Bin} {
		dir := t.TempDir()
		set, err := backup.Take(t.Context(), dir, backup.Options{}, source(older, tools))
		if tools != oldBin && tools != lab.Bin(t) { // this machine cannot read what they write
			if sets, _ := backup.List(dir); !errors.Is(err, postgres.ErrToolTooOld) || len(sets) > 0 {
				t.Errorf("%s: %v, %d sets", name, err, len(sets))
			}
			continue
		}
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		taken[name] = set
		if err := set.Verify(t.Context(), backup.VerifyOptions{Level: backup.LevelLive,
			Against: []backup.Prover{source(older, tools)}}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		for target, to := range map[string]*postgres.Restore{
			"into the newer": {Server: at(newer, newer.Bin), Replace: true},
			"into the older": {Server: at(older, tools), Replace: true},
		} {
			if _, err := set.Restore(t.Context(), backup.RestoreOptions{}, to); err != nil {
				t.Errorf("%s %s: %v", name, target, err)
			}
		}
	}
	if n := newer.SQL(t, "tyk_analytics", "SELECT count(*) FROM app.users"); n != "500" {
		t.Errorf("%s users in the newer server", n)
	}
	newer.SQL(t, "tyk_analytics", "DELETE FROM app.users WHERE id > 400; DELETE FROM orders")
	if err := taken["old tools"].Verify(t.Context(), backup.VerifyOptions{Level: backup.LevelLive,
		Against: []backup.Prover{source(newer, newer.Bin)}}); !errors.Is(err, backup.ErrDiffers) {
		t.Errorf("rows that are missing in the newer server: %v", err)
	}
	if _, err := source(newer, oldBin).Plan(t.Context()); !errors.Is(err, postgres.ErrToolTooOld) {
		t.Errorf("an older pg_dump: %v", err)
	}
	if newBin != lab.Bin(t) {
		return
	}
	component, _ := taken["new tools"].Component("postgres")
	if _, err := (&postgres.Restore{Server: at(older, oldBin), Replace: true}).Plan(t.Context(),
		component); !errors.Is(err, postgres.ErrToolTooOld) {
		t.Errorf("an older pg_restore: %v", err)
	}
	set, err := backup.Take(t.Context(), t.TempDir(), backup.Options{}, source(newer, newer.Bin))
	if err != nil {
		t.Fatal(err)
	}
	component, _ = set.Component("postgres")
	if _, err := (&postgres.Restore{Server: at(older, newer.Bin), Replace: true}).Plan(t.Context(),
		component); !errors.Is(err, backup.ErrTooNew) {
		t.Errorf("into an older server: %v", err)
	}
}
