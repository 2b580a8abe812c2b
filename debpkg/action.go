package debpkg

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
)

// ActionKind is what happens to a package.
type ActionKind string

// The kinds of actions.
const (
	Install   ActionKind = "install"
	Upgrade   ActionKind = "upgrade"
	Downgrade ActionKind = "downgrade"
	Reinstall ActionKind = "reinstall"
	Remove    ActionKind = "remove"
)

// Action is a planned change of one package.
type Action struct {
	Kind      ActionKind
	Package   string
	Arch      string  // of the version to install, or of the removed one
	FromArch  string  `json:",omitempty"` // of the installed version
	From, To  Version // zero: not installed before, not installed after
	Requested bool    // false: a requested package needs it
	Held      bool    `json:",omitempty"` // on hold; Apply keeps the hold
	Origin    string  `json:",omitempty"` // the source as apt names it, or local-deb
	Deb       string  `json:",omitempty"` // the local .deb file
	Size      int64   // of the .deb
	Installed int64   // bytes on disk when installed, as the package states
	SHA256    string  // of the .deb, from the source's index
	// the version that apt would choose itself, if it is another one
	Candidate string `json:",omitempty"`
	Rollback  string // source of From when the plan was made: cache, repository or repack
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

// actions turns apt's simulation into the plan's actions, and notes in s what apt's cache has of
// them. again is as in planned.
func (h *Host) actions(ctx context.Context, p *Plan, sim simulation, s *survey,
	debs map[string]Deb, again bool) error {
	requested := func(name string) bool {
		return slices.ContainsFunc(p.Requests, func(r Request) bool { return r.Package == name })
	}
	var lookup []string
	for _, one := range sim.inst {
		// apt -s prints a package twice when it unpacks in two steps.
		if slices.ContainsFunc(p.Actions, func(a Action) bool { return a.Package == one.name }) {
			continue
		}
		a := Action{Package: one.name, To: one.new, Origin: one.origin, Requested: requested(one.name),
			Arch: p.Arch}
		old, ok := find(s.Packages, one.name)
		if ok && old.Status != "config-files" {
			a.From, a.FromArch = old.Version, old.Arch
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
		a := Action{Kind: Remove, Package: one.name, From: one.old, Requested: requested(one.name),
			Arch: p.Arch}
		if old, ok := find(s.Packages, one.name); ok {
			a.Held, a.Arch, a.FromArch = old.Held(), old.Arch, old.Arch
		}
		p.Actions = append(p.Actions, a)
	}
	if err := p.asRequested(*s); err != nil {
		return err
	}
	return h.offered(ctx, p, s, lookup, again)
}

// Before returns the package and its version before the action, such as "tyk-gateway 5.2.5" or
// "tyk-gateway not installed".
func (a Action) Before() string { return present(a.Package, a.From) }

// After returns the package and its version after the action, like Before.
func (a Action) After() string {
	if a.Kind == Remove {
		return present(a.Package, Version{})
	}
	return present(a.Package, a.To)
}

func present(pkg string, v Version) string {
	if v.IsZero() {
		return pkg + " not installed"
	}
	return pkg + " " + v.String()
}

// asRequested checks that apt's answer is exactly what was requested. apt takes some names for
// patterns, and a trailing - or + for an instruction.
func (p *Plan) asRequested(s survey) error {
	for _, r := range p.Requests {
		now, ok := find(s.Packages, r.Package)
		there := ok && now.Status != "config-files"
		i := slices.IndexFunc(p.Actions, func(a Action) bool { return a.Package == r.Package })
		switch {
		case i >= 0 && r.Remove == (p.Actions[i].Kind == Remove) && (r.Remove ||
			p.Actions[i].To.Compare(r.Version) == 0):
		case i < 0 && r.Remove && !there, i < 0 && !r.Remove && there && now.Installed() &&
			now.Version.Compare(r.Version) == 0:
			p.Unchanged = append(p.Unchanged, r.Package)
		default:
			return task{"plan", join(p.Requests)}.fail(Error{Kind: ErrNoPackage,
				Detail: fmt.Sprintf("apt's plan does not include %s: it takes the name for a pattern", r),
				Next:   "use the package's exact name, and check that a source for this component is set up"})
		}
	}
	return nil
}

// offeredScript: $1 apt's cache, then NAME=VERSION to install, --, names of these and of the
// installed, --, names of files. It prints the sizes of the files that the cache has.
const offeredScript = `cache=$1; shift
to=; while [ "$1" != -- ]; do to="$to $1"; shift; done; shift
names=; while [ "$1" != -- ]; do names="$names $1"; shift; done; shift
[ -z "$to" ] || apt-cache show -- $to || exit $?
printf '\034'; [ -z "$names" ] || apt-cache policy -- $names || exit $?
printf '\034'; cd -- "$cache" 2>/dev/null || exit 0
n=$#; while [ $n -gt 0 ]; do f=$1 n=$((n - 1)); shift; [ ! -f "$f" ] || set -- "$@" "$f"; done
[ $# -eq 0 ] || stat -L -c '%s %n' -- "$@"`

// offered adds what the sources state: size and digest of each candidate, a source of each
// installed version, and apt's own choice. An earlier plan that is compared has the last two.
func (h *Host) offered(ctx context.Context, p *Plan, s *survey, lookup []string, again bool) error {
	args := append([]string{s.archives()}, lookup...)
	args = append(args, "--")
	var files []string
	for _, a := range p.Actions {
		// apt knows a package of a local file only once it is installed.
		if !again && (a.Deb == "" || !a.From.IsZero()) {
			args = append(args, a.Package)
		}
		if !again && !a.From.IsZero() {
			files = append(files, debName(a.Package, a.From, a.FromArch))
		}
		if a.Kind != Remove && a.Deb == "" {
			_, arch, _ := strings.Cut(a.Package, ":")
			files = append(files, debName(a.Package, a.To, cmp.Or(arch, p.Arch)),
				debName(a.Package, a.To, "all"))
		}
	}
	t := task{"read", "what the sources say of " + join(p.Requests)}
	out, errOut, err := h.raw(ctx, nil, append(script("offered"), append(append(args, "--"), files...)...)...)
	if err != nil && exitCode(err) >= 0 {
		return aptError(t, said{err: tidy(errOut)}, err)
	} else if err != nil {
		return t.wrap(explain(ctx, err, errOut))
	}
	part := strings.Split(out, "\x1c")
	if len(part) != 3 {
		return t.fail(Error{Detail: "the host's answer has an unexpected format", Output: tidy(out)})
	}
	for _, st := range stanzas(part[0]) {
		name := st.fields["package"]
		if arch := st.fields["architecture"]; arch != p.Arch && arch != "all" {
			name += ":" + arch
		}
		for i, a := range p.Actions {
			// The installed version's own stanza has no SHA256.
			if a.Package == name && a.To.text == st.fields["version"] && a.Deb == "" && a.SHA256 == "" &&
				st.fields["filename"] != "" {
				p.Actions[i].SHA256, p.Actions[i].Size = st.fields["sha256"], number64(st.fields["size"])
				p.Actions[i].Installed, p.Actions[i].Arch = number64(st.fields["installed-size"])*1024,
					st.fields["architecture"]
			}
		}
	}
	s.cached = map[string]int64{}
	for _, line := range lines(part[2]) {
		size, file, _ := strings.Cut(line, " ")
		s.cached[file] = number64(size)
	}
	if again {
		return nil
	}
	known := parsePolicy(part[1])
	for i, a := range p.Actions {
		k := known[a.Package]
		if k.candidate != "" && a.Deb == "" && a.Requested && k.candidate != a.To.text {
			p.Actions[i].Candidate = k.candidate
		}
		_, cached := s.cached[debName(a.Package, a.From, a.FromArch)]
		switch {
		case a.From.IsZero():
		case cached:
			p.Actions[i].Rollback = fromCache
		case slices.Contains(k.offered, a.From.text):
			p.Actions[i].Rollback = fromRepository
		default:
			p.Actions[i].Rollback = fromRepack
		}
	}
	return nil
}

// policy is what apt-cache policy says of a package.
type policy struct {
	candidate string
	offered   []string // versions that a source has
}

// parsePolicy reads apt-cache policy in the C locale (apt 1.2 to 3.0). A version is at column
// 5, and the places that it comes from are below it, further right: a priority, then an
// address, or the path of dpkg's own status.
func parsePolicy(text string) map[string]policy {
	known := map[string]policy{}
	name, version := "", ""
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\n")
		words := strings.Fields(line)
		p := known[name]
		if n, ok := strings.CutSuffix(line, ":"); ok && !strings.HasPrefix(line, " ") {
			name, version = n, ""
			continue
		} else if v, ok := strings.CutPrefix(line, "  Candidate: "); ok && v != "(none)" {
			p.candidate = v
		} else if len(line) > 5 && line[5] != ' ' && (line[:5] == "     " || line[:5] == " *** ") {
			version = strings.Fields(line[5:])[0]
		} else if version != "" && len(words) > 1 && !strings.HasPrefix(words[1], "/") {
			p.offered = append(p.offered, version)
		}
		known[name] = p
	}
	return known
}
