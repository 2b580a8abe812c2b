package postgres_test

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"example.com/tykupgrade/backup"
	"example.com/tykupgrade/backup/backuptest"
	"example.com/tykupgrade/backup/postgres"
	"example.com/tykupgrade/internal/lab"
	pglab "example.com/tykupgrade/internal/lab/postgres"
)

// link is a network between clients and a server. It breaks once, after a number of bytes
// in one direction, and closes every connection then.
type link struct {
	t    *testing.T
	at   string
	left atomic.Int64 // bytes until it breaks; negative: never
	up   bool         // counts what clients send

	mu   sync.Mutex
	open map[net.Conn]bool
}

func newLink(t *testing.T, s *pglab.Server, up bool) *link {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	k := &link{t: t, at: l.Addr().String(), up: up, open: map[net.Conn]bool{}}
	k.left.Store(-1)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go k.serve(c, "127.0.0.1:"+s.Port)
		}
	}()
	return k
}

func (k *link) serve(c net.Conn, to string) {
	s, err := net.Dial("tcp", to)
	if err != nil {
		_ = c.Close()
		return
	}
	k.mu.Lock()
	k.open[c], k.open[s] = true, true
	k.mu.Unlock()
	go k.copy(s, c, k.up)
	k.copy(c, s, !k.up)
}

func (k *link) copy(to, from net.Conn, counted bool) {
	defer to.Close()
	buf := make([]byte, 8<<10)
	for {
		n, err := from.Read(buf)
		if n > 0 && counted && k.left.Load() >= 0 && k.left.Add(int64(-n)) < 0 {
			k.left.Store(-1)
			k.mu.Lock()
			for c := range k.open {
				_ = c.Close()
			}
			clear(k.open)
			k.mu.Unlock()
			return
		}
		if _, werr := to.Write(buf[:n]); err != nil || werr != nil {
			return
		}
	}
}

// uri is the server behind the link.
func (k *link) uri(database string) string {
	return "postgresql://postgres@" + k.at + "/" + database
}

// rowsDB fills a database with rows of 256 bytes.
func rowsDB(t *testing.T, s *pglab.Server, rows int) home {
	t.Helper()
	h := home{s, unique("rows")}
	s.SQL(t, "postgres", "CREATE DATABASE "+h.DB)
	s.SQL(t, h.DB, "CREATE TABLE t (x int PRIMARY KEY, y text); INSERT INTO t SELECT i, "+
		"repeat(md5(i::text), 8) FROM generate_series(1, "+strconv.Itoa(rows)+") i")
	return h
}

// A connection that is cut in the middle is a typed error. There is no set, and a restore
// leaves the live database alone and nothing next to it.
func TestCutConnection(t *testing.T) {
	t.Parallel()
	s := rowsDB(t, pglab.Shared(t), 4000)
	source := &postgres.Source{Server: postgres.Server{URI: s.URI}, Databases: []string{s.DB}}
	set, err := backup.Take(t.Context(), t.TempDir(), backup.Options{}, source)
	if err != nil {
		t.Fatal(err)
	}
	lost := func(what string, err error) {
		t.Helper()
		var e *backup.Error
		if !errors.Is(err, postgres.ErrAborted) && !errors.Is(err, postgres.ErrConnection) ||
			!errors.As(err, &e) || !e.Retryable() || e.Hint() == "" {
			t.Errorf("%s: %v", what, err)
		}
	}
	down := newLink(t, s.Server, false)
	down.left.Store(256 << 10)
	dir := t.TempDir()
	_, err = backup.Take(t.Context(), dir, backup.Options{}, &postgres.Source{Server: postgres.Server{
		URI: down.uri(s.DB)}})
	lost("take", err)
	if sets, _ := backup.List(dir); len(sets) > 0 || len(backuptest.Leftovers(t, dir)) > 0 {
		t.Errorf("take left %v %v", sets, backuptest.Leftovers(t, dir))
	}
	s.SQL(t, s.DB, "DELETE FROM t WHERE x > 10")
	up := newLink(t, s.Server, true)
	to := &postgres.Restore{Server: postgres.Server{URI: up.uri("postgres")}, Replace: true,
		EndClients: true}
	up.left.Store(256 << 10)
	_, err = set.Restore(t.Context(), backup.RestoreOptions{}, to)
	lost("restore", err)
	if got := s.names(t) + " " + s.SQL(t, s.DB, "SELECT count(*) FROM t"); got != s.DB+" 10" {
		t.Errorf("after a restore that was cut off: %s", got)
	}
	// the network is back
	if _, err := set.Restore(t.Context(), backup.RestoreOptions{}, to); err != nil {
		t.Error(err)
	}
	if got := s.names(t) + " " + s.SQL(t, s.DB, "SELECT count(*) FROM t"); got != s.DB+" 4000" {
		t.Errorf("after the next restore: %s", got)
	}
}

