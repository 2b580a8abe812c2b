package pluginbuild

import (
	"cmp"
	"io/fs"
	"os"
)

// DirOptions configures [PlanDir]. The zero value is useful.
type DirOptions struct {
	PlanOptions
	GoMod string   // file with the release's own go.mod, for GatewayMod; empty: none
	With  []string // directories of the other plugins in the same bundle
}

// PlanDir is [NewPlan] for the module in a directory. With other plugins it adds the findings of
// [CheckBundle], whose Where names their directories. PlanDir does not follow symbolic links out
// of a directory. It changes nothing.
//
// Errors are those of NewPlan, CheckBundle and the file system.
func PlanDir(dir string, r Release, o DirOptions) (p Plan, err error) {
	if o.GoMod != "" {
		f, err := os.Open(o.GoMod)
		if err != nil {
			return Plan{}, err
		}
		defer func() { _ = f.Close() }()
		o.GatewayMod = f
	}
	plugins := map[string]fs.FS{}
	for _, name := range append([]string{dir}, o.With...) {
		root, err := os.OpenRoot(name)
		if err != nil {
			return Plan{}, err
		}
		defer func() { _ = root.Close() }()
		plugins[name] = root.FS()
	}
	if p, err = NewPlan(plugins[dir], r, o.PlanOptions); err != nil || len(o.With) == 0 {
		return p, err
	}
	more, err := CheckBundle(plugins, r)
	if err != nil {
		return Plan{}, err
	}
	p.Findings = append(p.Findings, more...)
	return p, nil
}

// Rows returns the plan as a table for people, with a name and a value in each row. The commands
// are in [Plan.Shell].
func (p Plan) Rows() [][]string {
	const unknown = "unknown"
	return [][]string{
		{"gateway " + p.Version.String(), p.Path.String()}, {"why", p.Why}, {"commit", p.Commit},
		{"in go.mod", cmp.Or(p.ModuleVersion, unknown)}, {"image", p.Image},
		{"compiler's Go", cmp.Or(p.CompilerGo, unknown)}, {"output", p.Output},
	}
}
