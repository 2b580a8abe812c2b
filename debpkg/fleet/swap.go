package fleet

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"time"

	"example.com/tykupgrade/debpkg"
	"example.com/tykupgrade/debpkg/rollout"
	"example.com/tykupgrade/internal/lazyregexp"
)

// Swap makes a gateway fetch cached bundles again. A gateway never fetches a bundle name twice
// (3.0.0 to 5.14.0), so Swap moves the cached directory away while the service is stopped. The
// directory stays next to its old place, under a name that no gateway uses. A revert moves it back,
// and [Inventory.Forget] or [Inventory.Prune] removes it.
type Swap struct {
	Runner debpkg.Runner // reaches the host as root
	Config string        // tyk.conf on the host; empty: /opt/tyk-gateway/tyk.conf

	// Caches returns the cached directories of the bundles, given the content of Config
	// and the versions before and after. Each must be an absolute path that ends in
	// bundles/<md5>, bundles/<api id>_<md5> or bundles/<md5>/<name>.
	Caches func(config []byte, from, to debpkg.Version) ([]string, error)

	notes string // where the host keeps the notes; empty: notesDir
}

// cached is one directory that was moved to Path.before-upgrade, where no gateway looks.
type cached struct {
	Path string
	Kept bool      // it was there
	At   time.Time `json:",omitzero"`  // when the swap began, by the clock of this program
	Run  string    `json:",omitempty"` // of the change that the swap belongs to: debpkg.Change.Dir
}

// cacheDir matches the paths of a gateway's bundle directories.
var cacheDir = lazyregexp.New(
	`^/(?:[^/]+/)*bundles/(?:[A-Za-z0-9_.-]+_)?[0-9a-f]{32}(?:/[^/]+)?$`)

func isCache(dir string) bool { return dir == path.Clean(dir) && cacheDir.MatchString(dir) }

// forward stops the service, moves the cached directories away and starts the service. It is
// idempotent, also after a kill: a directory that was moved stays there, and what a gateway has
// fetched since is removed.
func (s *Swap) forward(ctx context.Context, host *debpkg.Host, unit string, r *record) error {
	if r.Fresh {
		return host.WaitStable(ctx, unit)
	}
	if r.Cached == nil {
		dirs, err := s.caches(ctx, r)
		if err != nil {
			return err
		}
		all := make([]cached, len(dirs))
		for i, dir := range dirs {
			all[i] = cached{Path: dir, At: time.Now().UTC()}
			if r.Change != nil {
				all[i].Run = r.Change.Dir
			}
		}
		out, err := s.files(ctx, lookScript, all)
		if err != nil {
			return err
		}
		answers := strings.Fields(out)
		if len(answers) != len(all) {
			return s.error("look at", strings.Join(dirs, ", "),
				fmt.Errorf("unexpected output %q", out), "")
		}
		for i := range all {
			all[i].Kept = answers[i] == "true"
		}
		if _, err := s.files(ctx, clearScript, all); err != nil {
			return err
		}
		r.Cached = all
		// From now on a revert knows what to move back.
		if err := rollout.Save(ctx, r); err != nil {
			return err
		}
	}
	if err := s.run(ctx, "systemctl", "stop", unit); err != nil {
		return err
	}
	if _, err := s.files(ctx, asideScript, r.Cached); err != nil {
		return err
	}
	if err := host.Restart(ctx, unit); err != nil {
		return err
	}
	r.Fresh = true
	return rollout.Save(ctx, r)
}

// back stops the service and moves the old cached directories back, so that a revert does not need
// the bundle server. The revert starts the service.
func (s *Swap) back(ctx context.Context, host *debpkg.Host, unit string, r *record) error {
	if r.Cached == nil {
		return nil
	}
	if err := s.run(ctx, "systemctl", "stop", unit); err != nil {
		return err
	}
	if _, err := s.files(ctx, backScript, r.Cached); err != nil {
		return err
	}
	r.Fresh = false
	if err := rollout.Save(ctx, r); err != nil {
		return err
	}
	if stageable(*r.Plan) {
		return nil // the revert starts the service
	}
	return host.Restart(ctx, unit)
}

// forget removes the directories that were moved away.
func (s *Swap) forget(ctx context.Context, r record) error {
	_, err := s.files(ctx, forgetScript, r.Cached)
	return err
}

// caches reads the gateway's configuration and asks for the directories.
func (s *Swap) caches(ctx context.Context, r *record) ([]string, error) {
	config := s.Config
	if config == "" {
		config = "/opt/tyk-gateway/tyk.conf"
	}
	data, err := readFile(ctx, s.Runner, config)
	if err != nil {
		return nil, err
	}
	var from, to debpkg.Version
	for _, a := range r.Plan.Actions {
		if strings.HasPrefix(a.Package, "tyk-gateway") {
			from, to = a.From, a.To
		}
	}
	if to.IsZero() { // nothing is to be installed
		for _, w := range r.Plan.Requests {
			from, to = w.Version, w.Version
		}
	}
	dirs, err := s.Caches(data, from, to)
	if err != nil {
		return nil, &Error{Op: "find cached bundles in", Object: config, Kind: ErrCache, Err: err}
	}
	slices.Sort(dirs)
	dirs = slices.Compact(dirs)
	for _, dir := range dirs {
		if !isCache(dir) {
			return nil, &Error{Op: "replace cached bundle", Object: dir, Kind: ErrCache,
				Err:  fmt.Errorf("this is not the path of a cached bundle"),
				Next: "return paths that end in bundles/<md5> from Swap.Caches"}
		}
	}
	return dirs, nil
}

// files runs a script about the directories, and returns what it prints.
func (s *Swap) files(ctx context.Context, script string, all []cached) (string, error) {
	if len(all) == 0 {
		return "", nil
	}
	argv := []string{"sh", "-ec", script, "sh"}
	var names []string
	for _, c := range all {
		argv = append(argv, c.Path, fmt.Sprint(c.Kept), path.Join(cmp.Or(s.notes, notesDir), c.name()),
			c.note())
		names = append(names, c.Path)
	}
	var stdout, stderr bytes.Buffer
	if err := s.Runner(ctx, argv, nil, &stdout, &stderr); err != nil {
		return "", s.error("replace cached bundle", strings.Join(names, ", "), err, stderr.String())
	}
	return stdout.String(), nil
}

func (s *Swap) run(ctx context.Context, argv ...string) error {
	var stderr bytes.Buffer
	if err := s.Runner(ctx, argv, nil, nil, &stderr); err != nil {
		return s.error("replace cached bundle", argv[len(argv)-1], err, stderr.String())
	}
	return nil
}

func (s *Swap) error(op, object string, err error, stderr string) error {
	e := &Error{Op: op, Object: object, Kind: ErrCache, Err: said(err, stderr), Retry: true}
	if led := interface{ ExitCode() int }(nil); errors.As(err, &led) && led.ExitCode() == 78 {
		e.Retry, e.Next = false, "find out who made it; use a middleware_path without links"
	}
	return e
}
