package debpkg

import (
	"cmp"
	"context"
	"fmt"
	"path"
	"slices"
	"strings"
)

// revertArgs chooses where each version comes from.
func (h *Host) revertArgs(ctx context.Context, op task, c Change, todo []Action,
	look survey) (install, error) {
	in := install{downgrade: true}
	file := func(a Action) (string, string) {
		for _, s := range c.Saved {
			if s.Package == a.Package && s.Version.Compare(a.From) == 0 {
				return s.Path, s.SHA256
			}
		}
		return path.Join(look.archives(), debName(a.Package, a.From, cmp.Or(a.FromArch, c.Plan.Arch))), ""
	}
	var files []string
	for _, a := range todo {
		if !a.From.IsZero() {
			name, _ := file(a)
			files = append(files, name)
		}
	}
	debs, err := h.debsThere(ctx, files)
	if err != nil {
		return in, op.wrap(err)
	}
	// Only a source replaces what is repacked or cannot be used.
	why, repacked := map[string]string{}, map[string]bool{}
	var ask []string
	for _, a := range todo {
		if a.From.IsZero() {
			continue
		}
		name, sum := file(a)
		why[a.Package] = unusable(debs, name, sum, a)
		repacked[a.Package] = slices.ContainsFunc(c.Saved, func(s Saved) bool {
			return s.Path == name && s.From == fromRepack
		})
		if why[a.Package] != "" || repacked[a.Package] {
			ask = append(ask, a.Package)
		}
	}
	available, err := h.Available(ctx, ask...)
	if err != nil {
		return in, op.wrap(err)
	}
	for _, a := range todo {
		if p, ok := find(look.Packages, a.Package); ok && p.Held() {
			in.held = true
		}
		if a.From.IsZero() {
			in.args, in.removal = append(in.args, a.Package+"-"), true
			continue
		}
		offered := slices.ContainsFunc(available,
			func(v Available) bool { return v.Package == a.Package && v.Version.Compare(a.From) == 0 })
		why := why[a.Package]
		switch {
		case why == "" && !(repacked[a.Package] && offered):
			name, _ := file(a)
			in.args = append(in.args, name)
		case offered:
			in.args = append(in.args, a.Package+"="+a.From.text)
		default:
			return in, op.fail(Error{Kind: ErrNoRollback,
				Detail: fmt.Sprintf("no source offers %s %s, and %s", a.Package, a.From, why),
				Next:   "get that .deb from a backup or another host and install it with a plan of its own"})
		}
	}
	return in, nil
}

// unusable returns why the file is not the wanted .deb, or "".
func unusable(debs []Deb, name, sum string, a Action) string {
	i := slices.IndexFunc(debs, func(d Deb) bool { return d.Path == name })
	pkg, _, _ := strings.Cut(a.Package, ":")
	switch {
	case i < 0:
		return name + " cannot be read"
	case debs[i].Package != pkg || debs[i].Version.Compare(a.From) != 0:
		return fmt.Sprintf("%s holds %s %s", name, debs[i].Package, debs[i].Version)
	case sum != "" && debs[i].SHA256 != sum:
		return name + " was changed since it was saved"
	}
	return ""
}

// checkRevert asks apt first, so that the revert does not remove or change other packages.
func (h *Host) checkRevert(ctx context.Context, op task, c Change, in install,
	todo []Action) error {
	sim, err := h.simulate(ctx, op, in.args)
	if err != nil {
		return err
	}
	var surprises []string
	for _, one := range sim.remv {
		if !slices.ContainsFunc(todo, func(a Action) bool {
			return a.Package == one.name &&
				a.From.IsZero()
		}) {
			surprises = append(surprises, "remove "+one.name)
		}
	}
	for _, one := range sim.inst {
		if !slices.ContainsFunc(c.Plan.Actions, func(a Action) bool { return a.Package == one.name }) &&
			!one.old.IsZero() && one.new.Compare(one.old) < 0 {
			surprises = append(surprises, "downgrade "+one.name)
		}
	}
	if surprises != nil {
		return &Error{Op: op.verb, Object: op.object, Kind: ErrRefused, Detail: "it would also " +
			strings.Join(surprises, ", "), Next: "plan these packages together"}
	}
	return nil
}
