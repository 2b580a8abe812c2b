package backup

import (
	"fmt"
	"slices"
	"strings"
)

// Need is a database that a program on a host uses, according to the host's configuration. It
// contains no address and no secret.
type Need struct {
	// the kind of component that backs it up: "redis", "mongo", "postgres", "mysql", …
	Kind string `json:"kind"`
	By   string `json:"by"`   // the program: "dashboard", "gateway", "pump", "mdcb"
	From string `json:"from"` // the setting: "/opt/tyk-gateway/tyk.conf: storage.type"
}

// String returns "dashboard uses mongo (/opt/tyk-dashboard/tyk_analytics.conf: mongo_url)".
func (n Need) String() string { return n.By + " uses " + n.Kind + " (" + n.From + ")" }

// Missing returns the needs whose kind is not among kinds.
func Missing(needs []Need, kinds ...string) []Need {
	var out []Need
	for _, n := range needs {
		if !slices.Contains(kinds, n.Kind) && !slices.Contains(out, n) {
			out = append(out, n)
		}
	}
	return out
}

// Missing returns the databases that the set's configuration files name, but that the set does not
// contain. Such a set restores a working system only if somebody else backs these databases up.
func (m *Manifest) Missing() []Need {
	var needs []Need
	var kinds []string
	for _, c := range m.Components {
		needs = append(needs, c.Needs...)
		kinds = append(kinds, c.Kind)
	}
	return Missing(needs, kinds...)
}

// Covers returns an error unless the set has all named components and was taken at the given
// package versions. A package that the set does not record counts as different. The error matches
// [ErrDiffers] and lists all differences.
func (m *Manifest) Covers(components []string, packages map[string]string) error {
	var missing []string
	for _, name := range components {
		if !slices.ContainsFunc(m.Components, func(c Component) bool { return c.Name == name }) {
			missing = append(missing, fmt.Sprintf("it has no component %q", name))
		}
	}
	for name, version := range packages {
		if have := m.Packages[name]; have != version {
			missing = append(missing, fmt.Sprintf("it was taken with %s %q, not %q", name, have, version))
		}
	}
	if len(missing) == 0 {
		return nil
	}
	slices.Sort(missing)
	return &Error{Op: "use set", Object: m.ID, Kind: ErrDiffers, Err: fmt.Errorf("%s",
		strings.Join(missing, ", ")),
		Next: "take a new set"}
}
