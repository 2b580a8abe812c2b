package rollout_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"example.com/tykupgrade/debpkg/rollout"
	"example.com/tykupgrade/debpkg/rollout/rollouttest"
)

// A server that was out of service before the run is so after it: on success, after a failed
// installation, after an undo, and after a crash at any record.
func TestFormerStateComesBack(t *testing.T) {
	t.Parallel()
	dir := onMemory(t)
	for _, mode := range []string{"maint", "drain", "ready"} {
		for _, end := range []string{"done", "install", "healthy", "undo", "crash", "crash and undo"} {
			synctest.Test(t, func(t *testing.T) {
				for records := 1; ; records++ {
					f := newFleet()
					lb := rollouttest.NewBalancer("s1", "s2", "s3")
					lb.SetMode("s1", mode)
					w, err := rollout.Rolling("w", []rollout.Host{f.installs("g1", "s1"), f.installs("g2", "s2"),
						f.installs("g3", "s3")}, rollout.RollingOptions{Balancer: lb})
					if err != nil {
						t.Fatal(err)
					}
					if end == "install" || end == "healthy" {
						f.fail["g1 "+end] = errors.New("bad package")
					}
					waves := []rollout.Wave{w}
					o := rollout.Options{Journal: filepath.Join(dir, fmt.Sprint(mode, end, records)),
						Budget: rollout.CountOrPercent{Count: 1}}
					crashed := error(nil)
					if strings.HasPrefix(end, "crash") {
						crashed = rollouttest.CrashAfter(t.Context(), records, rollout.Run, waves, o)
						err = nil
					} else if _, err = rollout.Run(t.Context(), waves, o); end == "install" || end == "healthy" {
						err = nil
					}
					switch end {
					case "undo":
						_, err = rollout.Undo(t.Context(), waves, o)
					case "crash":
						_, err = rollout.Resume(t.Context(), waves, o)
					case "crash and undo":
						_, err = rollout.Undo(t.Context(), waves, o)
					}
					if err != nil {
						t.Errorf("%s, %s after %d: %v", mode, end, records, err)
					}
					if got := lb.Mode("s1"); got != mode || lb.Mode("s2") != "ready" || lb.Mode("s3") != "ready" {
						t.Fatalf("%s, %s after %d records: s1 is in %s, s2 in %s, s3 in %s: %v", mode, end, records,
							got, lb.Mode("s2"), lb.Mode("s3"), lb.Log())
					}
					if !errors.Is(crashed, rollouttest.ErrCrashed) {
						return
					}
				}
			})
		}
	}
}

// Clients with a cookie keep coming to a drained server; maintenance ends that, and no session is
// cut.
func TestPersistentClients(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		lb := rollouttest.NewBalancer("s1", "s2")
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		var mu sync.Mutex
		on := map[string]int{}
		go func() {
			for ctx.Err() == nil {
				name, end, err := lb.Open("jane")
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				on[name]++
				mu.Unlock()
				time.Sleep(300 * time.Millisecond)
				end()
			}
		}()
		time.Sleep(time.Second)
		server := "s1"
		mu.Lock()
		if on["s2"] > 0 {
			server = "s2"
		}
		mu.Unlock()
		start := time.Now()
		if err := rollout.TakeOut(ctx, lb, server, rollout.DrainOptions{Grace: 10 * time.Second,
			Deadline: time.Minute}); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(start); took < 10*time.Second || took > 15*time.Second ||
			lb.Mode(server) != "maint" {
			t.Errorf("in %s after %v", lb.Mode(server), took)
		}
		stop()
		time.Sleep(time.Second)
	})
	// One long request without new ones is waited for: maintenance could cut it.
	synctest.Test(t, func(t *testing.T) {
		lb := rollouttest.NewBalancer("s1")
		_, end, err := lb.Open("jane")
		if err != nil {
			t.Fatal(err)
		}
		time.AfterFunc(time.Minute, func() {
			if lb.Mode("s1") != "drain" {
				t.Errorf("in %s during the request", lb.Mode("s1"))
			}
			end()
		})
		if err := rollout.TakeOut(t.Context(), lb, "s1", rollout.DrainOptions{}); err != nil {
			t.Fatal(err)
		}
	})
}