// A full disk is ErrNoSpace, said once: the one of the set, and the server's.
func TestDiskFull(t *testing.T) {
	t.Parallel()
	full := func(what string, err error) {
		t.Helper()
		var e *backup.Error
		if !errors.Is(err, backup.ErrNoSpace) || !errors.As(err, &e) || !e.Retryable() ||
			e.Hint() == "" || strings.Count(err.Error(), backup.ErrNoSpace.Error()) != 1 {
			t.Errorf("%s: %v", what, err)
		}
	}
	lab.SmallDisk(t, 90<<20, func(dir string) {
		s := rowsDB(t, pglab.StartIn(t, dir), 60_000) // 20 MB; with a new database the other 25 MB are not enough for as much
		source := &postgres.Source{Server: postgres.Server{URI: s.URI}, Databases: []string{s.DB},
			Compress: -1}
		set, err := backup.Take(t.Context(), t.TempDir(), backup.Options{}, source)
		if err != nil {
			t.Fatal(err)
		}
		s.SQL(t, s.DB, "DELETE FROM t WHERE x <= 10")
		fill(t, filepath.Join(dir, "fills"), dir, 18<<20)
		_, err = set.Restore(t.Context(), backup.RestoreOptions{}, &postgres.Restore{
			Server: postgres.Server{URI: s.URI}, Replace: true})
		full("restore", err)
		if got := s.names(t) + " " + s.SQL(t, s.DB, "SELECT count(*) FROM t"); got != s.DB+" 59990" {
			t.Errorf("after a restore that did not fit: %s", got)
		}
		fill(t, filepath.Join(dir, "fills more"), dir, 8<<20)
		sets := filepath.Join(dir, "sets")
		_, err = backup.Take(t.Context(), sets, backup.Options{Reserve: -1}, blind{source})
		full("take", err)
		if left := backuptest.Leftovers(t, sets); len(left) > 0 {
			t.Errorf("take left %v", left)
		}
	})
}

// fill leaves free bytes on the disk of dir.
func fill(t *testing.T, path, dir string, free int64) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for {
		var st syscall.Statfs_t
		if err := syscall.Statfs(dir, &st); err != nil {
			t.Fatal(err)
		}
		if int64(st.Bavail)*st.Bsize <= free {
			return
		}
		if _, err := f.Write(make([]byte, 1<<20)); err != nil {
			t.Fatal(err)
		}
	}
}

// blind is a source that cannot say how much it will write.
type blind struct{ *postgres.Source }

func (b blind) Plan(ctx context.Context) (backup.Estimate, error) {
	_, err := b.Source.Plan(ctx)
	return backup.Estimate{}, err
}

// A role that may not read one table is refused before anything is written, with the
// table's name; so it is with row-level security, and a sequence.
func TestMayNotRead(t *testing.T) {
	t.Parallel()
	s := pglab.Shared(t)
	apps, role := unique("apps"), unique("apps_reader")
	s.SQL(t, "postgres", "CREATE DATABASE "+apps)
	s.SQL(t, apps, "CREATE ROLE "+role+" LOGIN; "+`CREATE TABLE open (x int); CREATE TABLE "closed one" (x int); CREATE TABLE own (x int); ALTER TABLE own ENABLE ROW LEVEL SECURITY;
		CREATE POLICY p ON own USING (x = 1); CREATE SEQUENCE numbers; GRANT SELECT ON open, "closed one", own, numbers TO `+role)
	reader := &postgres.Source{Server: postgres.Server{URI: strings.Replace(s.Database(apps),
		"postgres@", role+"@", 1)}}
	for name, c := range map[string]struct{ do, undo string }{
		`public."closed one"`: {
			`REVOKE SELECT ON "closed one" FROM ` + role + `; ALTER TABLE own DISABLE ROW LEVEL SECURITY`,
			`GRANT SELECT ON "closed one" TO ` + role},
		"public.own": {"ALTER TABLE own ENABLE ROW LEVEL SECURITY",
			"ALTER TABLE own DISABLE ROW LEVEL SECURITY"},
		"public.numbers": {"REVOKE SELECT ON numbers FROM " + role,
			"GRANT SELECT ON numbers TO " + role},
	} {
		s.SQL(t, apps, c.do)
		dir := t.TempDir()
		_, err := backup.Take(t.Context(), dir, backup.Options{}, reader)
		var e *backup.Error
		if !errors.Is(err, backup.ErrNotAllowed) || !errors.As(err, &e) || e.Hint() == "" ||
			!strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
		if sets, _ := backup.List(dir); len(sets) > 0 {
			t.Errorf("%s: there is a set", name)
		}
		s.SQL(t, apps, c.undo+"; ALTER TABLE own DISABLE ROW LEVEL SECURITY")
	}
	if _, err := backup.Take(t.Context(), t.TempDir(), backup.Options{}, reader); err != nil {
		t.Errorf("with SELECT on everything: %v", err)
	}
}
