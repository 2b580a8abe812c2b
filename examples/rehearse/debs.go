package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/Masterminds/semver/v3"

	"example.com/tykupgrade/debpkg"
	"example.com/tykupgrade/examples/internal/cli"
)

// debPair is a package of the user in both versions.
type debPair struct{ from, to debpkg.Deb }

// readDebs finds the two versions of each package in the directory of -debs. Those of the gateway
// fill in versions and binaries that no flag gives.
func (in *inputs) readDebs(ctx context.Context, from, to *string) (pairs []debPair, err error) {
	dir, err := filepath.Abs(in.debs)
	if err == nil {
		err = exists("debs", dir, true)
	}
	if err != nil {
		return nil, err
	}
	in.debs = dir
	all, err := debpkg.New(debpkg.Local(), debpkg.Options{}).Debs(ctx, dir)
	if err != nil {
		return nil, fmt.Errorf("invalid -debs %s: %w", dir, err)
	}
	byName := map[string][]debpkg.Deb{}
	for _, d := range all {
		if d.Arch != goarch && d.Arch != "all" {
			return nil, cli.Advice(fmt.Errorf("invalid -debs: %s is for %s", d.Path, d.Arch),
				"give the packages for "+goarch)
		}
		byName[d.Package] = append(byName[d.Package], d)
	}
	for name, two := range byName {
		if len(two) != 2 || two[0].Version.Compare(two[1].Version) == 0 {
			var have []string
			for _, d := range two {
				have = append(have, d.Version.String())
			}
			return nil, cli.Advice(fmt.Errorf("invalid -debs %s: %s is there in version %s", dir, name,
				strings.Join(have, ", ")), "put two versions of each package there, the present and the new")
		}
		p := debPair{two[0], two[1]}
		if p.from.Version.Compare(p.to.Version) > 0 {
			p.from, p.to = p.to, p.from
		}
		pairs = append(pairs, p)
		if !strings.HasPrefix(name, "tyk-gateway") {
			continue
		}
		for _, x := range []struct {
			flag          string
			deb           debpkg.Deb
			version, part *string
		}{{"from", p.from, from, &in.gatewayFrom}, {"to", p.to, to, &in.gateway}} {
			v := upstream(x.deb.Version.String())
			if *x.version == "" {
				*x.version = v
			} else if !sameRelease(*x.version, v) {
				return nil, cli.Advice(fmt.Errorf("-%s %s, and -debs has %s", x.flag, *x.version, x.deb.Path),
					"leave out -"+x.flag)
			}
			if *x.part == "" {
				*x.part = x.deb.Path
			}
		}
	}
	if len(pairs) == 0 {
		return nil, cli.Advice(fmt.Errorf("invalid -debs %s: it has no .deb file", dir),
			"put two versions of each package there, the present and the new")
	}
	slices.SortFunc(pairs, func(a, b debPair) int { return order(a.to.Package) - order(b.to.Package) })
	return pairs, nil
}

// upstream is a package's version as Tyk writes its releases.
func upstream(v string) string {
	if _, rest, ok := strings.Cut(v, ":"); ok {
		v = rest
	}
	v, _, _ = strings.Cut(v, "-")
	return strings.ReplaceAll(v, "~", "-")
}

func sameRelease(a, b string) bool {
	x, err1 := semver.NewVersion(a)
	y, err2 := semver.NewVersion(b)
	return err1 == nil && err2 == nil && x.Equal(y)
}

// order is the place of a package in an upgrade: dashboard, gateway, pump, others.
func order(pkg string) int {
	for i, c := range components {
		if strings.HasPrefix(pkg, c.pkg) {
			return i
		}
	}
	return len(components)
}

// own is the machine that the user's packages are installed on.
type own struct {
	machine *machine
	host    *debpkg.Host
	before  map[string]string // digests of what was installed, by path
	edited  []string          // conffiles
	change  debpkg.Change
}

const edit = "\n" // what an operator's edit appends to a conffile

// debsToday installs the user's present packages.
func (r *rehearsal) debsToday(ctx context.Context, s *Step) error {
	if r.parts.apt != "" {
		s.skip(r.parts.apt)
		return nil
	}
	dir := filepath.Join(r.dir, "machine")
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	m, err := newMachine(dir, r.o.given.debs)
	if err != nil {
		s.skip("this machine cannot run your packages' scripts in a root of their own: " + err.Error())
		return nil
	}
	r.later(func(context.Context) error { return m.close() })
	r.own = &own{machine: m, host: debpkg.New(m.run, debpkg.Options{Events: func(e debpkg.Event) {
		r.print.event("%s %s", e.Kind, e.Text)
	}})}
	if _, _, err := r.own.apply(ctx, r.o.debs, false); err != nil {
		return err
	}
	for _, p := range r.o.debs {
		s.say("%s %s, with its own scripts", p.from.Package, p.from.Version)
	}
	s.say("they see this machine's /usr and /etc, and what they write there is thrown away; there is " +
		"no systemd, so that no service starts")
	return r.own.editConffiles(s, r.o.debs)
}

