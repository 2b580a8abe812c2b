package redisdb_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"example.com/tykupgrade/backup"
	"example.com/tykupgrade/backup/redisdb"
	"example.com/tykupgrade/internal/lab"
	redislab "example.com/tykupgrade/internal/lab/redis"
)

// killCase tells the helper what to restore.
type killCase struct {
	Set, State, Addr, Dir string
	Unit                  string // the directory through which the helper stops and starts the server
	Offline               bool

	set, before *backup.Set
	target      *redislab.Server
	span        time.Duration // from the journal to the end of a restore
	early       bool          // kill before there is a journal
}

const killEnv = "REDISDB_TEST_KILL"

// restorer is the same in the helper and in the test. The test owns the server:
// the helper asks for stop and start by files.
func (k *killCase) restorer(c *redis.Client) backup.Restorer {
	if !k.Offline {
		return &redisdb.Live{Client: c, StateDir: k.State, Replace: true}
	}
	ask := func(verb string) func(context.Context) error {
		return func(ctx context.Context) error {
			path := filepath.Join(k.Unit, verb)
			if err := os.WriteFile(path, nil, 0o600); err != nil {
				return err
			}
			for {
				if _, err := os.Stat(path); errors.Is(err, os.ErrNotExist) {
					return nil
				}
				select {
				case <-ctx.Done():
					return ctx.Err()
				case <-time.After(time.Millisecond):
				}
			}
		}
	}
	return &redisdb.Offline{StateDir: k.State, Replace: true, Servers: []redisdb.Server{{Client: c,
		Dir: k.Dir, Stop: ask("stop"), Start: ask("start")}}}
}

func TestKilledHelper(t *testing.T) {
	var k killCase
	if json.Unmarshal([]byte(os.Getenv(killEnv)), &k) != nil || k.Set == "" {
		t.Skip("runs in a process of its own")
	}
	set, err := backup.Open(k.Set)
	if err != nil {
		t.Fatal(err)
	}
	c := redis.NewClient(&redis.Options{Addr: k.Addr})
	defer c.Close()
	if _, err := set.Restore(t.Context(), backup.RestoreOptions{}, k.restorer(c)); err != nil {
		t.Fatal(err)
	}
}

// serve stops and starts the server as the helper asks for.
func (k *killCase) serve(ctx context.Context) {
	for ctx.Err() == nil {
		for verb, do := range map[string]func(){"stop": k.target.Stop,
			"start": func() { _ = k.target.StartE() }} {
			path := filepath.Join(k.Unit, verb)
			if _, err := os.Stat(path); err == nil {
				do()
				_ = os.Remove(path)
			}
		}
		time.Sleep(time.Millisecond)
	}
}

// A restore that is killed at any moment is found by the next run, which continues
// or goes back; both end in a whole state, and nothing is left behind.
func TestKilledRestore(t *testing.T) {
	t.Parallel()
	moments := int64(lab.Kills(2))
	source := redislab.Start(t)
	source.Do("DEBUG", "POPULATE", 5000, "filler", 20)
	source.Do("HSET", "hash", "f", "v")
	source.Do("XADD", "stream", "1-1", "f", "v")
	source.Do("FUNCTION", "LOAD", "#!lua name=lab\nredis.register_function('one', function() "+
		"return 1 end)")
	set := takeRedis(t, source.Client())
	for name, off := range map[string]bool{"live": false, "offline": true} {
		phases := phaseCounts{seen: map[string]int{}}
		var next atomic.Int64
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			t.Cleanup(func() { t.Logf("killed %d times: %v", moments, phases.seen) })
			for worker := range min(2, (moments+7)/8) { // one waits for a disk while the other computes
				t.Run(fmt.Sprint(worker), func(t *testing.T) {
					t.Parallel()
					k := newKillCase(t, set, off)
					k.whole(t)
					for i := next.Add(1); i <= moments && !t.Failed(); i = next.Add(1) {
						k.early = i%16 == 0
						k.moment(t, rand.N(k.span), i%2 == 0, &phases)
					}
				})
			}
		})
	}
}

// phaseCounts counts in which phase a restore was killed.
type phaseCounts struct {
	sync.Mutex
	seen map[string]int
}

