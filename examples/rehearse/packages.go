package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"example.com/tykupgrade/debpkg"
	"example.com/tykupgrade/health"
	"example.com/tykupgrade/internal/lab/debs"
	runner "example.com/tykupgrade/internal/run"
)

// component is one of the three, in the order in which they are upgraded.
type component struct{ name, pkg, program, conf string }

var components = []component{
	{"dashboard", "tyk-dashboard", "/opt/tyk-dashboard/tyk-analytics",
		"/opt/tyk-dashboard/tyk_analytics.conf"},
	{"gateway", "tyk-gateway", "/opt/tyk-gateway/tyk", "/opt/tyk-gateway/tyk.conf"},
	{"pump", "tyk-pump", "/opt/tyk-pump/tyk-pump", "/opt/tyk-pump/pump.conf"},
}

// Pumps have versions of their own.
const oldPump, newPump = "1.8.3", "1.9.0"

// stack is where the components are installed: a private root of apt, or where
// there is no apt, a directory that packages are unpacked in by hand.
type stack struct {
	r        *rehearsal
	root     string
	host     *debpkg.Host // nil: no apt
	packages map[string]debs.Package
	changes  []debpkg.Change
}

func (k *stack) path(name string) string { return filepath.Join(k.root, name) }

func (k *stack) version(c component, upgraded bool) string {
	switch {
	case c.name == "pump" && upgraded:
		return newPump
	case c.name == "pump":
		return oldPump
	case upgraded:
		return k.r.o.to.String()
	}
	return k.r.o.from.String()
}

// installOld makes the packages, and installs those of the version before.
func (r *rehearsal) installOld(ctx context.Context, s *Step) error {
	s.Stub = "Tyk's packages: small ones with the same conffiles, sample files and scripts; a " +
		"signed repository on disk; a private root for apt and dpkg"
	bin, err := r.stub()
	if err != nil {
		return err
	}
	k := &stack{r: r, root: filepath.Join(r.dir, "root"), packages: map[string]debs.Package{}}
	r.stack = k
	for _, c := range components {
		for _, upgraded := range []bool{false, true} {
			o := debs.TykOptions{Binary: bin, Crash: upgraded && r.o.fail == c.name,
				Config: "{\"listen_port\": 8080}\n"}
			if upgraded { // a new release ships a new configuration
				o.Config = "{\"listen_port\": 8080, \"enable_new_features\": true}\n"
			}
			p := debs.Tyk(c.pkg, k.version(c, upgraded), o)
			k.packages[p.Name+"="+p.Version] = p
		}
	}
	if r.parts.apt != "" {
		s.skip(r.parts.apt + "; the files of the packages are placed without dpkg")
		for _, c := range components {
			if err := k.place(c, false); err != nil {
				return err
			}
		}
		return nil
	}
	return k.install(ctx, s)
}

func (k *stack) install(ctx context.Context, s *Step) error {
	k.r.print.event("build packages and repository")
	repo, err := debs.NewRepo(filepath.Join(k.r.dir, "repo"))
	if err != nil {
		return err
	}
	k.r.later(func(context.Context) error { return repo.Close() })
	for _, p := range k.packages {
		if err := ctx.Err(); err != nil {
			return err
		}
		if _, err := p.Build(repo.Dir); err != nil {
			return err
		}
	}
	if err := repo.Publish(); err != nil {
		return err
	}
	root, err := debs.NewRoot(k.root, repo)
	if err != nil {
		return err
	}
	k.host = debpkg.New(debpkg.Local(), debpkg.Options{Root: root.Dir, AptConfig: root.AptConfig,
		Events: k.event})
	argv, names := []string{"apt-get", "-q", "-y", "install"}, []string{}
	for _, c := range components {
		argv = append(argv, c.pkg+"="+k.version(c, false))
		names = append(names, c.pkg+" "+k.version(c, false))
	}
	apt := runner.Local(runner.Options{Env: []string{"APT_CONFIG=" + root.AptConfig, "LC_ALL=C",
		"DEBIAN_FRONTEND=noninteractive"}})
	for _, argv := range [][]string{{"apt-get", "-q", "update"}, argv} {
		k.r.print.event("%s", strings.Join(argv, " "))
		if err := apt(ctx, argv, nil, nil, nil); err != nil {
			return err
		}
	}
	s.say("%s", strings.Join(names, ", "))
	return nil
}

