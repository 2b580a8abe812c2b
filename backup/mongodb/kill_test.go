package mongodb_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"go.mongodb.org/mongo-driver/bson"

	"example.com/tykupgrade/backup"
	"example.com/tykupgrade/backup/mongodb"
	mongolab "example.com/tykupgrade/internal/lab/mongo"
)

// killSetEnv names the set that the killed helper restores.
const killSetEnv = "BACKUP_TEST_MONGODB_SET"

func killTarget(server mongodb.Server) *mongodb.Restore {
	return &mongodb.Restore{Server: server, Mode: mongodb.Replace, DropExtra: true, Parallel: 2}
}

func TestKilledRestoreHelper(t *testing.T) {
	dir := os.Getenv(killSetEnv)
	if dir == "" {
		t.Skip("runs on behalf of TestKilledRestore")
	}
	set, err := backup.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := set.Restore(t.Context(), backup.RestoreOptions{},
		killTarget(mongodb.Server{URI: os.Getenv(mongoEnv)})); err != nil {
		t.Fatal(err)
	}
}

// A restore is killed at each of its commands, before or after the server ran it. The
// next restore, Prune or Undo brings the database to a state that has a name: before the
// restore, or after it.
func TestKilledRestore(t *testing.T) {
	t.Parallel()
	from := mongoWith(t, mongolab.Options{}, 30)
	c := mongoClient(t, from)
	mongoRun(t, c, "tyk_analytics", bson.D{{Key: "create", Value: "view"}, {Key: "viewOn",
		Value: "apis"}, {Key: "pipeline", Value: bson.A{}}})
	mongoRun(t, c, "tyk_analytics", bson.D{{Key: "createIndexes", Value: "keys"}, {Key: "indexes",
		Value: bson.A{bson.D{{Key: "key", Value: bson.D{{Key: "text", Value: 1}}}, {Key: "name",
			Value: "text"}}}}})
	from.Insert("tyk_analytics", "system.js") // in place, and new
	set := takeMongo(t, &mongodb.Source{Server: uri(from)})
	target := func() *mongolab.Server {
		s := changed(t, mongoWith(t, mongolab.Options{}, 30))
		mongoRun(t, mongoClient(t, s), "tyk_analytics", bson.D{{Key: "create", Value: "view"},
			{Key: "viewOn", Value: "keys"}, {Key: "pipeline", Value: bson.A{}}})
		return s
	}
	s := target()
	whole := countCommands(s)
	if _, err := set.Restore(t.Context(), backup.RestoreOptions{}, killTarget(uri(s))); err != nil {
		t.Fatal(err)
	}
	total := int(whole.Load())
	s.Close()
	// By default some moments, all classes of afterKill among them, and the last ones.
	stride := max(1, total/moments(4))
	for stride > 1 && (stride%2 == 0 || stride%3 == 0) {
		stride--
	}
	seen := map[mongodb.LeftoverState]int{}
	n, hit := 0, 0
	for over := false; !over && n < 2*total; n, hit = n+1, hit+1 {
		if n < total-5 && n%stride > 0 {
			n += min(stride-n%stride, total-5-n)
		}
		s := target()
		before := state(t, s)
		over = killAt(t, s, set, n)
		s.Hook(nil)
		expire(t, s)
		afterKill(t, s, set, n, before, seen)
		s.Close()
	}
	t.Logf("%d of %d moments; left %v", hit, total, seen)
	if total < 40 || hit < 8 || seen[mongodb.LeftInterrupted] == 0 ||
		seen[mongodb.LeftUnaccepted] == 0 {
		t.Errorf("%d of %d moments, left %v: too few to show anything", hit, total, seen)
	}
}

// moments is how many kills a test makes; TYKUPGRADE_TEST_KILLS asks for more.
func moments(n int) int {
	if more, err := strconv.Atoi(os.Getenv("TYKUPGRADE_TEST_KILLS")); err == nil {
		return max(more, n)
	}
	return n
}

// greets reports whether a command belongs to the connection, not to the work.
func greets(c mongolab.Command) bool {
	return strings.EqualFold(c.Name, "isMaster") || c.Name == "hello" || c.Name == "buildInfo"
}

// countCommands counts what a server is asked from now on.
func countCommands(s *mongolab.Server) *atomic.Int32 {
	var n atomic.Int32
	s.Hook(func(c mongolab.Command) mongolab.Fault {
		if !greets(c) {
			n.Add(1)
		}
		return mongolab.Fault{}
	})
	return &n
}

