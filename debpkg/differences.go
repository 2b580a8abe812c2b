package debpkg

import (
	"fmt"
	"slices"
	"strings"
)

// differences lists what changed between two plans of the same requests.
func (p Plan) differences(now Plan) []string {
	var list []string
	if p.Host != now.Host {
		list = append(list, fmt.Sprintf("the plan is for %s (%s), this is %s (%s)", p.Host.Hostname,
			p.Host.Machine, now.Host.Hostname, now.Host.Machine))
	}
	describe := func(a Action) string {
		return strings.TrimSpace(fmt.Sprintf("%s %s %s to %s held=%t %s", a.Kind, a.Package, a.From, a.To,
			a.Held, a.SHA256))
	}
	for _, a := range p.Actions {
		i := slices.IndexFunc(now.Actions, func(b Action) bool { return a.Package == b.Package })
		if i < 0 {
			list = append(list, fmt.Sprintf("no longer: %s", describe(a)))
		} else if b := now.Actions[i]; describe(a) != describe(b) {
			list = append(list, fmt.Sprintf("%s is now %s", describe(a), describe(b)))
		}
	}
	for _, b := range now.Actions {
		if !slices.ContainsFunc(p.Actions, func(a Action) bool { return a.Package == b.Package }) {
			list = append(list, fmt.Sprintf("new: %s", describe(b)))
		}
	}
	for _, c := range now.Conffiles {
		if !slices.Contains(p.Conffiles, c) {
			list = append(list, c.Path+" was changed")
		}
	}
	for _, o := range now.Overwrites {
		if !slices.Contains(p.Overwrites, o) {
			list = append(list, o.Path+" was changed")
		}
	}
	if list == nil {
		list = []string{"the details of the plan differ"}
	}
	return list
}
