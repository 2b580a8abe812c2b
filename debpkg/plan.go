package debpkg

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"
	"time"
)

// Request is what should become of one package.
type Request struct {
	Package string
	Version Version // exact; tyk-pump has its own line of versions
	// Deb installs from a .deb file on the host, or from the matching one in a
	// directory, instead of from a source. Package and Version are checked
	// against it; a zero Version takes the file's.
	Deb    string `json:",omitempty"`
	SHA256 string `json:",omitempty"` // of Deb; empty: not checked
	Remove bool   `json:",omitempty"`
}

func (r Request) String() string {
	switch {
	case r.Remove:
		return r.Package + "-"
	case r.Version.IsZero():
		return r.Package
	}
	return r.Package + "=" + r.Version.text
}

// ActionKind says what happens to a package.
type ActionKind string

// The kinds of actions.
const (
	Install   ActionKind = "install"
	Upgrade   ActionKind = "upgrade"
	Downgrade ActionKind = "downgrade"
	Reinstall ActionKind = "reinstall"
	Remove    ActionKind = "remove"
)

// Action is what happens to one package.
type Action struct {
	Kind      ActionKind
	Package   string
	Arch      string
	From, To  Version // zero: not installed before, not installed after
	Requested bool    // asked for, rather than needed by something that was
	Held      bool    `json:",omitempty"` // on hold; Apply keeps the hold
	Origin    string  `json:",omitempty"` // apt's word for the source, or local-deb
	Deb       string  `json:",omitempty"` // the local .deb file
	Size      int64   // of the .deb
	Installed int64   // bytes on disk when installed, by the package's own account
	SHA256    string  // of the .deb, by the source's index
	Rollback  string  // where From could be had from at planning: cache, repository or repack
}

// Restart is a unit that a package's script will restart.
type Restart struct {
	Unit, Package string
	Assumed       bool `json:",omitempty"` // the script could not be read
}

// ConffilePlan is a conffile's three-way state and what will become of it.
type ConffilePlan struct {
	Package, Path            string
	Shipped, Disk, Candidate string // MD5; empty: no such file
	Outcome                  Outcome
}

// Outcome is what an installation does to a conffile.
type Outcome string

// The outcomes.
const (
	OutcomeSame     Outcome = "unchanged"
	OutcomeReplaced Outcome = "replaced"   // not edited, so dpkg replaces it without asking
	OutcomeKept     Outcome = "edits kept" // edited; the new version ships what the old one did
	OutcomeConflict Outcome = "edits kept, new one beside it as .dpkg-dist"
	OutcomeTaken    Outcome = "new one taken, edits beside it as .dpkg-old"
	OutcomeDeleted  Outcome = "stays deleted"
	OutcomeRestored Outcome = "was deleted, comes back"
	OutcomeNew      Outcome = "new"
	OutcomeObsolete Outcome = "no longer shipped, stays"
	OutcomeUnknown  Outcome = "not known: the candidate was not fetched"
)

// Overwrite is a file that is no conffile, was changed on this host, and will
// be replaced silently: policies, templates, sample scripts.
type Overwrite struct{ Package, Path string }

// Problem is something that the plan's reader must know.
type Problem struct {
	Refuse bool // Apply will not run such a plan
	Text   string
	Next   string `json:",omitempty"`
}

// Plan says what an Apply will do. It can be printed, and marshalled and read
// back, on another machine as well.
type Plan struct {
	Host       Identity
	OS         OS
	Arch       string
	Created    time.Time
	Requests   []Request
	Actions    []Action
	Unchanged  []string   // requested and already there
	HeldBack   []string   // Tyk packages on hold that stay as they are
	Downloads  []Download // still to be fetched when the plan was begun
	Restarts   []Restart
	Conffiles  []ConffilePlan
	Overwrites []Overwrite
	Problems   []Problem
	Fetched    bool   // the candidates were read; without, their conffiles and scripts are not known
	Digest     string // of what Apply compares with the host
}

// Empty says whether there is nothing to do.
func (p Plan) Empty() bool { return len(p.Actions) == 0 }

