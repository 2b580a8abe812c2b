package postgres_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"

	"example.com/tykupgrade/backup"
	"example.com/tykupgrade/backup/postgres"
	lab "example.com/tykupgrade/internal/lab/postgres"
)

// benchRows are rows of about 280 bytes, like those of Tyk's pump. TYKUPGRADE_BENCH_ROWS
// asks for another number: 3,700,000 are 1 GB.
func benchRows(b *testing.B) int {
	if n, err := strconv.Atoi(os.Getenv("TYKUPGRADE_BENCH_ROWS")); err == nil {
		return n
	}
	return 400_000
}

func benchServer(b *testing.B) *lab.Server {
	b.Helper()
	s := lab.Start(b, "max_wal_size = 1GB")
	s.SQL(b, "postgres", "CREATE DATABASE pump")
	s.SQL(b, "pump", `CREATE TABLE tyk_analytics (id bigint PRIMARY KEY, method text, path text, code int, apikey text, agent text, at timestamptz, tags text[], raw bytea);
		INSERT INTO tyk_analytics SELECT i, 'GET', '/accounts/' || i % 977, 200, md5(i::text), 'Mozilla/5.0 (X11; Linux x86_64)', '2026-11-29'::timestamptz + i * interval '1 s',
		ARRAY['org-1', 'key-' || i % 31], decode(md5((i * 7)::text) || md5((i * 11)::text) || md5((i * 13)::text), 'hex') FROM generate_series(1, `+strconv.Itoa(benchRows(b))+`) i`)
	return s
}

func runTool(b *testing.B, s *lab.Server, name string, args ...string) {
	b.Helper()
	if out, err := exec.CommandContext(b.Context(), filepath.Join(s.Bin, name),
		args...).CombinedOutput(); err != nil {
		b.Fatalf("%s: %v\n%s", name, err, out)
	}
}

// A verified set with digests and row counts, next to pg_dump alone.
func BenchmarkTake(b *testing.B) {
	s := benchServer(b)
	for _, c := range []struct {
		name string
		run  func(b *testing.B, dir string)
	}{
		{"ours", func(b *testing.B, dir string) {
			if _, err := backup.Take(b.Context(), dir, backup.Options{}, &postgres.Source{
				Server: postgres.Server{URI: s.URI}, Databases: []string{"pump"}}); err != nil {
				b.Fatal(err)
			}
		}},
		{"pg_dump", func(b *testing.B, dir string) {
			runTool(b, s, "pg_dump", "--format=custom", "--file="+filepath.Join(dir, "dump"),
				s.Database("pump"))
		}},
		{"pg_dump with our level", func(b *testing.B, dir string) {
			runTool(b, s, "pg_dump", "--format=custom", "--compress=1", "--file="+
				filepath.Join(dir, "dump"), s.Database("pump"))
		}},
	} {
		b.Run(c.name, func(b *testing.B) {
			for b.Loop() {
				b.StopTimer()
				dir := b.TempDir()
				b.StartTimer()
				c.run(b, dir)
			}
		})
	}
}

// A restore with verification, comparison and swap, next to pg_restore alone.
func BenchmarkRestore(b *testing.B) {
	s := benchServer(b)
	set, err := backup.Take(b.Context(), b.TempDir(), backup.Options{}, &postgres.Source{
		Server: postgres.Server{URI: s.URI}, Databases: []string{"pump"}})
	if err != nil {
		b.Fatal(err)
	}
	for _, c := range []struct {
		name string
		run  func(b *testing.B)
	}{
		{"ours", func(b *testing.B) {
			if _, err := set.Restore(b.Context(), backup.RestoreOptions{}, &postgres.Restore{
				Server: postgres.Server{URI: s.URI}, Replace: true}); err != nil {
				b.Fatal(err)
			}
		}},
		{"pg_restore", func(b *testing.B) {
			s.SQL(b, "postgres", "DROP DATABASE IF EXISTS other")
			s.SQL(b, "postgres", "CREATE DATABASE other")
			runTool(b, s, "pg_restore", "--jobs=2", "--dbname="+s.Database("other"), filepath.Join(set.Dir,
				"postgres/pump.dump"))
		}},
	} {
		b.Run(c.name, func(b *testing.B) {
			for b.Loop() {
				c.run(b)
			}
		})
	}
}