// apply installs one version of all packages.
func (o *own) apply(ctx context.Context, pairs []debPair, upgraded bool) (debpkg.Plan, debpkg.Change,
	error) {
	var want []debpkg.Request
	for _, p := range pairs {
		d := p.from
		if upgraded {
			d = p.to
		}
		want = append(want, debpkg.Request{Package: d.Package, Version: d.Version,
			Deb: "/debs/" + path.Base(d.Path), SHA256: d.SHA256})
	}
	plan, err := o.host.Plan(ctx, want...)
	if err == nil {
		err = plan.Refused()
	}
	if err != nil {
		return plan, debpkg.Change{}, err
	}
	change, err := o.host.Apply(ctx, plan)
	return plan, change, err
}

// editConffiles changes every conffile, as operators do.
func (o *own) editConffiles(s *Step, pairs []debPair) (err error) {
	for _, p := range pairs {
		data, err := os.ReadFile(o.path("/var/lib/dpkg/info/" + p.from.Package + ".conffiles"))
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		for name := range strings.FieldsSeq(string(data)) {
			if !strings.HasPrefix(name, "/opt/") {
				continue
			}
			f, err := os.OpenFile(o.path(name), os.O_APPEND|os.O_WRONLY, 0)
			if err != nil {
				return err
			}
			_, err = f.WriteString(edit)
			if err = errors.Join(err, f.Close()); err != nil {
				return err
			}
			o.edited = append(o.edited, name)
		}
	}
	if o.before, err = o.digests(); err == nil {
		s.say("%s edited: %s", cli.Count(len(o.edited), "configuration file"), strings.Join(o.edited, ", "))
	}
	return err
}

// path is a file of the machine as this one sees it, through its first process.
func (o *own) path(name string) string {
	return fmt.Sprintf("/proc/%d/root%s", o.machine.cmd.Process.Pid, name)
}

// digests are those of everything below /opt.
func (o *own) digests() (map[string]string, error) {
	all := map[string]string{}
	root := o.path("/opt")
	err := filepath.WalkDir(root+"/", func(p string, d os.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		data, err := os.ReadFile(p)
		info, ierr := d.Info()
		if err = errors.Join(err, ierr); err == nil {
			all[strings.TrimPrefix(p, root)] = fmt.Sprintf("%s %x", info.Mode(), sha256.Sum256(data))
		}
		return err
	})
	return all, err
}

// debsNext upgrades the user's packages, and holds the outcome to the plan.
func (r *rehearsal) debsNext(ctx context.Context, s *Step) error {
	if r.own == nil {
		s.skip("your packages are not installed")
		return nil
	}
	plan, change, err := r.own.apply(ctx, r.o.debs, true)
	r.own.change = change
	if err != nil {
		s.sayOutput(err)
		return err
	}
	for _, a := range plan.Actions {
		s.say("%s %s %s → %s", a.Kind, a.Package, a.From, a.To)
	}
	for _, c := range plan.Conffiles {
		s.say("%s: %s", c.Path, c.Outcome)
	}
	for _, o := range plan.Overwrites {
		s.say("%s is not a conffile: edits in it will be overwritten", o.Path)
	}
	if change.Note != "" {
		s.say("apt complained: %s", change.Note)
	}
	after, err := r.own.digests()
	if err != nil {
		return err
	}
	for _, name := range r.own.edited {
		key := strings.TrimPrefix(name, "/opt")
		if now := after[key]; now != "" && now != r.own.before[key] {
			return fmt.Errorf("the edits in %s are lost", name)
		}
	}
	if n := len(r.own.edited); n > 0 {
		s.say("edits are kept in %s", cli.Count(n, "configuration file"))
	}
	return nil
}

// sayOutput reports what apt and the packages' scripts printed before they failed.
func (s *Step) sayOutput(err error) {
	if failed := (*debpkg.Error)(nil); errors.As(err, &failed) && failed.Output != "" {
		s.say("apt and the scripts printed:")
		for line := range strings.Lines(failed.Output) {
			s.say("%s", strings.TrimRight(line, "\n"))
		}
	}
}

// debsBack reverts the upgrade, and compares every file with its state before the upgrade.
func (r *rehearsal) debsBack(ctx context.Context, s *Step) error {
	if r.own == nil {
		s.skip("your packages are not installed")
		return nil
	}
	defer func() { _ = r.own.machine.close() }()
	if err := r.own.host.Revert(ctx, r.own.change, debpkg.RevertOptions{Files: true}); err != nil {
		return err
	}
	after, err := r.own.digests()
	if err != nil {
		return err
	}
	var differ []string
	for name, was := range r.own.before {
		if after[name] != was {
			differ = append(differ, "/opt"+name)
		}
		delete(after, name)
	}
	for name := range after {
		differ = append(differ, "/opt"+name)
	}
	slices.Sort(differ)
	if len(differ) > 0 {
		return fmt.Errorf("after the revert these files differ from before: %s",
			strings.Join(differ, ", "))
	}
	for _, p := range r.own.change.Before {
		s.say("%s is %s again", p.Name, p.Version)
	}
	s.say("%s below /opt, all as before the upgrade", cli.Count(len(r.own.before), "file"))
	return nil
}
