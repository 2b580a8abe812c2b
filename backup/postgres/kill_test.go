package postgres_test

import (
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"example.com/tykupgrade/backup"
	"example.com/tykupgrade/backup/backuptest"
	"example.com/tykupgrade/backup/postgres"
	lab "example.com/tykupgrade/internal/lab/postgres"
)

const killEnv = "TYKUPGRADE_TEST_POSTGRES_CHILD"

// TestMain is the child of the kill tests when killEnv names its work.
func TestMain(m *testing.M) {
	work := strings.Split(os.Getenv(killEnv), "\n")
	switch work[0] {
	case "take":
		_, err := backup.Take(ctx(), work[2], backup.Options{}, &postgres.Source{Server: postgres.Server{
			URI: work[1]}, Databases: []string{"small"}})
		exit(err)
	}
	os.Exit(m.Run())
}

func exit(err error) {
	if err != nil {
		os.Stderr.WriteString(err.Error() + "\n")
		os.Exit(1)
	}
	os.Exit(0)
}

// How many kills a test makes by itself: forward and back once. 50 of each take minutes of
// CPU.
const (
	takeKills    = 2
	restoreKills = 2
)

// moments is how many kills a test makes; TYKUPGRADE_TEST_KILLS asks for more.
func moments(n int) int {
	if more, err := strconv.Atoi(os.Getenv("TYKUPGRADE_TEST_KILLS")); err == nil {
		return max(more, n)
	}
	return n
}

// kill runs a child and kills its process group after a random part of whole.
func kill(t *testing.T, whole time.Duration, work ...string) {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^$")
	cmd.Env = append(os.Environ(), killEnv+"="+strings.Join(work, "\n"))
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	time.Sleep(rand.N(whole))
	_ = cmd.Process.Kill() // the tools live on for a moment, as after a real kill -9
	_ = cmd.Wait()
}

func TestKilledTake(t *testing.T) {
	t.Parallel()
	s := alone(t)
	dir := t.TempDir()
	source := &postgres.Source{Server: postgres.Server{URI: s.URI}, Databases: []string{"small"}}
	began := time.Now()
	if _, err := backup.Take(t.Context(), dir, backup.Options{}, source); err != nil {
		t.Fatal(err)
	}
	whole := time.Since(began)
	for range moments(takeKills) {
		kill(t, whole, "take", s.URI, dir)
	}
	if _, err := backup.Take(t.Context(), dir, backup.Options{}, source); err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	sets, err := backup.List(dir)
	if err != nil || len(entries) > len(sets)+1 { // and the lock
		t.Errorf("%v: %d entries for %d sets", err, len(entries), len(sets))
	}
	for _, set := range sets {
		if err := set.Verify(t.Context(), backup.VerifyOptions{}); err != nil {
			t.Error(err)
		}
	}
	settle(t, s.Server) // what the killed ones opened on the server
}

const killURIEnv = "TYKUPGRADE_TEST_POSTGRES_URI"

func killTarget(uri string) *postgres.Restore {
	return &postgres.Restore{Server: postgres.Server{URI: uri}, Replace: true, EndClients: true}
}

func TestKilledRestoreHelper(t *testing.T) {
	backuptest.RestoreHelper(func() backup.Restorer { return killTarget(os.Getenv(killURIEnv)) })
}

// A killed restore leaves all of the live database or all of the restored one. The next
// restore and Undo leave no other database.
func TestKilledRestore(t *testing.T) {
	t.Parallel()
	s := alone(t)
	set := s.take(t)
	backuptest.KilledRestore{
		Helper: "TestKilledRestoreHelper", Env: []string{killURIEnv + "=" + s.URI}, Set: set,
		Restorer: func() backup.Restorer { return killTarget(s.URI) },
		Reset: func(t *testing.T) { // what a restore would replace
			s.SQL(t, "small", "DELETE FROM t WHERE x > 10")
		},
		Settle: func(t *testing.T) { settle(t, s.Server) },
		State: func(t *testing.T) string {
			rows := s.SQL(t, "small", "SELECT count(*) FROM t")
			if rows != "10" && rows != "1000" {
				t.Errorf("%s rows: neither the old database nor the restored one", rows)
			}
			return names(t, s.Server) + ": " + rows + " rows"
		},
	}.Run(t, moments(restoreKills))
}

// settle waits until what a killed process started has noticed, and its sessions are gone.
func settle(t *testing.T, s *lab.Server) {
	t.Helper()
	for range 1200 {
		if s.SQL(t, "postgres", "SELECT count(*) FROM pg_stat_activity WHERE application_name IN "+
			"('tykupgrade', 'pg_restore', 'pg_dump') OR datname LIKE '%tykupgrade%'") == "0" {
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
	t.Fatal("sessions of a killed process are left")
}

// A changed bit is found before anything is written.
func TestBitFlips(t *testing.T) {
	t.Parallel()
	s := small(t)
	set := s.take(t)
	file := set.Dir + "/postgres/" + s.DB + ".dump"
	whole, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	to := &postgres.Restore{Server: postgres.Server{URI: s.URI}, Replace: true}
	for range 5 {
		broken := append([]byte(nil), whole...)
		broken[rand.N(len(broken))] ^= 1 << rand.N(8)
		if err := os.WriteFile(file, broken, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := set.Restore(t.Context(), backup.RestoreOptions{}, to); err == nil {
			t.Fatal("a changed bit was restored")
		}
	}
	// Without the digest the archive itself shows a cut.
	if err := os.WriteFile(file, whole, 0o600); err != nil {
		t.Fatal(err)
	}
	st, _ := set.Component("postgres")
	if err := postgres.CheckStructure(t.Context(), st); err != nil {
		t.Fatal(err)
	}
	for _, n := range []int{0, 5, len(whole) / 2, len(whole) - 1} {
		if err := os.WriteFile(file, whole[:n], 0o600); err != nil {
			t.Fatal(err)
		}
		if err := postgres.CheckStructure(t.Context(), st); err == nil {
			t.Errorf("an archive cut at %d of %d passed", n, len(whole))
		}
	}
	if got := s.names(t); got != s.DB {
		t.Errorf("databases %s", got)
	}
}
