package debpkg

import (
	"context"
	"fmt"
	"slices"
)

// Problem is something that the plan's reader must know.
type Problem struct {
	Refuse bool // Apply will not run such a plan
	Text   string
	Next   string `json:",omitempty"`
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