func (k *stack) event(e debpkg.Event) {
	switch e.Kind {
	case debpkg.EventDownload, debpkg.EventInstall:
		k.r.print.event("%s %3.0f%% %s", e.Kind, e.Percent, e.Text)
	default:
		k.r.print.event("%s %s", e.Package, e.Text)
	}
}

// place writes the files of a package, for machines without dpkg. An edited
// configuration file stays, as dpkg would keep it.
func (k *stack) place(c component, upgraded bool) error {
	p := k.packages[c.pkg+"="+k.version(c, upgraded)]
	for name, f := range p.Files {
		to := k.path(name)
		if _, err := os.Stat(to); err == nil && slices.Contains(p.Conffiles, name) {
			continue
		}
		data := []byte(f.Content)
		if f.Source != "" {
			var err error
			if data, err = os.ReadFile(f.Source); err != nil {
				return err
			}
		}
		if f.Mode == 0 {
			f.Mode = 0o644
		}
		// A running program is not written to, but replaced.
		if err := errors.Join(os.MkdirAll(filepath.Dir(to), 0o755), os.WriteFile(to+".new", data, f.Mode),
			os.Rename(to+".new", to)); err != nil {
			return err
		}
	}
	return nil
}

// configure edits a component's configuration, as its operator did long ago,
// and for a gateway one of the sample files that the next package overwrites.
func (k *stack) configure(c component, addr, redis string) error {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return err
	}
	number, err := strconv.Atoi(port)
	if err != nil {
		return err
	}
	conf := map[string]any{"listen_address": host, "listen_port": number, "secret": "not a real one",
		"tykd": map[string]string{"check-every": "300ms"}}
	if host, port, err := net.SplitHostPort(redis); err == nil && c.name == "gateway" {
		number, _ := strconv.Atoi(port)
		conf["storage"] = map[string]any{"host": host, "port": number}
	}
	data, err := json.MarshalIndent(conf, "", "  ")
	if err != nil {
		return err
	}
	if err := os.WriteFile(k.path(c.conf), append(data, '\n'), 0o660); err != nil {
		return err
	}
	if c.name != "gateway" {
		return nil
	}
	return os.WriteFile(k.path("/opt/tyk-gateway/policies/policies.json"),
		[]byte("{\"default\": {\"rate\": 1000, \"per\": 60}}\n"), 0o644)
}

// check reports the installed version of a component's package to health.
func (k *stack) check(name string) (health.Check, bool) {
	if k.host == nil {
		return health.Check{}, false
	}
	i := slices.IndexFunc(components, func(c component) bool { return c.name == name })
	return health.Check{Name: "package", Run: func(ctx context.Context) (health.Finding, error) {
		all, err := k.host.Packages(ctx, components[i].pkg)
		if err != nil {
			return health.Finding{}, err
		}
		if len(all) != 1 || !all[0].Installed() {
			return health.Finding{}, fmt.Errorf("%s is not installed", components[i].pkg)
		}
		if name == "pump" {
			return health.Finding{Output: all[0].Version.String()}, nil
		}
		return health.Finding{Version: all[0].Version.String()}, nil
	}}, true
}

func (k *stack) request(c component) (debpkg.Request, error) {
	v, err := debpkg.ParseVersion(k.version(c, true))
	return debpkg.Request{Package: c.pkg, Version: v}, err
}

// planPackages is apt-get update, and what apt would do.
func (r *rehearsal) planPackages(ctx context.Context, s *Step) error {
	k := r.stack
	if k.host == nil {
		s.skip(r.parts.apt)
		return nil
	}
	s.Stub = "the packages and their repository; apt and dpkg are real"
	if err := k.host.Update(ctx); err != nil {
		return err
	}
	var want []debpkg.Request
	for _, c := range components {
		q, err := k.request(c)
		if err != nil {
			return err
		}
		want = append(want, q)
	}
	plan, err := k.host.Plan(ctx, want...)
	if err != nil {
		return err
	}
	if err := plan.Refused(); err != nil {
		return err
	}
	r.print.event("%s", plan)
	for _, a := range plan.Actions {
		s.say("%s %s %s → %s", a.Kind, a.Package, a.From, a.To)
	}
	for _, c := range plan.Conffiles {
		s.say("%s: %s", c.Path, c.Outcome)
	}
	for _, o := range plan.Overwrites {
		s.say("%s is not a conffile: edits in it will be overwritten", o.Path)
	}
	return nil
}

