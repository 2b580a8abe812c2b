package debpkg

import (
	_ "embed"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
)

// Origin is a source of the fact that a distribution is supported.
type Origin struct {
	Name string // procedure, publishing CI, documentation
	Date string // as of
	Says bool
}

// Support reports whether a release of a component supports an operating system.
type Support struct {
	Known   bool     // an origin covers this release of this package
	OK      bool     // the newest of the origins says so
	Origins []Origin // all origins that cover it, oldest first; they may disagree
}

// Disputed reports whether the origins disagree.
func (s Support) Disputed() bool {
	return slices.ContainsFunc(s.Origins, func(o Origin) bool { return o.Says != s.OK })
}

func (s Support) String() string {
	if !s.Known {
		return "unknown"
	}
	var parts []string
	for _, o := range s.Origins {
		parts = append(parts, fmt.Sprintf("%s (%s): %s", o.Name, o.Date, map[bool]string{true: "yes",
			false: "no"}[o.Says]))
	}
	return strings.Join(parts, ", ")
}

// The three origins are the table in Tyk's upgrade procedure of February 2024, the packages that
// the CI of each gateway release publishes, and the installation documentation of August 2026, for
// the releases of that time. The CI of dashboard and pump is not public.
//
//go:embed support.json
var supportJSON []byte

type supportRule struct {
	Origin        string
	Date          string
	Packages      []string
	From, To      Version // both included; To zero: and later ones
	Systems       []string
	Architectures []string // empty: not stated
}

var supportRules = sync.OnceValue(func() []supportRule {
	var rules []supportRule
	if err := json.Unmarshal(supportJSON, &rules); err != nil {
		panic(err) // the file is compiled in and TestSupportData reads it
	}
	slices.SortStableFunc(rules, func(a, b supportRule) int { return strings.Compare(a.Date, b.Date) })
	return rules
})

// Supports reports whether a version of a package supports this system, by the tables in this
// package.
func Supports(pkg string, v Version, os OS, arch string) Support {
	var s Support
	for _, r := range supportRules() {
		if !slices.Contains(r.Packages, pkg) || v.Compare(r.From) < 0 || !r.To.IsZero() &&
			v.Compare(r.To) > 0 {
			continue
		}
		says := slices.Contains(r.Systems, os.ID+" "+os.VersionID) && (len(r.Architectures) == 0 ||
			slices.Contains(r.Architectures, arch))
		s.Known, s.OK = true, says
		s.Origins = append(s.Origins, Origin{Name: r.Origin, Date: r.Date, Says: says})
	}
	return s
}
