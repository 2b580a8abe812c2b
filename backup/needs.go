package backup

import (
	"fmt"
	"slices"
	"strings"
)

// Need is one database that a program on a host uses, as the host's own
// configuration says. It holds no address and no secret.
type Need struct {
	// the kind of component that backs it up: "redis", "mongo", "postgres", "mysql", …
	Kind string `json:"kind"`
	By   string `json:"by"`   // the program: "dashboard", "gateway", "pump", "mdcb"
	From string `json:"from"` // where it says so: "/opt/tyk-gateway/tyk.conf: storage.type"
}

// String returns "dashboard uses mongo (/opt/tyk-dashboard/tyk_analytics.conf: mongo_url)".
func (n Need) String() string { return n.By + " uses " + n.Kind + " (" + n.From + ")" }

// Missing returns the needs that none of the kinds covers.
func Missing(needs []Need, kinds ...string) []Need {
	var out []Need
	for _, n := range needs {
		if !slices.Contains(kinds, n.Kind) && !slices.Contains(out, n) {
			out = append(out, n)
		}
	}
	return out
}

// Missing returns the databases that the configuration files of the set name and
// that no component of the set holds. Restoring such a set does not bring back a
// working system unless somebody else backs these databases up.
func (m *Manifest) Missing() []Need {
	var needs []Need
	var kinds []string
	for _, c := range m.Components {
		needs = append(needs, c.Needs...)
		kinds = append(kinds, c.Kind)
	}
	return Missing(needs, kinds...)
}

// Covers reports whether the set has all named components, and whether it was
// taken at the given package versions. A package that the set does not record
// differs. The error matches [ErrDiffers] and lists everything that is missing.
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
