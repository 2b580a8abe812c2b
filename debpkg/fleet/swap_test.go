package fleet

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"example.com/tykupgrade/debpkg"
	"example.com/tykupgrade/debpkg/rollout"
)

// aside is where a cached directory is kept.
func aside(dir string) string { return dir + ".before-upgrade" }

// gatewayHost has a gateway that fetches the bundle at its start if it has no cache. After
// left commands every further one fails, as if the program had been killed.
type gatewayHost struct {
	dir     string // of the cached bundle
	running bool
	left    int
	touched bool // the cache changed while the gateway ran
}

func (g *gatewayHost) run(ctx context.Context, argv []string, stdin io.Reader, stdout,
	stderr io.Writer) error {
	if g.left--; g.left < 0 {
		return errors.New("killed")
	}
	text := strings.Join(argv, " ")
	switch {
	case strings.HasPrefix(text, "systemctl stop"):
		g.running = false
	case strings.Contains(text, "systemctl restart"):
		g.running = true
		if _, err := os.Stat(g.dir); err != nil {
			return errors.Join(os.MkdirAll(g.dir, 0o755), os.WriteFile(filepath.Join(g.dir, "plugin"),
				[]byte("new"), 0o600))
		}
	case strings.HasPrefix(text, "systemctl show"), strings.Contains(text, "systemctl show"):
		_, err := io.WriteString(stdout,
			"Id=tyk-gateway.service\nLoadState=loaded\nActiveState=active\nSubState=running\nMainPID=7\n")
		return err
	case argv[0] == "cat":
		_, err := io.WriteString(stdout, `{"middleware_path": "/x", "secret": "s"}`)
		return err
	default:
		changes := len(argv) > 2 && (argv[2] == asideScript || argv[2] == backScript)
		g.touched = g.touched || g.running && changes
		cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
		cmd.Stdin, cmd.Stdout, cmd.Stderr = stdin, stdout, stderr
		return cmd.Run()
	}
	return nil
}