// twoPools has each server in two pools.
type twoPools struct {
	*rollouttest.Balancer
	down map[string]bool // "pool server"
}

func (p twoPools) Pools(ctx context.Context, server string) ([]rollout.State, error) {
	var all []rollout.State
	for _, pool := range []string{"east", "west"} {
		s, err := p.State(ctx, server)
		if err != nil {
			return nil, err
		}
		s.Pool, s.Up = pool, !p.down[pool+" "+server]
		all = append(all, s)
	}
	return all, nil
}

// A server that is down in one pool still serves in the other, where it may be the last.
func TestLastServerOfAPool(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		for _, c := range []struct {
			down []string
			ok   bool
		}{
			{nil, true},
			{[]string{"east s1"}, true},
			{[]string{"east s1", "west s2"}, false},
			{[]string{"east s2"}, false},
			{[]string{"east s1", "west s1", "east s2"}, true}, // it serves nobody
		} {
			f := newFleet()
			lb := twoPools{rollouttest.NewBalancer("s1", "s2"), map[string]bool{}}
			for _, d := range c.down {
				lb.down[d] = true
			}
			w, err := rollout.Rolling("w", []rollout.Host{f.installs("g1", "s1"), f.installs("g2", "s2")},
				rollout.RollingOptions{Balancer: lb, Up: rollout.UpOptions{Deadline: time.Second}})
			if err != nil {
				t.Fatal(err)
			}
			w.Targets = w.Targets[:1]
			_, err = rollout.Run(t.Context(), []rollout.Wave{w}, rollout.Options{})
			if refused := err != nil && strings.Contains(err.Error(),
				rollout.ErrLastServer.Error()); refused == c.ok {
				t.Errorf("down %v: %v", c.down, err)
			}
			if drained := strings.Contains(f.said(), "g1 install"); drained != c.ok {
				t.Errorf("down %v: %s", c.down, f.said())
			}
		}
	})
}