// upgrade installs the new version of one component, restarts it and awaits
// its health.
func (r *rehearsal) upgrade(name string) func(context.Context, *Step) error {
	return func(ctx context.Context, s *Step) error {
		if err := r.installNew(ctx, s, name); err != nil {
			return err
		}
		rep, err := r.gate(ctx, r.o.to.String(), 0, name)
		if err != nil {
			return err
		}
		r.sayHealth(s, rep)
		return nil
	}
}

func (r *rehearsal) installNew(ctx context.Context, s *Step, name string) error {
	k := r.stack
	c := components[slices.IndexFunc(components, func(c component) bool { return c.name == name })]
	s.Stub = "package and service; apt, dpkg and the probes are real"
	if k.host == nil {
		s.Stub = "package and service, placed without dpkg; the probes are real"
		if err := k.place(c, true); err != nil {
			return err
		}
	} else if err := k.apply(ctx, c); err != nil {
		return err
	}
	if name == "dashboard" {
		n, err := r.store.migrate(ctx)
		if err != nil {
			return err
		}
		defer s.say("it changes the databases as a new release may: %s", n)
	}
	s.say("%s %s", c.pkg, k.version(c, true))
	return r.restart(name, r.o.to.String())
}

// apply plans again, as what was done before counts.
func (k *stack) apply(ctx context.Context, c component) error {
	q, err := k.request(c)
	if err != nil {
		return err
	}
	plan, err := k.host.Plan(ctx, q)
	if err != nil {
		return err
	}
	if err := plan.Refused(); err != nil {
		return err
	}
	change, err := k.host.Apply(ctx, plan)
	if !change.Started.IsZero() {
		k.changes = append(k.changes, change)
	}
	return err
}

// brokenGateway installs a gateway that cannot start, which apt does not see,
// and shows that the gate does.
func (r *rehearsal) brokenGateway(ctx context.Context, s *Step) error {
	if err := r.installNew(ctx, s, "gateway"); err != nil {
		return err
	}
	began := time.Now()
	_, err := r.gate(ctx, r.o.to.String(), 5, "gateway")
	if ctx.Err() != nil {
		return err
	}
	if err == nil {
		return errors.New("the gate passed a gateway that cannot start")
	}
	installed := "apt is content"
	if r.stack.host == nil {
		installed = "it is in place"
	}
	s.say("%s; the gate is not, after %.1f s: %v", installed, time.Since(began).Seconds(), err)
	if _, err := r.services["gateway"].check().Run(ctx); err != nil {
		s.say("why: %v", err)
	}
	return r.recordUpgraded(ctx)
}

// revertPackages takes back what was installed, last first.
func (r *rehearsal) revertPackages(ctx context.Context, s *Step) error {
	for _, sv := range r.services {
		sv.stop()
	}
	k := r.stack
	if k.host == nil {
		s.skip(r.parts.apt + "; the files are placed without dpkg")
		for _, c := range components {
			if err := k.place(c, false); err != nil {
				return err
			}
		}
		return nil
	}
	s.Stub = "the packages; apt and dpkg are real"
	for _, change := range slices.Backward(k.changes) {
		if err := k.host.Revert(ctx, change, debpkg.RevertOptions{Files: true}); err != nil {
			return err
		}
		for _, p := range change.Before {
			s.say("%s is %s again, from the .deb that was kept (%s)", p.Name, p.Version,
				change.Saved[0].From)
		}
	}
	return nil
}

// gateOld starts the old version and awaits it.
func (r *rehearsal) gateOld(ctx context.Context, s *Step) error {
	s.Stub = servicesNote
	for _, c := range components {
		if err := r.restart(c.name, r.o.from.String()); err != nil {
			return err
		}
	}
	rep, err := r.gate(ctx, r.o.from.String(), 0, "dashboard", "gateway", "pump")
	if err != nil {
		return err
	}
	r.sayHealth(s, rep)
	return nil
}
