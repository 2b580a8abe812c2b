package debpkg

import (
	"context"
	"fmt"
	"slices"
	"strings"
)

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
			return task{"read", fmt.Sprintf("what the sources say of %s", strings.Join(lookup, ", "))}.wrap(err)
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
		return task{"look", "into apt's cache"}.wrap(err)
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