// DownloadSize is the number of bytes to fetch.
func (p Plan) DownloadSize() int64 {
	var n int64
	for _, d := range p.Downloads {
		n += d.Size
	}
	return n
}

// Refused returns an [ErrRefused] with every reason, or nil.
func (p Plan) Refused() error {
	var reasons []string
	next := ""
	for _, pr := range p.Problems {
		if pr.Refuse {
			reasons = append(reasons, pr.Text)
			if next == "" {
				next = pr.Next
			}
		}
	}
	if reasons == nil {
		return nil
	}
	return &Error{Op: "apply the plan", Kind: ErrRefused, Detail: strings.Join(reasons, "; "), Next: next}
}

// digest covers what must still hold when the plan is applied: the host, its
// packages and files, and the candidates. Times, progress of downloads and the
// wording of problems are left out.
func (p Plan) digest() string {
	p.Created, p.Downloads, p.Digest = time.Time{}, nil, ""
	p.Problems = slices.Clone(p.Problems)
	p.Problems = slices.DeleteFunc(p.Problems, func(pr Problem) bool { return !pr.Refuse })
	p.Actions = slices.Clone(p.Actions)
	for i := range p.Actions {
		// Fetching or cleaning the cache changes where a rollback comes from.
		p.Actions[i].Rollback = ""
	}
	data, err := json.Marshal(p)
	if err != nil {
		return "" // strings, numbers and times always marshal
	}
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

var packageName = regexp.MustCompile(`^[a-z0-9][a-z0-9+.-]+$`)

// Plan finds out what would happen if the requests were carried out. It
// changes nothing but apt's cache of downloaded packages: unless
// [Options].NoFetch is set it fetches the candidates, to compare their
// conffiles and read their scripts. Call [Host.Update] before.
//
// What cannot be planned at all (an unknown version, unmet dependencies) is an
// error; what must not be applied is in the plan's Problems.
func (h *Host) Plan(ctx context.Context, want ...Request) (Plan, error) {
	return h.plan(ctx, want, !h.o.NoFetch)
}

func (h *Host) plan(ctx context.Context, want []Request, fetch bool) (Plan, error) {
	want = slices.Clone(want)
	if err := validRequests(want); err != nil {
		return Plan{}, err
	}
	op := "plan " + join(want)
	h.event(Event{Kind: EventStep, Text: op})
	facts, err := h.basics(ctx)
	if err != nil {
		return Plan{}, err
	}
	if facts.Journal {
		return Plan{}, &Error{Op: op, Kind: ErrInterrupted, Detail: "dpkg has work of its own to finish", Next: "call Repair, or Revert the change that was interrupted"}
	}
	if facts.Broken, err = h.broken(ctx); err != nil {
		return Plan{}, err
	}
	p := Plan{Host: facts.Identity, OS: facts.OS, Arch: facts.Arch, Created: time.Now().UTC().Truncate(time.Second), Requests: want, Fetched: fetch}
	debs, err := h.resolveDebs(ctx, facts.Arch, want)
	if err != nil {
		return Plan{}, err
	}
	in := installOf(want, debs)
	sim, err := h.simulate(ctx, op, in.args)
	if err != nil {
		return Plan{}, h.explainPlan(ctx, err, want)
	}
	before, err := h.Packages(ctx, append(sim.names(), "tyk-*")...)
	if err != nil {
		return Plan{}, err
	}
	if err := h.actions(ctx, &p, sim, before, debs); err != nil {
		return Plan{}, err
	}
	for _, b := range before {
		if b.Held() && !slices.ContainsFunc(p.Actions, func(a Action) bool { return a.Package == b.Name }) {
			p.HeldBack = append(p.HeldBack, b.Name)
		}
	}
	if !p.Empty() {
		if err := h.candidates(ctx, &p, in, before, fetch); err != nil {
			return Plan{}, err
		}
	}
	h.problems(ctx, &p, facts)
	p.Digest = p.digest()
	return p, nil
}

func validRequests(want []Request) error {
	if len(want) == 0 {
		return errors.New("plan: nothing requested; name a package and its exact version")
	}
	seen := map[string]bool{}
	for _, r := range want {
		switch {
		case !packageName.MatchString(r.Package):
			return fmt.Errorf("plan: %q is not a package name", r.Package)
		case seen[r.Package]:
			return fmt.Errorf("plan: %s is requested twice", r.Package)
		case r.Remove && (r.Deb != "" || !r.Version.IsZero()):
			return fmt.Errorf("plan: %s is to be removed, so it takes no version", r.Package)
		case !r.Remove && r.Deb == "" && r.Version.IsZero():
			return fmt.Errorf("plan: %s has no version; give the exact one", r.Package)
		case r.Deb != "" && !path.IsAbs(r.Deb):
			return fmt.Errorf("plan: the .deb file %q of %s needs an absolute path on the host", r.Deb, r.Package)
		}
		seen[r.Package] = true
		if err := validate(r.Version.text); !r.Version.IsZero() && err != nil {
			return fmt.Errorf("plan: version %q of %s: %w", r.Version, r.Package, err)
		}
	}
	return nil
}

func join(want []Request) string {
	var parts []string
	for _, r := range want {
		parts = append(parts, r.String())
	}
	return strings.Join(parts, " ")
}

// resolveDebs finds and checks the .deb file of each request that has one,
// and fills in the request's version.
func (h *Host) resolveDebs(ctx context.Context, arch string, want []Request) (map[string]Deb, error) {
	found := map[string]Deb{}
	for i, r := range want {
		if r.Deb == "" {
			continue
		}
		op := fmt.Sprintf("take %s from %s", r, r.Deb)
		list, err := h.Debs(ctx, r.Deb)
		if err != nil {
			return nil, err
		}
		single := len(list) == 1 && list[0].Path == r.Deb
		var fits []Deb
		var why []string
		for _, d := range list {
			switch {
			case d.Package != r.Package:
				why = append(why, fmt.Sprintf("%s holds %s", d.Path, d.Package))
			case !r.Version.IsZero() && d.Version.Compare(r.Version) != 0:
				why = append(why, fmt.Sprintf("%s holds version %s", d.Path, d.Version))
			case d.Arch != arch && d.Arch != "all":
				why = append(why, fmt.Sprintf("%s is for %s, the host is %s", d.Path, d.Arch, arch))
			case r.SHA256 != "" && !strings.EqualFold(d.SHA256, r.SHA256):
				why = append(why, fmt.Sprintf("%s has SHA-256 %s, not %s", d.Path, d.SHA256, r.SHA256))
			default:
				fits = append(fits, d)
			}
		}
		switch {
		case len(fits) == 0 && len(why) == 0:
			why = []string{"there is no .deb file"}
			fallthrough
		case len(fits) == 0:
			return nil, &Error{Op: op, Kind: ErrDeb, Detail: strings.Join(why, "; "), Next: "fetch the right file, from a place you trust"}
		case len(fits) > 1 && !single:
			return nil, &Error{Op: op, Kind: ErrDeb, Detail: fmt.Sprintf("%d files fit", len(fits)), Next: "name the file, or give the version"}
		}
		found[r.Package], want[i].Version = fits[0], fits[0].Version
	}
	return found, nil
}

func installOf(want []Request, debs map[string]Deb) install {
	var in install
	for _, r := range want {
		arg := r.String()
		if d, ok := debs[r.Package]; ok {
			arg = d.Path
		}
		in.args = append(in.args, arg)
		in.removal = in.removal || r.Remove
	}
	return in
}

// explainPlan adds to apt's words what else the host knows: which versions
// there are, and which packages on hold stand in the way.
func (h *Host) explainPlan(ctx context.Context, err error, want []Request) error {
	var e *Error
	if !errors.As(err, &e) {
		return err
	}
	if e.Kind == ErrDepends {
		if all, qerr := h.dpkgQuery(ctx, "*"); qerr == nil {
			for _, p := range all {
				if p.Held() && strings.Contains(e.Detail, p.Name) {
					e.Detail += fmt.Sprintf("; %s is on hold", p.Name)
				}
			}
		}
		return err
	}
	if e.Kind != ErrNoVersion && e.Kind != ErrNoPackage {
		return err
	}
	for _, r := range want {
		if !strings.Contains(e.Detail, r.Package) {
			continue
		}
		list, aerr := h.Available(ctx, r.Package)
		if aerr != nil {
			continue
		}
		var have []string
		for _, a := range list {
			if !slices.Contains(have, a.Version.text) {
				have = append(have, a.Version.text)
			}
		}
		if len(have) > 0 {
			e.Detail += fmt.Sprintf("; the sources offer %s", strings.Join(have[:min(len(have), 10)], ", "))
		}
	}
	return err
}

func (s simulation) names() []string {
	var names []string
	for _, list := range [][]simulated{s.inst, s.remv} {
		for _, one := range list {
			name, _, _ := strings.Cut(one.name, ":")
			names = append(names, name)
		}
	}
	return names
}

// actions turns apt's simulation into the plan's actions.
func (h *Host) actions(ctx context.Context, p *Plan, sim simulation, before []Package, debs map[string]Deb) error {
	requested := func(name string) bool {
		return slices.ContainsFunc(p.Requests, func(r Request) bool { return r.Package == name })
	}
	var lookup []string
	for _, one := range sim.inst {
		// apt -s prints a package twice when it unpacks in two steps.
		if slices.ContainsFunc(p.Actions, func(a Action) bool { return a.Package == one.name }) {
			continue
		}
		a := Action{Package: one.name, To: one.new, Origin: one.origin, Requested: requested(one.name), Arch: p.Arch}
		old, ok := find(before, one.name)
		if ok && old.Status != "config-files" {
			a.From = old.Version
		}
		a.Held = ok && old.Held()
		switch c := a.To.Compare(a.From); {
		case a.From.IsZero():
			a.Kind = Install
		case c > 0:
			a.Kind = Upgrade
		case c < 0:
			a.Kind = Downgrade
		default:
			a.Kind = Reinstall
		}
		if d, ok := debs[one.name]; ok {
			a.Deb, a.Size, a.SHA256, a.Arch = d.Path, d.Size, d.SHA256, d.Arch
		} else {
			lookup = append(lookup, one.name+"="+one.new.text)
		}
		p.Actions = append(p.Actions, a)
	}
	for _, one := range sim.remv {
		a := Action{Kind: Remove, Package: one.name, From: one.old, Requested: requested(one.name), Arch: p.Arch}
		if old, ok := find(before, one.name); ok {
			a.Held, a.Arch = old.Held(), old.Arch
		}
		p.Actions = append(p.Actions, a)
	}
	for _, r := range p.Requests {
		if !slices.ContainsFunc(p.Actions, func(a Action) bool { return a.Package == r.Package }) {
			p.Unchanged = append(p.Unchanged, r.Package)
		}
	}
	if len(lookup) > 0 {
		out, err := h.output(ctx, append([]string{"apt-cache", "show", "--"}, lookup...)...)
		if err != nil {
			return fmt.Errorf("read what the sources say of %s: %w", strings.Join(lookup, ", "), err)
		}
		for _, st := range stanzas(out) {
			for i, a := range p.Actions {
				// The installed version's own stanza has no SHA256.
				if a.Package == st.fields["package"] && a.To.text == st.fields["version"] && a.Deb == "" && a.SHA256 == "" && st.fields["filename"] != "" {
					p.Actions[i].SHA256, p.Actions[i].Size = st.fields["sha256"], number64(st.fields["size"])
					p.Actions[i].Installed, p.Actions[i].Arch = number64(st.fields["installed-size"])*1024, st.fields["architecture"]
				}
			}
		}
	}
	return h.rollbacks(ctx, p)
}

// rollbacks finds out where each installed version could be had from again.
func (h *Host) rollbacks(ctx context.Context, p *Plan) error {
	var names, files []string
	for _, a := range p.Actions {
		if !a.From.IsZero() {
			names = append(names, a.Package)
			files = append(files, debName(a.Package, a.From, a.Arch))
		}
	}
	if len(names) == 0 {
		return nil
	}
	available, err := h.Available(ctx, names...)
	if err != nil {
		return err
	}
	dir, err := h.archives(ctx)
	if err != nil {
		return err
	}
	out, err := h.script(ctx, nil, `cd "$1" || exit 0; shift; for f; do [ ! -f "$f" ] || echo "$f"; done`, append([]string{dir}, files...)...)
	if err != nil {
		return fmt.Errorf("look into apt's cache: %w", err)
	}
	for i, a := range p.Actions {
		switch {
		case a.From.IsZero():
		case slices.Contains(strings.Split(out, "\n"), debName(a.Package, a.From, a.Arch)):
			p.Actions[i].Rollback = fromCache
		case slices.ContainsFunc(available, func(v Available) bool { return v.Package == a.Package && v.Version == a.From }):
			p.Actions[i].Rollback = fromRepository
		default:
			p.Actions[i].Rollback = fromRepack
		}
	}
	return nil
}

// fetchDebs downloads the candidates into apt's cache and returns where each
// one's file is. apt does not copy those of a file: source.
func (h *Host) fetchDebs(ctx context.Context, p *Plan, in install, fetch bool) (map[string]string, error) {
	op := "download " + join(p.Requests)
	out, err := h.apt(ctx, op, in, "-qq", "--print-uris")
	if err != nil {
		return nil, err
	}
	p.Downloads = parseURIs(out)
	if fetch && len(p.Downloads) > 0 {
		h.event(Event{Kind: EventStep, Text: op})
		if err := h.retryLocked(ctx, op, func() error {
			_, err := h.apt(ctx, op, in, "--download-only")
			return err
		}); err != nil {
			return nil, err
		}
	}
	dir, err := h.archives(ctx)
	if err != nil {
		return nil, err
	}
	files := map[string]string{}
	var names, paths []string
	for _, a := range p.Actions {
		switch {
		case a.Kind == Remove:
		case a.Deb != "":
			files[a.Package] = a.Deb
		default:
			file := debName(a.Package, a.To, a.Arch)
			names, paths = append(names, a.Package), append(paths, path.Join(dir, file))
			for _, d := range p.Downloads {
				if local, ok := strings.CutPrefix(d.URI, "file:"); ok && d.File == file {
					paths[len(paths)-1] = path.Clean("/" + strings.TrimLeft(local, "/"))
				}
			}
		}
	}
	p.Downloads = slices.DeleteFunc(p.Downloads, func(d Download) bool { return strings.HasPrefix(d.URI, "file:") })
	// What the cache happens to hold must not make two plans differ.
	if len(paths) == 0 || !fetch {
		return files, nil
	}
	have, err := h.script(ctx, nil, `for f; do if [ -f "$f" ]; then echo y; else echo n; fi; done`, paths...)
	if err != nil {
		return nil, fmt.Errorf("look into apt's cache: %w", err)
	}
	for i, yes := range strings.Fields(have) {
		if yes == "y" {
			files[names[i]] = paths[i]
		}
	}
	return files, nil
}

// candidates compares the candidates with what is installed.
func (h *Host) candidates(ctx context.Context, p *Plan, in install, before []Package, fetch bool) error {
	in.downgrade, in.held, in.removal = true, true, true
	files, err := h.fetchDebs(ctx, p, in, fetch)
	if err != nil {
		return err
	}
	for _, a := range p.Actions {
		old, _ := find(before, a.Package)
		if a.Kind == Remove {
			continue
		}
		file, ok := files[a.Package]
		if !ok {
			for _, c := range old.Conffiles {
				p.Conffiles = append(p.Conffiles, ConffilePlan{Package: a.Package, Path: c.Path, Shipped: c.Shipped, Disk: c.Disk, Outcome: OutcomeUnknown})
			}
			if c, ok := component(a.Package); ok {
				p.Restarts = append(p.Restarts, Restart{Unit: c.Unit, Package: a.Package, Assumed: true})
			}
			continue
		}
		c, err := h.contents(ctx, file)
		if err != nil {
			return err
		}
		conffiles, err := h.conffiles(ctx, a.Package, old, c)
		if err != nil {
			return err
		}
		p.Conffiles = append(p.Conffiles, conffiles...)
		for _, u := range restarts(c.postinst, c.units()) {
			p.Restarts = append(p.Restarts, Restart{Unit: u, Package: a.Package})
		}
		overwrites, err := h.overwrites(ctx, a, c)
		if err != nil {
			return err
		}
		p.Overwrites = append(p.Overwrites, overwrites...)
	}
	return nil
}

func (h *Host) conffiles(ctx context.Context, pkg string, old Package, c contents) ([]ConffilePlan, error) {
	var list []ConffilePlan
	for _, f := range old.Conffiles {
		list = append(list, ConffilePlan{Package: pkg, Path: f.Path, Shipped: f.Shipped, Disk: f.Disk, Candidate: c.conffiles[f.Path]})
	}
	var fresh []string
	for p := range c.conffiles {
		if !slices.ContainsFunc(list, func(f ConffilePlan) bool { return f.Path == p }) {
			fresh = append(fresh, p)
		}
	}
	slices.Sort(fresh)
	var full []string
	for _, p := range fresh {
		full = append(full, h.path(p))
	}
	disk, err := h.md5(ctx, full)
	if err != nil {
		return nil, err
	}
	for i, p := range fresh {
		list = append(list, ConffilePlan{Package: pkg, Path: p, Disk: disk[i], Candidate: c.conffiles[p]})
	}
	for i := range list {
		list[i].Outcome = outcome(list[i], h.o.NewConffiles)
	}
	return list, nil
}

// outcome follows dpkg's table (dpkg 1.21 with --force-confdef and
// --force-confold, or --force-confnew).
func outcome(c ConffilePlan, takeNew bool) Outcome {
	switch {
	case c.Candidate == "":
		return OutcomeObsolete
	case c.Shipped == "" && c.Disk == "":
		return OutcomeNew
	case c.Disk == c.Candidate:
		return OutcomeSame
	case c.Disk == "" && c.Candidate != c.Shipped && takeNew:
		return OutcomeRestored
	case c.Disk == "":
		return OutcomeDeleted
	case c.Disk == c.Shipped:
		return OutcomeReplaced
	case c.Candidate == c.Shipped:
		return OutcomeKept
	case takeNew:
		return OutcomeTaken
	default:
		return OutcomeConflict
	}
}

var verifyLine = regexp.MustCompile(`^(\S{9})\s+(?:([a-z]) )?\s*(/.*)$`)

// overwrites finds files changed on the host that the candidate ships too,
// and files of the candidate that already exist though no package owns them.
func (h *Host) overwrites(ctx context.Context, a Action, c contents) ([]Overwrite, error) {
	var list []Overwrite
	if !a.From.IsZero() {
		// Differences are what it prints, and exit code 1.
		var out bytes.Buffer
		argv := append([]string{"dpkg"}, h.dpkgRoot()...)
		if err := h.stream(ctx, nil, &out, nil, append(argv, "--verify", a.Package)...); err != nil && exitCode(err) != 1 {
			return nil, fmt.Errorf("look for changed files of %s: %w", a.Package, err)
		}
		for line := range strings.Lines(out.String()) {
			m := verifyLine.FindStringSubmatch(strings.TrimSuffix(line, "\n"))
			if m != nil && m[1][2] == '5' && m[2] != "c" && slices.Contains(c.files, m[3]) {
				list = append(list, Overwrite{a.Package, m[3]})
			}
		}
	}
	out, err := h.script(ctx, strings.NewReader(strings.Join(c.files, "\n")+"\n"), `d=$(mktemp) || exit 1; trap 'rm -f "$d"' EXIT
dpkg-query --admindir="$2" -L "$3" >"$d" 2>/dev/null
while read -r f; do
	[ -f "$1$f" ] && ! grep -qxF -- "$f" "$d" && ! dpkg-query --admindir="$2" -S "$f" >/dev/null 2>&1 && printf '%s\n' "$f"
done
true`, h.o.Root, h.path("/var/lib/dpkg"), a.Package)
	if err != nil {
		return nil, fmt.Errorf("look for files that %s would overwrite: %w", a.Package, err)
	}
	for line := range strings.Lines(out) {
		list = append(list, Overwrite{a.Package, strings.TrimSuffix(line, "\n")})
	}
	slices.SortFunc(list, func(a, b Overwrite) int { return strings.Compare(a.Path, b.Path) })
	return list, nil
}

// problems judges the plan.
func (h *Host) problems(ctx context.Context, p *Plan, f Facts) {
	refuse := func(next, format string, a ...any) {
		p.Problems = append(p.Problems, Problem{Refuse: true, Text: fmt.Sprintf(format, a...), Next: next})
	}
	warn := func(next, format string, a ...any) {
		p.Problems = append(p.Problems, Problem{Text: fmt.Sprintf(format, a...), Next: next})
	}
	var disk int64
	for _, a := range p.Actions {
		disk += a.Installed
		switch {
		case a.Requested:
		case a.Kind == Remove:
			refuse("ask for the removal in the request if it is meant", "it would remove %s %s, which nobody asked for", a.Package, a.From)
		case a.Held:
			refuse("request the package too, or release the hold", "it would change %s, which is on hold", a.Package)
		case a.Kind == Downgrade:
			refuse("request the package too if it is meant", "it would downgrade %s from %s to %s, which nobody asked for", a.Package, a.From, a.To)
		}
		if a.Held && a.Requested {
			warn("", "%s is on hold; it is changed as requested and stays on hold", a.Package)
		}
		if a.Rollback == fromRepack {
			warn("fetch the .deb of the installed version before you go on", "%s %s is neither in apt's cache nor in a source: it will be packed again from the installed files", a.Package, a.From)
		}
		if _, ok := component(a.Package); ok && a.Kind != Remove {
			s := Supports(a.Package, a.To, p.OS, a.Arch)
			system := fmt.Sprintf("%s %s on %s %s %s", a.Package, a.To, p.OS.ID, p.OS.VersionID, a.Arch)
			switch {
			case !s.Known:
				warn("ask the publisher", "nothing is known of %s", system)
			// Not a refusal: the sources are per distribution, so a package that
			// one of them offers is meant for this system, whatever lists say.
			case !s.OK:
				warn("choose a version that supports this system, or ask the publisher", "%s is not supported: %s", system, s)
			case s.Disputed():
				warn("", "%s: the origins disagree: %s", system, s)
			}
		}
	}
	for _, b := range f.Broken {
		requested := slices.ContainsFunc(p.Requests, func(r Request) bool { return r.Package == b.Name })
		_, tyk := component(b.Name)
		text := fmt.Sprintf("an earlier run left %s %s %s", b.Name, b.Version, b.Status)
		if requested || tyk {
			refuse("call Repair, or Revert the change that left it so", "%s", text)
		} else {
			warn("repair it: until then every apt run ends with an error, whatever it did", "%s", text)
		}
	}
	if cache := f.free(h.path("/var/cache/apt/archives")); cache >= 0 && cache < p.DownloadSize() {
		refuse("free some space", "the download needs %d bytes, apt's cache has %d", p.DownloadSize(), cache)
	}
	// dpkg unpacks the new files beside the old ones before it replaces them.
	if opt := f.free(h.path("/opt")); opt >= 0 && opt < disk {
		refuse("free some space", "the new files need %d bytes, /opt has %d", disk, opt)
	}
	for _, o := range p.Overwrites {
		warn("Apply saves it; put your change back afterwards, or keep such files elsewhere", "%s was changed on this host and is overwritten silently", o.Path)
	}
	if locks, err := h.Locks(ctx); err == nil && len(locks) > 0 {
		warn("Apply waits for it", "%s", describe(locks))
	}
}