// killAt restores in another process and kills it at one of its commands, for an even n
// before the server runs it. It returns true if
// the restore was over before.
func killAt(t *testing.T, s *mongolab.Server, set *backup.Set, n int) (over bool) {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^TestKilledRestoreHelper$")
	cmd.Env = append(os.Environ(), killSetEnv+"="+set.Dir, mongoEnv+"="+s.URI(),
		"GORACE=atexit_sleep_ms=0")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	started, killed := make(chan struct{}), make(chan struct{})
	var commands atomic.Int32
	s.Hook(func(c mongolab.Command) mongolab.Fault {
		if greets(c) || int(commands.Add(1)) != n+1 {
			return mongolab.Fault{}
		}
		<-started
		close(killed)
		_ = cmd.Process.Kill()
		return mongolab.Fault{Cut: n%2 == 0, Lose: true}
	})
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	close(started)
	err := cmd.Wait()
	select {
	case <-killed:
		return false
	default:
	}
	if err != nil {
		t.Fatalf("the helper failed: %v\n%s", err, out.Bytes())
	}
	return true
}

// expire lets a minute pass for the lease of a killed run.
func expire(t *testing.T, s *mongolab.Server) {
	t.Helper()
	for _, name := range s.Collections("tyk_analytics") {
		if name != "tykupgrade_restore" {
			continue
		}
		mongoRun(t, mongoClient(t, s), "tyk_analytics", bson.D{{Key: "update", Value: name},
			{Key: "updates", Value: bson.A{
				bson.D{{Key: "q", Value: bson.D{{Key: "_id", Value: "lease"}}},
					{Key: "u", Value: bson.D{{Key: "_id", Value: "lease"}, {Key: "token", Value: "dead"},
						{Key: "until", Value: time.Unix(0, 0)}}}}}}})
	}
}

func afterKill(t *testing.T, s *mongolab.Server, set *backup.Set, n int, before string,
	seen map[mongodb.LeftoverState]int) {
	t.Helper()
	left, err := mongodb.Leftovers(t.Context(), uri(s))
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range left {
		seen[l.State]++
	}
	unaccepted := len(left) == 1 && left[0].State == mongodb.LeftUnaccepted
	restored := func() string {
		return fmt.Sprint(s.Collections("tyk_analytics"), len(s.Documents("tyk_analytics", "apis")),
			len(s.Documents("tyk_analytics", "keys")))
	}
	const want = "[apis keys system.js system.views view] 14 30"
	switch n % 3 {
	case 0: // the next restore
		next := killTarget(uri(s))
		_, err := set.Restore(t.Context(), backup.RestoreOptions{}, next)
		// it was over, and system.js cannot be replaced
		if errors.Is(err, backup.ErrNotEmpty) && len(s.Documents("tyk_analytics", "keys")) == 30 {
			next.Exclude = []string{"*.system.js"}
			_, err = set.Restore(t.Context(), backup.RestoreOptions{}, next)
		}
		if unaccepted != errors.Is(err, mongodb.ErrUnaccepted) || !unaccepted && err != nil {
			t.Errorf("moment %d: left %+v, restore %v", n, left, err)
		}
		if unaccepted {
			if err := set.Accept(t.Context(), killTarget(uri(s))); err != nil {
				t.Errorf("moment %d: %v", n, err)
			}
		}
		if got := restored(); got != want {
			t.Errorf("moment %d: after the next restore: %s", n, got)
		}
	case 1:
		if _, err := mongodb.Prune(t.Context(), uri(s), 0); err != nil {
			t.Errorf("moment %d: prune: %v", n, err)
		}
		if got := state(t, s); got != before && restored() != want {
			t.Errorf("moment %d: left %+v, after prune: %s", n, left, restored())
		}
	case 2:
		if _, err := set.Undo(t.Context(), killTarget(uri(s))); err != nil && !strings.Contains(err.Error(),
			"was accepted") {
			t.Errorf("moment %d: undo: %v", n, err)
		} else if err != nil {
			err = set.Accept(t.Context(), killTarget(uri(s)))
			if err != nil {
				t.Errorf("moment %d: accept: %v", n, err)
			}
		}
		if got := state(t, s); got != before && restored() != want {
			t.Errorf("moment %d: left %+v, after undo: %s\n%.600s\n%.600s", n, left, restored(), before, got)
		}
	}
	for _, name := range s.Collections("tyk_analytics") {
		if strings.HasPrefix(name, "tykupgrade_") {
			t.Errorf("moment %d: %s is left", n, name)
		}
	}
}