// A swap that is killed after any of its commands is finished or taken back by the next
// call, and the cache is never touched while the gateway runs.
func TestSwapIsKilledAnywhere(t *testing.T) {
	t.Parallel()
	v := func(text string) debpkg.Version {
		v, err := debpkg.ParseVersion(text)
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	for _, cachedBefore := range []bool{true, false} {
		for n := 0; ; n++ {
			kills := false
			for _, forward := range []bool{true, false} {
				base := t.TempDir()
				dir := filepath.Join(base, "bundles", "0123456789abcdef0123456789abcdef")
				if cachedBefore {
					if err := errors.Join(os.MkdirAll(dir, 0o755), os.WriteFile(filepath.Join(dir, "plugin"),
						[]byte("old"), 0o600)); err != nil {
						t.Fatal(err)
					}
				}
				g := &gatewayHost{dir: dir, running: true, left: n}
				s := &Swap{Runner: g.run, notes: base + "/notes", Caches: func(config []byte, from,
					to debpkg.Version) ([]string, error) {
					if !bytes.Contains(config, []byte("middleware_path")) || from.String() != "4.0.8" ||
						to.String() != "5.2.5" {
						t.Errorf("asked with %s, %s, %s", config, from, to)
					}
					return []string{dir, dir}, nil
				}}
				host := debpkg.New(g.run, debpkg.Options{Settle: time.Millisecond, SettleLimit: time.Minute})
				plan := debpkg.Plan{Actions: []debpkg.Action{{Kind: debpkg.Upgrade, Package: "tyk-gateway",
					From: v("4.0.8"), To: v("5.2.5")}}}
				do := func(f func(context.Context, *record) error) func(context.Context) error {
					return func(ctx context.Context) error {
						r := record{Plan: &plan}
						if _, err := rollout.Saved(ctx, &r); err != nil {
							return err
						}
						return f(ctx, &r)
					}
				}
				step := rollout.Step{Name: "install", Do: do(func(ctx context.Context,
					r *record) error {
					return s.forward(ctx, host, "tyk-gateway.service", r)
				})}
				if !forward {
					step.Undo = do(func(ctx context.Context, r *record) error {
						if err := s.back(ctx, host, "tyk-gateway.service", r); err != nil {
							return err
						}
						return host.Restart(ctx, "tyk-gateway.service") // as a revert does
					})
				}
				waves := []rollout.Wave{{Name: "w", Targets: []rollout.Target{{Name: "g", Steps: []rollout.Step{
					step}}}}}
				o := rollout.Options{Journal: filepath.Join(base, "journal")}
				_, err := rollout.Run(t.Context(), waves, o)
				kills = kills || err != nil
				g.left = 1000
				want := "new"
				switch {
				case !forward:
					want = "old"
					_, err = rollout.Undo(t.Context(), waves, o)
				case err != nil:
					_, err = rollout.Resume(t.Context(), waves, o)
				}
				if err != nil {
					t.Fatalf("kill after %d, forward %v: %v", n, forward, err)
				}
				if !cachedBefore {
					want = "new" // fetched either way
				}
				data, _ := os.ReadFile(filepath.Join(dir, "plugin"))
				_, kept := os.Stat(filepath.Join(aside(dir), "plugin"))
				if noted := holds(filepath.Join(s.notes, cached{Path: dir}.name())); noted != (kept == nil) {
					t.Errorf("kill after %d, forward %v: a note %v, kept %v", n, forward, noted, kept)
				}
				if string(data) != want || !g.running || g.touched || (kept == nil) != (forward &&
					cachedBefore) {
					t.Errorf("cached %v, kill after %d, forward %v: cache %q, running %v, touched %v, kept %v",
						cachedBefore, n, forward, data, g.running, g.touched, kept)
				}
			}
			if !kills {
				if n < 5 {
					t.Errorf("the swap has only %d commands", n)
				}
				break
			}
		}
	}
}

// Only what is a cached bundle is ever removed.
func TestSwapRefusesOtherPaths(t *testing.T) {
	t.Parallel()
	for _, dir := range []string{"/", "/opt", "bundles/0123456789abcdef0123456789abcdef", "/x/bundles",
		"/x/bundles/../../etc", "/x/bundles/0123456789abcdef0123456789abcdef/../..",
		"/x/0123456789abcdef0123456789abcdef"} {
		g := &gatewayHost{left: 1000}
		s := &Swap{Runner: g.run, Caches: func([]byte, debpkg.Version, debpkg.Version) ([]string,
			error) {
			return []string{dir}, nil
		}}
		if _, err := s.caches(t.Context(), &record{Plan: &debpkg.Plan{}}); !errors.Is(err, ErrCache) {
			t.Errorf("%s: %v", dir, err)
		}
	}
}

// Once a run is accepted, the cached bundles that were put aside go, and nothing else. A host that
// the run did not finish keeps its own.
func TestForgetCachedBundles(t *testing.T) {
	t.Parallel()
	dirs := map[string]string{}
	rep := &rollout.Report{}
	for name, status := range map[string]rollout.Status{"done": rollout.StatusDone,
		"failed": rollout.StatusNotRestored} {
		dir := filepath.Join(t.TempDir(), "bundles", "0123456789abcdef0123456789abcdef")
		if err := errors.Join(os.MkdirAll(dir, 0o755), os.MkdirAll(filepath.Join(aside(dir), "x"),
			0o755)); err != nil {
			t.Fatal(err)
		}
		note, err := json.Marshal(record{Plan: &debpkg.Plan{}, Cached: []cached{{Path: dir, Kept: true}}})
		if err != nil {
			t.Fatal(err)
		}
		dirs[name] = dir
		rep.Targets = append(rep.Targets, rollout.TargetReport{Name: name, Status: status,
			Steps: []rollout.StepReport{{Name: stepInstall, OK: true, Note: note}}})
	}
	g := &gatewayHost{left: 1000}
	inv := &Inventory{Hosts: []Host{{Name: "done"}, {Name: "failed"}, {Name: "other"}},
		Connect: func(Host) debpkg.Runner { return g.run }}
	for range 2 { // it may be called again
		if err := inv.Forget(t.Context(), rep); err != nil {
			t.Fatal(err)
		}
	}
	for path, want := range map[string]bool{dirs["done"]: true, aside(dirs["done"]): false,
		dirs["failed"]: true, aside(dirs["failed"]): true} {
		if _, err := os.Stat(path); (err == nil) != want {
			t.Errorf("%s: %v", path, err)
		}
	}
	g.left = 0
	if err := inv.Forget(t.Context(), rep); !errors.Is(err, ErrCache) ||
		!strings.HasPrefix(err.Error(), "done: ") {
		t.Errorf("a host that is gone: %v", err)
	}
}