// The host that is sick before the switch keeps the traffic where it is.
func TestBlueGreenVerifiesBeforeTheSwitch(t *testing.T) {
	t.Parallel()
	f := newFleet()
	healthy := 0
	host := f.installs("g1", "")
	host.Healthy = func(context.Context) error {
		if healthy++; healthy > 1 {
			return errors.New("it became sick after its upgrade")
		}
		return nil
	}
	c := &colours{f: f, now: "blue"}
	waves, err := rollout.BlueGreen([]rollout.Host{host}, rollout.BlueGreenOptions{Switch: c,
		Active: "blue", Idle: "green"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := rollout.Run(t.Context(), waves, rollout.Options{}); err == nil || c.now != "blue" ||
		strings.Contains(f.said(), "green") {
		t.Errorf("%s: %v", f.said(), err)
	}
}

// Undo of a step has its own timeout, or the step's if that is longer.
func TestUndoTimeout(t *testing.T) {
	t.Parallel()
	for step, long := range map[time.Duration]bool{time.Minute: false, time.Hour: true} {
		synctest.Test(t, func(t *testing.T) {
			var had time.Duration
			w := one(rollout.Step{
				Name: "s", Timeout: step, Do: func(context.Context) error { return errors.New("no") },
				Undo: func(ctx context.Context) error {
					end, _ := ctx.Deadline()
					had = time.Until(end)
					return nil
				},
			})
			if _, err := rollout.Run(t.Context(), w,
				rollout.Options{UndoTimeout: 20 * time.Minute}); err == nil {
				t.Error("no error")
			}
			if want := map[bool]time.Duration{false: 20 * time.Minute, true: time.Hour}[long]; had != want {
				t.Errorf("step of %v: undo has %v, want %v", step, had, want)
			}
		})
	}
}

// Journals decide what happens on every host, so only their owner may have written them.
func TestJournalOfOthersIsRefused(t *testing.T) {
	t.Parallel()
	f := newFleet()
	waves := []rollout.Wave{f.wave("w", "a")}
	dir := t.TempDir()
	o := rollout.Options{Journal: filepath.Join(dir, "journal")}
	if _, err := rollout.Run(t.Context(), waves, o); err != nil {
		t.Fatal(err)
	}
	resume := func() error { _, err := rollout.Resume(t.Context(), waves, o); return err }
	check := func(what string, err error, want string) {
		t.Helper()
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(),
			want)) {
			t.Errorf("%s: %v", what, err)
		}
	}
	for mode, want := range map[os.FileMode]string{0o602: "every user can write it",
		0o620: "its group can write it", 0o644: ""} {
		if err := os.Chmod(o.Journal, mode); err != nil {
			t.Fatal(err)
		}
		check(fmt.Sprintf("mode %o", mode), resume(), want)
	}
	_ = os.Chmod(o.Journal, 0o660)
	o.Shared = true
	check("shared", resume(), "")
	o.Shared = false
	_ = os.Chmod(o.Journal, 0o600)
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	check("a directory of everybody", resume(), "every user can write to directory")
	_ = os.Chmod(dir, 0o700)
	link := filepath.Join(dir, "link")
	if err := os.Symlink("journal", link); err != nil {
		t.Fatal(err)
	}
	_, err := rollout.Resume(t.Context(), waves, rollout.Options{Journal: link})
	check("a link", err, "open journal")
	if os.Geteuid() != 0 {
		return
	}
	if err := os.Chown(o.Journal, 65534, -1); err != nil {
		t.Fatal(err)
	}
	check("another user's", resume(), "belongs to user 65534")
	_ = os.Chown(o.Journal, 0, -1)
	// The lock of a live run is not to be removed, and everybody can read whose it is.
	f.hook = func(_ context.Context, what string) error {
		if what == "a upgrade" {
			info, err := os.Stat(o.Journal + ".lock")
			if err != nil || info.Mode().Perm() != 0o644 {
				t.Errorf("lock %v, %v", info, err)
			}
			err = resume()
			check("a live run", err, ", still running; wait for that run")
			if errors.Is(err, rollout.ErrLocked) && strings.Contains(err.Error(), "remove") {
				t.Errorf("it says to remove a live lock: %v", err)
			}
		}
		return nil
	}
	f.at["a"] = "old"
	check("resumed", resume(), "")
}

// A file that another user alone can read is a lock all the same.
func TestLockThatCannotBeRead(t *testing.T) {
	t.Parallel()
	if os.Getenv("ROLLOUT_TEST_LOCK") != "" {
		o := rollout.Options{Journal: os.Getenv("ROLLOUT_TEST_LOCK")}
		_, err := rollout.Run(t.Context(), []rollout.Wave{newFleet().wave("w", "a")}, o)
		fmt.Println("RESULT", errors.Is(err, rollout.ErrLocked), err)
		return
	}
	if os.Geteuid() != 0 {
		t.Skip("another user is needed: run as root")
	}
	dir, err := os.MkdirTemp("", "lock")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	journal := filepath.Join(dir, "journal")
	if err := errors.Join(os.Chown(dir, 65534, 65534), os.WriteFile(journal+".lock", []byte("{}"),
		0o600)); err != nil {
		t.Fatal(err)
	}
	cmd := again(t, "TestLockThatCannotBeRead", "ROLLOUT_TEST_LOCK="+journal)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "RESULT true") || !strings.Contains(string(out),
		"cannot read its owner's name") {
		t.Errorf("%s, %v", out, err)
	}
}