func newKillCase(t *testing.T, set *backup.Set, offline bool) *killCase {
	t.Helper()
	target := redislab.Start(t)
	k := &killCase{Set: set.Dir, Addr: target.Addr, Dir: target.Dir, Offline: offline,
		Unit: t.TempDir(), set: set, target: target}
	k.fill(t)
	k.before = takeRedis(t, target.Client())
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan struct{})
	go func() { defer close(served); k.serve(ctx) }()
	t.Cleanup(func() { cancel(); <-served })
	return k
}

// fill gives the target what it holds before a restore.
func (k *killCase) fill(t *testing.T) {
	t.Helper()
	for _, command := range [][]any{{"FLUSHALL"}, {"FUNCTION", "FLUSH"}, {"SET", "mine", "1"},
		{"SADD", "mine too", "a", "b"}} {
		k.target.Do(command...)
	}
}

func (k *killCase) journal() string { return filepath.Join(k.State, "redis.restore.json") }

// whole measures how long a restore takes that nobody kills.
func (k *killCase) whole(t *testing.T) {
	k.State, k.span = t.TempDir(), time.Hour
	k.run(t, -1)
	k.fill(t)
}

// run runs the helper and kills it a while after its journal is there, or with early
// after its start; negative: not at all. A helper that was faster than before makes span
// shorter.
func (k *killCase) run(t *testing.T, after time.Duration) {
	t.Helper()
	env, err := json.Marshal(k)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0], "-test.run=^TestKilledHelper$")
	cmd.Env = append(os.Environ(), killEnv+"="+string(env), "GORACE=atexit_sleep_ms=0")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	begun := false
	for !begun && !k.early {
		select {
		case err := <-ended: // it was over before it was seen
			if err != nil {
				t.Fatalf("%v\n%.4000s", err, out.String())
			}
			return
		case <-time.After(time.Millisecond):
			_, err := os.Stat(k.journal())
			begun = err == nil
		}
	}
	start := time.Now()
	for after < 0 || time.Since(start) < after {
		select {
		case err := <-ended:
			if err != nil {
				t.Fatalf("%v\n%.4000s", err, out.String())
			}
			return
		case <-time.After(time.Millisecond):
		}
		if _, err := os.Stat(k.journal()); err != nil && begun { // it is done
			begun = false
			k.span = max(time.Millisecond, min(k.span, time.Since(start)))
		}
	}
	_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
	<-ended
}

func (k *killCase) moment(t *testing.T, after time.Duration, forward bool, phases *phaseCounts) {
	k.State = t.TempDir()
	k.run(t, after)
	// A stop or start that was requested is carried out first.
	redislab.WaitFor(t, "the server's unit", func() bool {
		left, _ := os.ReadDir(k.Unit)
		return len(left) == 0
	})
	journal, _ := os.ReadFile(k.journal())
	phase := "no journal"
	if i := bytes.Index(journal, []byte(`"phase": "`)); i >= 0 {
		phase, _, _ = strings.Cut(string(journal[i+10:]), `"`)
	}
	phases.Lock()
	phases.seen[phase]++
	phases.Unlock()
	where := fmt.Sprintf("forward %v after %v, phase %s", forward, after, phase)
	c := redis.NewClient(&redis.Options{Addr: k.Addr, MaxRetries: -1})
	defer c.Close()
	r := k.restorer(c)
	want := k.set
	if forward {
		if _, err := k.set.Restore(t.Context(), backup.RestoreOptions{}, r); err != nil {
			t.Errorf("%s: %v", where, err)
		}
	} else {
		report, err := k.set.Undo(t.Context(), r)
		state := backup.StateUndone
		if phase == "no journal" || phase == "accepted" || phase == "saving" {
			state = backup.StateNothing
		}
		if err != nil || report.Components[0].State != state {
			t.Errorf("%s: %+v %v, want %s", where, report, err, state)
		}
		want = k.before
		if phase == "no journal" || phase == "accepted" {
			want = nil // it was accepted already, or had not begun
		}
	}
	if want != nil {
		if err := (&redisdb.Source{Client: c}).Prove(t.Context(), stored(t, want)); err != nil {
			t.Errorf("%s: %v", where, err)
		}
	}
	if left, _ := filepath.Glob(filepath.Join(k.Dir, "*restore*")); len(left) > 0 {
		t.Errorf("%s: left %v", where, left)
	}
	if _, err := os.Stat(k.journal()); err == nil {
		t.Errorf("%s: the journal is left", where)
	}
	if role, _ := c.Do(t.Context(), "ROLE").Slice(); len(role) == 0 || role[0] != "master" {
		t.Errorf("%s: role %v", where, role)
	}
	k.fill(t)
}
