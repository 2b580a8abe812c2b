package debpkg

import (
	"fmt"
	"slices"
)

// Problem is a refusal or a warning of a plan.
type Problem struct {
	Refuse bool // Apply will not run such a plan
	Text   string
	Next   string `json:",omitempty"`
}

// problems adds the refusals and warnings to the plan.
func (h *Host) problems(p *Plan, s survey, need space) {
	refuse := func(next, format string, a ...any) {
		p.Problems = append(p.Problems, Problem{Refuse: true, Text: fmt.Sprintf(format, a...),
			Next: next})
	}
	warn := func(next, format string, a ...any) {
		p.Problems = append(p.Problems, Problem{Text: fmt.Sprintf(format, a...), Next: next})
	}
	for _, a := range p.Actions {
		switch {
		case a.Requested:
		case a.Kind == Remove:
			refuse("request the removal if you mean it", "it would remove %s %s, which is not requested",
				a.Package, a.From)
		case a.Held:
			refuse("request the package too, or release the hold", "it would change %s, which is on hold",
				a.Package)
		case a.Kind == Downgrade:
			refuse("request the package too if you mean it", "it would downgrade %s from %s to %s, which "+
				"is not requested", a.Package, a.From, a.To)
		}
		if a.Held && a.Requested {
			warn("", "%s is on hold; it is changed as requested and stays on hold", a.Package)
		}
		if a.Candidate != "" {
			next := "set Options.Hold or Options.Pin; otherwise the next unattended upgrade may change it"
			if a.Held || p.Hold || p.Pin {
				next = ""
			}
			warn(next, "apt's own choice for %s is %s, not %s", a.Package, a.Candidate, a.To)
		}
		if a.Rollback == fromRepack {
			warn("fetch the .deb of the installed version before you continue",
				"%s %s is neither in apt's cache nor in a source: it will be packed again from the "+
					"installed files", a.Package, a.From)
		}
		if _, ok := component(a.Package); ok && a.Kind != Remove {
			s := Supports(a.Package, a.To, p.OS, a.Arch)
			system := fmt.Sprintf("%s %s on %s %s %s", a.Package, a.To, p.OS.ID, p.OS.VersionID, a.Arch)
			switch {
			case !s.Known:
				warn("ask the publisher", "unknown whether %s is supported", system)
			// This is not a refusal. Sources are per distribution, so a package that
			// one of them offers is meant for this system, even if the lists differ.
			case !s.OK:
				warn("choose a version that supports this system, or ask the publisher",
					"%s is not supported: %s", system, s)
			case s.Disputed():
				warn("", "%s: the origins disagree: %s", system, s)
			}
		}
	}
	for _, b := range s.Broken {
		requested := slices.ContainsFunc(p.Requests, func(r Request) bool { return r.Package == b.Name })
		_, tyk := component(b.Name)
		text := fmt.Sprintf("an earlier run left %s %s %s", b.Name, b.Version, b.Status)
		if requested || tyk {
			refuse("call Repair, or Revert for the change that left it so", "%s", text)
		} else {
			warn("repair it: until then every run of apt ends with an error", "%s", text)
		}
	}
	for _, o := range p.Owned {
		refuse("remove that package in the same request, or ask the publisher",
			"%s of %s belongs to the installed %s; dpkg would refuse to replace it", o.Path, o.Package,
			o.Owner)
	}
	for _, c := range p.Conffiles {
		switch c.Outcome {
		case OutcomeOverwritten:
			warn("Apply saves it; put your change back afterwards",
				"%s is no longer a configuration file of %s: your edits are overwritten", c.Path, c.Package)
		case OutcomeMoved:
			warn("move your settings to where the new version reads them",
				"%s no longer uses %s: your edited file becomes %s.dpkg-old", c.Package, c.Path, c.Path)
		}
	}
	for _, l := range need.lacking() {
		if h.o.IgnoreSpace {
			warn("", "%s; IgnoreSpace is set", l)
		} else {
			refuse("free some space, or set Options.IgnoreSpace", "%s", l)
		}
	}
	for _, o := range p.Overwrites {
		warn("Apply saves it; put your change back afterwards, or keep such files elsewhere",
			"%s was changed on this host and is overwritten silently", o.Path)
	}
	if len(s.Locks) > 0 {
		warn("Apply waits for it", "%s", describe(s.Locks))
	}
}
