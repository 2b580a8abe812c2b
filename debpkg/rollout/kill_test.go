package rollout_test

import (
	"context"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"example.com/tykupgrade/debpkg/rollout"
	"example.com/tykupgrade/internal/run"
)

// again runs one test of this binary in a process of its own.
func again(t *testing.T, test string, env ...string) *exec.Cmd {
	t.Helper()
	bin, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	// another user may not look into the build's directory
	if os.Geteuid() == 0 && test != "TestKill" {
		dir, err := os.MkdirTemp("", "rollout-test")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = os.RemoveAll(dir) })
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		copied := filepath.Join(dir, "test")
		data, err := os.ReadFile(bin)
		if err == nil {
			err = run.WriteProgram(copied, data, 0o755)
		}
		if err != nil {
			t.Fatal(err)
		}
		bin = copied
	}
	cmd := exec.Command(bin, "-test.run=^"+test+"$")
	cmd.Dir, cmd.Env = os.TempDir(), append(os.Environ(), env...)
	return cmd
}

// disk is a fleet and a load balancer whose state survives the process: a file for each host
// and server.
type disk string

func (d disk) get(name string) string {
	data, _ := os.ReadFile(filepath.Join(string(d), name))
	return string(data)
}

func (d disk) put(name, value string) error {
	tmp := filepath.Join(string(d), name+".tmp")
	return errors.Join(os.WriteFile(tmp, []byte(value), 0o600), os.Rename(tmp, filepath.Join(string(d),
		name)))
}

func (d disk) Drain(_ context.Context, s string) error { return d.put(s, "drain") }
func (d disk) Ready(_ context.Context, s string) error { return d.put(s, "ready") }
func (d disk) Maintain(_ context.Context, s string) error {
	return d.put(s, "maint")
}

func (d disk) State(_ context.Context, s string) (rollout.State, error) {
	return rollout.State{Up: true, Drained: d.get(s) != "ready"}, nil
}

func (d disk) Keep(_ context.Context, s string) (json.RawMessage, error) {
	return json.Marshal(d.get(s))
}

func (d disk) Restore(_ context.Context, s string, kept json.RawMessage) error {
	var mode string
	return errors.Join(json.Unmarshal(kept, &mode), d.put(s, mode))
}

func (d disk) waves(t *testing.T) []rollout.Wave {
	var hosts []rollout.Host
	for _, n := range []string{"1", "2", "3"} {
		set := func(version string) func(context.Context) error {
			return func(ctx context.Context) error {
				if d.get("s"+n) == "ready" {
					return errors.New("installed under traffic")
				}
				if version == "new" {
					if err := rollout.Save(ctx, d.get("g"+n)); err != nil {
						return err
					}
					// What Undo finds without this file was never installed.
					if err := d.put("begun"+n, "yes"); err != nil {
						return err
					}
				} else if d.get("begun"+n) == "" && d.get("g"+n) == "old" {
					return nil
				}
				time.Sleep(2 * time.Millisecond)
				return d.put("g"+n, version)
			}
		}
		hosts = append(hosts, rollout.Host{
			Name: "g" + n, Server: "s" + n, Healthy: func(context.Context) error { return nil },
			Install: rollout.Step{Do: set("new"), Undo: set("old"), Done: func(context.Context) (bool,
				error) {
				return d.get("g"+n) == "new", nil
			}},
		})
	}
	w, err := rollout.Rolling("w", hosts, rollout.RollingOptions{
		Balancer: d, Drain: rollout.DrainOptions{Interval: time.Millisecond}, Up: rollout.UpOptions{
			Interval: time.Millisecond},
	})
	if err != nil {
		t.Fatal(err)
	}
	return []rollout.Wave{w}
}

// Four times killed and resumed, four times killed and undone: every host has the version that it
// should have, and every server is in its former state. TYKUPGRADE_TEST_KILLS asks for more.
func TestKill(t *testing.T) {
	t.Parallel()
	if dir := os.Getenv("ROLLOUT_TEST_KILL"); dir != "" {
		d := disk(dir)
		_, err := rollout.Run(t.Context(), d.waves(t), rollout.Options{Journal: filepath.Join(dir,
			"journal")})
		if err != nil {
			t.Fatal(err)
		}
		return
	}
	killed, kills := 0, 4
	if n, err := strconv.Atoi(os.Getenv("TYKUPGRADE_TEST_KILLS")); err == nil {
		kills = n
	}
	for i := range 2 * kills {
		d := disk(t.TempDir())
		for name, value := range map[string]string{"g1": "old", "g2": "old", "g3": "old", "s1": "ready",
			"s2": "maint", "s3": "ready"} {
			if err := d.put(name, value); err != nil {
				t.Fatal(err)
			}
		}
		journal := filepath.Join(string(d), "journal")
		cmd := again(t, "TestKill", "ROLLOUT_TEST_KILL="+string(d))
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		for cmd.ProcessState == nil { // what comes before the journal is not the engine's
			if info, err := os.Stat(journal); err == nil && info.Size() > 0 {
				break
			}
			time.Sleep(time.Millisecond)
		}
		time.Sleep(time.Duration(rand.IntN(60)) * time.Millisecond)
		_ = cmd.Process.Kill()
		if err := cmd.Wait(); err != nil {
			killed++
		}
		o, want := rollout.Options{Journal: journal}, "new"
		call := rollout.Resume
		if i%2 == 1 {
			call, want = rollout.Undo, "old"
		}
		rep, err := call(t.Context(), d.waves(t), o)
		if err != nil {
			t.Errorf("round %d: %v", i, err)
			continue
		}
		if d.get("g1") != want || d.get("g2") != want || d.get("g3") != want {
			t.Errorf("round %d: versions %s %s %s, want %s; %v", i, d.get("g1"), d.get("g2"), d.get("g3"),
				want, rep.Events)
		}
		if d.get("s1") != "ready" || d.get("s2") != "maint" || d.get("s3") != "ready" {
			t.Errorf("round %d: servers %s %s %s; %v", i, d.get("s1"), d.get("s2"), d.get("s3"), rep.Events)
		}
	}
	if killed < kills/2 {
		t.Errorf("only %d of %d were killed in time", killed, 2*kills)
	}
}
