package pluginbuild

import (
	"fmt"

	"github.com/Masterminds/semver/v3"
)

// Path is one of the three methods to prepare a plugin module for a release.
//
// The upgrade procedure defines them in a table and in headings, which differ:
//
//	        its table (current → target)   its headings              here, by target alone
//	Path 1  < 4.1.0  →  < 4.1.0            earlier than 4.2.0         before 4.2.0
//	Path 2  < 4.1.0  →  >= 5.1.0           "between 4.2.0 to 5.1.0"   from 4.2.0, before 5.1.0
//	Path 3  >= 4.1.0 →  >= 5.2.5           5.1 and above              from 5.1.0
//
// The table has no row for targets from 4.1.0 to 5.0.x, nor for 4.1.0 or newer to 5.1.0–5.2.4.
// It sends 4.0.8 → 5.2.5 to path 2, which has the commit of 5.0.3 and vendors. A 5.2.5 compiler
// uses neither. The headings put 5.1.0 into two paths. It is the first release with a workspace
// compiler, so it takes path 3. The current release does not matter to the module. A pre-release
// takes the path of its release.
type Path int

// The three paths.
const (
	// before 4.2.0: get, tidy, vendor, with the graphql replace if the release has one
	Path1 Path = 1
	Path2 Path = 2 // from 4.2.0 and before 5.1.0: get, tidy, vendor
	Path3 Path = 3 // from 5.1.0: get, tidy; no vendor directory
)

var (
	v4_1_0 = semver.New(4, 1, 0, "", "")
	v4_2_0 = semver.New(4, 2, 0, "", "")
	v5_1_0 = semver.New(5, 1, 0, "", "")
	v5_2_5 = semver.New(5, 2, 5, "", "")
)

// PathTo returns the path to a target version, which must not be nil.
func PathTo(target *semver.Version) Path {
	switch v := core(target); {
	case v.LessThan(v4_2_0):
		return Path1
	case v.LessThan(v5_1_0):
		return Path2
	default:
		return Path3
	}
}

// Path returns the path to the release.
func (r Release) Path() Path { return PathTo(r.Version) }

func (p Path) String() string { return fmt.Sprintf("path %d", int(p)) }

// vendors reports whether the path ends with `go mod vendor`.
func (p Path) vendors() bool { return p < Path3 }

// Row compares the row of an upgrade in the procedure's table with the correct path.
type Row struct {
	Current *semver.Version `json:"current"`
	Target  *semver.Version `json:"target"`
	Table   int             `json:"table"` // row of the procedure's table; 0: none fits
	Path    Path            `json:"path"`  // the correct path
	Why     string          `json:"why"`   // for people
}

// Explain finds the path of an upgrade and its row in the procedure's table. Why explains the
// path. Neither version may be nil.
func Explain(current, target *semver.Version) Row {
	r := Row{Current: current, Target: target, Path: PathTo(target)}
	from, to := core(current), core(target)
	switch {
	case from.LessThan(v4_1_0) && to.LessThan(v4_1_0):
		r.Table = 1
	case from.LessThan(v4_1_0) && !to.LessThan(v5_1_0):
		r.Table = 2
	case !from.LessThan(v4_1_0) && !to.LessThan(v5_2_5):
		r.Table = 3
	}
	kind := "upgrade"
	switch c := target.Compare(current); {
	case c < 0:
		kind = "downgrade"
	case c == 0:
		kind = "rebuild"
	}
	r.Why = fmt.Sprintf("%s %s → %s takes %s, because %s. ", kind, current, target, r.Path,
		because[r.Path])
	switch {
	case r.Table == 0:
		r.Why += "No row of the procedure's table fits this pair; the target alone decides."
	case r.Table == int(r.Path):
		r.Why += fmt.Sprintf("Row %d of the procedure's table agrees; its commit is right for one "+
			"release only.", r.Table)
	default:
		r.Why += fmt.Sprintf("Row %d of the procedure's table fits this pair, but is wrong for this "+
			"target: the current release does not change how a plugin is built.", r.Table)
	}
	return r
}

var because = map[Path]string{
	Path1: "targets before 4.2.0 are compiled from a vendor directory and need the replaces of the " +
		"release's own go.mod",
	Path2: "targets from 4.2.0 and before 5.1.0 are compiled from a vendor directory",
	Path3: "from 5.1.0 on the compiler builds gateway and plugin in one Go workspace, without a " +
		"vendor directory",
}
