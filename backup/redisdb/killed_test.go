package redisdb_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"example.com/tykupgrade/backup"
	"example.com/tykupgrade/backup/redisdb"
	redislab "example.com/tykupgrade/internal/lab/redis"
)

// killCase tells the helper what to restore.
type killCase struct {
	Set, State, Addr, Dir, Pid string
	Offline                    bool
}

const killEnv = "REDISDB_TEST_KILL"

// restorer is the same in the helper and in the test. The test owns the server:
// the helper asks for stop and start by files.
func (k killCase) restorer(c *redis.Client) backup.Restorer {
	if !k.Offline {
		return &redisdb.Live{Client: c, StateDir: k.State, Replace: true}
	}
	ask := func(verb string) func(context.Context) error {
		return func(ctx context.Context) error {
			path := filepath.Join(k.Pid, verb)
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
	return &redisdb.Offline{StateDir: k.State, Replace: true, Servers: []redisdb.Server{{Client: c, Dir: k.Dir, Stop: ask("stop"), Start: ask("start")}}}
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
	if _, err := os.Stdout.WriteString("begin\n"); err != nil {
		t.Fatal(err)
	}
	if _, err := set.Restore(t.Context(), backup.RestoreOptions{}, k.restorer(c)); err != nil {
		t.Fatal(err)
	}
}

// serve stops and starts the server as the helper asks for.
func (k killCase) serve(ctx context.Context, s *redislab.Server) {
	for ctx.Err() == nil {
		for verb, do := range map[string]func(){"stop": s.Stop, "start": func() { _ = s.StartE() }} {
			path := filepath.Join(k.Pid, verb)
			if _, err := os.Stat(path); err == nil {
				do()
				_ = os.Remove(path)
			}
		}
		time.Sleep(time.Millisecond)
	}
}

// A restore that is killed at any moment is found by the next run, which goes on
// or goes back; both end in a whole state, and nothing is left behind.
func TestKilledRestore(t *testing.T) {
	t.Parallel()
	moments := 8
	if n, err := strconv.Atoi(os.Getenv("TYKUPGRADE_TEST_KILLS")); err == nil {
		moments = n
	}
	source := redislab.Start(t)
	source.Fill()
	source.Do("DEBUG", "POPULATE", 1500, "filler", 300)
	set := takeRedis(t, source.Client())
	for name, off := range map[string]bool{"live": false, "offline": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			target := redislab.Start(t)
			target.Do("SET", "mine", "1")
			target.Do("SADD", "mine too", "a", "b")
			before := takeRedis(t, target.Client())
			k := killCase{Set: set.Dir, Addr: target.Addr, Dir: target.Dir, Offline: off, Pid: t.TempDir()}
			ctx, cancel := context.WithCancel(t.Context())
			served := make(chan struct{})
			go func() { defer close(served); k.serve(ctx, target) }()
			defer func() { cancel(); <-served }()
			span := k.whole(t, set, before)
			random := rand.New(rand.NewPCG(1, 2))
			phases := map[string]int{}
			for i := range moments {
				k.moment(t, set, before, time.Duration(random.Int64N(int64(span))), i%2 == 0, phases)
				if t.Failed() {
					break
				}
			}
			t.Logf("killed %d times within %v: %v", moments, span, phases)
		})
	}
}

// watcher closes begun at the first byte.
type watcher struct {
	begun chan struct{}
	once  sync.Once
}

func (w *watcher) Write(p []byte) (int, error) {
	w.once.Do(func() { close(w.begun) })
	return len(p), nil
}

// whole measures how long a restore takes that nobody kills.
func (k killCase) whole(t *testing.T, set, before *backup.Set) time.Duration {
	k.State = t.TempDir()
	start := time.Now()
	k.run(t, -1)
	span := time.Since(start) * 3 / 4 // the rest is the start of the process
	k.back(t, before)
	return span
}

// back puts the target into the state before.
func (k killCase) back(t *testing.T, before *backup.Set) {
	t.Helper()
	c := redis.NewClient(&redis.Options{Addr: k.Addr})
	defer c.Close()
	if _, err := before.Restore(t.Context(), backup.RestoreOptions{}, &redisdb.Live{Client: c, StateDir: t.TempDir(), Replace: true}); err != nil {
		t.Fatal(err)
	}
}

// run runs the helper and kills it after a while; negative: not at all.
func (k killCase) run(t *testing.T, after time.Duration) {
	t.Helper()
	env, err := json.Marshal(k)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0], "-test.run=^TestKilledHelper$")
	cmd.Env = append(os.Environ(), killEnv+"="+string(env))
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	var out bytes.Buffer
	begun := make(chan struct{})
	var errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = io.MultiWriter(&out, &watcher{begun: begun}), &errOut
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if after >= 0 {
		<-begun
		time.Sleep(after)
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
	}
	if err := cmd.Wait(); err != nil && after < 0 {
		t.Fatalf("%v\n%.2000s%.2000s", err, out.String(), errOut.String())
	}
}

func (k killCase) moment(t *testing.T, set, before *backup.Set, after time.Duration, forward bool, phases map[string]int) {
	k.State = t.TempDir()
	k.run(t, after)
	// A stop or start that was asked for is carried out first.
	redislab.WaitFor(t, "the server's unit", func() bool {
		left, _ := os.ReadDir(k.Pid)
		return len(left) == 0
	})
	journal, _ := os.ReadFile(filepath.Join(k.State, "redis.restore.json"))
	phase := "no journal"
	if i := bytes.Index(journal, []byte(`"phase": "`)); i >= 0 {
		phase, _, _ = strings.Cut(string(journal[i+10:]), `"`)
	}
	phases[phase]++
	c := redis.NewClient(&redis.Options{Addr: k.Addr, MaxRetries: -1})
	defer c.Close()
	r := k.restorer(c)
	want := set
	if forward {
		if _, err := set.Restore(t.Context(), backup.RestoreOptions{}, r); err != nil {
			t.Errorf("forward after %v, phase %s: %v", after, phase, err)
		}
	} else {
		err := set.Undo(t.Context(), r)
		if phase == "no journal" || phase == "accepted" {
			want = nil // it was accepted already, or had not begun
		} else {
			want = before
		}
		if err != nil {
			t.Errorf("back after %v, phase %s: %v", after, phase, err)
		}
	}
	if want != nil {
		if err := (&redisdb.Source{Client: c}).Prove(t.Context(), stored(t, want)); err != nil {
			t.Errorf("forward %v after %v, phase %s: %v", forward, after, phase, err)
		}
	}
	if left, _ := filepath.Glob(filepath.Join(k.Dir, "*restore*")); len(left) > 0 {
		t.Errorf("forward %v after %v, phase %s: left %v", forward, after, phase, left)
	}
	if _, err := os.Stat(filepath.Join(k.State, "redis.restore.json")); err == nil {
		t.Errorf("forward %v after %v, phase %s: the journal is left", forward, after, phase)
	}
	if role, _ := c.Do(t.Context(), "ROLE").Slice(); len(role) == 0 || role[0] != "master" {
		t.Errorf("role %v", role)
	}
	if want != before {
		k.back(t, before)
	}
}
