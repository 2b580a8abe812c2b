package postgres_test

import (
	"context"
	"errors"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"example.com/tykupgrade/backup"
	"example.com/tykupgrade/backup/backuptest"
	"example.com/tykupgrade/backup/postgres"
	"example.com/tykupgrade/internal/run"
)

// hooked runs programs here, and calls before once before pg_dump starts, and during once
// when it prints that it reads the contents of a table.
func hooked(before, during func()) backup.Runner {
	local := run.Local(run.Options{})
	var first, second sync.Once
	return func(ctx context.Context, argv []string, in io.Reader, out, errs io.Writer) error {
		if strings.Contains(strings.Join(argv, " "), "--format=custom") {
			first.Do(before)
			errs = writer(func(p []byte) (int, error) {
				if strings.Contains(string(p), "dumping contents") {
					second.Do(during)
				}
				return len(p), nil
			}, errs)
		}
		return local(ctx, argv, in, out, errs)
	}
}

type hook struct {
	f func(p []byte) (int, error)
	w io.Writer
}

func writer(f func(p []byte) (int, error), w io.Writer) io.Writer { return hook{f, w} }

func (h hook) Write(p []byte) (int, error) {
	_, _ = h.f(p)
	return h.w.Write(p)
}

// later runs a statement in the background and waits until the server makes it wait.
func later(t *testing.T, s home, sql string) (done chan error) {
	t.Helper()
	done = make(chan error, 1)
	go func() {
		_, err := s.TrySQL(s.DB, sql)
		done <- err
	}()
	for s.SQL(t, "postgres", "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND "+
		"query LIKE '"+sql+"%'") == "0" {
		select {
		case err := <-done:
			t.Errorf("%s did not wait for the dump: %v", sql, err)
			done <- err
			return done
		case <-time.After(5 * time.Millisecond):
		}
	}
	return done
}

// Statements of other sessions that change tables while a set is taken.
func TestDDL(t *testing.T) {
	t.Parallel()
	s := small(t)
	s.SQL(t, s.DB, "CREATE TABLE altered AS TABLE t; CREATE TABLE dropped AS TABLE t; "+
		"CREATE TABLE brief (x int)")
	source := func(before, during func()) *postgres.Source {
		return &postgres.Source{Databases: []string{s.DB}, Server: postgres.Server{URI: s.URI,
			Runner: hooked(before, during)}}
	}
	none := func() {}

	t.Run("a table goes between two questions", func(t *testing.T) {
		var dropped sync.Once
		local := run.Local(run.Options{})
		runner := func(ctx context.Context, argv []string, in io.Reader, out, errs io.Writer) error {
			if strings.Contains(strings.Join(argv, " "), "psql") {
				out = writer(func(p []byte) (int, error) {
					if strings.Contains(string(p), `"name":"brief"`) {
						dropped.Do(func() { s.SQL(t, s.DB, "DROP TABLE brief") })
					}
					return len(p), nil
				}, out)
			}
			return local(ctx, argv, in, out, errs)
		}
		q := &postgres.Source{Server: postgres.Server{URI: s.URI, Runner: runner},
			Databases: []string{s.DB}}
		var e *backup.Error
		_, err := q.Backup(t.Context(), backup.NewWriter(t.TempDir(), q.Name(), nil))
		if !errors.Is(err, backup.ErrChanged) || !errors.As(err, &e) || !e.Retryable() ||
			e.Hint() == "" {
			t.Errorf("error %v", err)
		}
	})

	// They wait, and the set holds the state of its moment.
	t.Run("during the dump", func(t *testing.T) {
		var waiting []chan error
		set, err := backup.Take(t.Context(), t.TempDir(), backup.Options{}, source(none, func() {
			for _, sql := range []string{"TRUNCATE t", "ALTER TABLE altered ALTER x TYPE bigint",
				"DROP TABLE dropped"} {
				waiting = append(waiting, later(t, s, sql))
			}
		}))
		if err != nil {
			t.Fatal(err)
		}
		if n := set.Components[0].Items; n != 3000 || len(waiting) != 3 {
			t.Errorf("the set has %d rows, %d statements waited", n, len(waiting))
		}
		for _, done := range waiting {
			if err := <-done; err != nil {
				t.Errorf("after the dump: %v", err)
			}
		}
	})

	// Such a statement cannot empty a table of the set: the dump gives up after LockWait.
	t.Run("between the snapshot and pg_dump", func(t *testing.T) {
		var done chan error
		dir := t.TempDir()
		q := source(func() { done = later(t, s, "TRUNCATE altered") }, none)
		q.LockWait = 200 * time.Millisecond
		_, err := backup.Take(t.Context(), dir, backup.Options{}, q)
		var e *backup.Error
		if !errors.Is(err, postgres.ErrInUse) || !errors.As(err, &e) || !e.Retryable() ||
			e.Hint() == "" {
			t.Errorf("a lock that is not to be had: %v", err)
		}
		if sets, _ := backup.List(dir); len(sets) > 0 || len(backuptest.Leftovers(t, dir)) > 0 {
			t.Errorf("left %v %v", sets, backuptest.Leftovers(t, dir))
		}
		if err := <-done; err != nil {
			t.Errorf("the other session: %v", err)
		}
	})
}