// A colleague of the journal's group, another Unix user, resumes a shared run, and nobody else does.
func TestColleagueResumes(t *testing.T) {
	t.Parallel()
	const group = 4242
	f := newFleet()
	waves := []rollout.Wave{f.wave("w", "a", "b")}
	if journal := os.Getenv("ROLLOUT_TEST_COLLEAGUE"); journal != "" {
		f.at["a"] = "new"
		rep, err := rollout.Resume(t.Context(), waves, rollout.Options{Journal: journal, Shared: true})
		fmt.Println("RESULT", err, rep != nil && rep.Outcome == rollout.OutcomeDone, f.said())
		return
	}
	if os.Geteuid() != 0 {
		t.Skip("another user is needed: run as root")
	}
	dir, err := os.MkdirTemp("", "shared")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := errors.Join(os.Chown(dir, 0, group), os.Chmod(dir, 0o770|os.ModeSetgid)); err != nil {
		t.Fatal(err)
	}
	journal := filepath.Join(dir, "journal")
	f.fail["b upgrade"] = errors.New("disk is full")
	if _, err := rollout.Run(t.Context(), waves, rollout.Options{Journal: journal,
		Shared: true}); err == nil {
		t.Fatal("no error")
	}
	for _, c := range []struct {
		groups []uint32
		want   string
	}{{nil, "permission denied"}, {[]uint32{group}, "RESULT <nil> true"}} {
		cmd := again(t, "TestColleagueResumes", "ROLLOUT_TEST_COLLEAGUE="+journal)
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534,
			Groups: c.groups}}
		if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), c.want) {
			t.Errorf("groups %v: %v\n%s", c.groups, err, out)
		}
	}
}

// A target that could not be undone is out of service, so a resumed run begins with it.
func TestNotRestoredComesFirst(t *testing.T) {
	t.Parallel()
	f := newFleet()
	waves := []rollout.Wave{f.wave("w", "a", "b", "c")}
	o := rollout.Options{Journal: filepath.Join(t.TempDir(), "journal")}
	f.fail["b ready"], f.fail["b undo upgrade"] = errors.New("sick"), errors.New("gone")
	if rep, _ := rollout.Run(t.Context(), waves, o); rep.Outcome != rollout.OutcomeNotRestored {
		t.Fatal(rep.Outcome)
	}
	f.fail, f.log = map[string]error{}, nil
	f.at["a"] = "old" // so it has to be done again too
	if _, err := rollout.Resume(t.Context(), waves, o); err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(f.said(), "b ") {
		t.Error(f.said())
	}
}

// durableColours has the colour in memory and in a file.
type durableColours struct {
	*colours
	file string
}

func (d *durableColours) Set(ctx context.Context, colour string) error {
	err := d.colours.Set(ctx, colour)
	d.file = colour
	return err
}

func (d *durableColours) Persisted(_ context.Context, colour string) (bool, error) {
	return d.file == colour, nil
}

// A crash between memory and file leaves a switch that is not done.
func TestSwitchIsDoneInBothPlaces(t *testing.T) {
	t.Parallel()
	f := newFleet()
	d := &durableColours{&colours{f: f, now: "blue"}, "blue"}
	waves, err := rollout.BlueGreen([]rollout.Host{f.installs("g1", "")}, rollout.BlueGreenOptions{
		Switch: d, Active: "blue", Idle: "green"})
	if err != nil {
		t.Fatal(err)
	}
	o := rollout.Options{Journal: filepath.Join(t.TempDir(), "journal")}
	if _, err := rollout.Run(t.Context(), waves, o); err != nil {
		t.Fatal(err)
	}
	d.file = "blue"
	if _, err := rollout.Resume(t.Context(), waves[1:], rollout.Options{}); !errors.Is(err,
		rollout.ErrNoRun) {
		t.Fatal(err)
	}
	if _, err := rollout.Run(t.Context(), waves[1:], rollout.Options{}); err != nil ||
		d.file != "green" {
		t.Errorf("the file has %s: %v", d.file, err)
	}
}
