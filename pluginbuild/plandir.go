package pluginbuild

import (
	"cmp"
	"io/fs"
	"os"
)

// DirOptions say more about what [PlanDir] plans. The zero value is useful.
type DirOptions struct {
	PlanOptions
	GoMod string   // file for GatewayMod: the release's own go.mod; empty: none
	With  []string // directories of the other plugins in the same bundle
}

// PlanDir is [NewPlan] for the module in a directory. With other plugins, the findings of
// [CheckBundle] follow those of the module, and Where names their directories. PlanDir follows no
// symbolic link that leads out of a directory. It changes nothing and keeps no file open.
//
// An error is of the file system, or as of NewPlan and CheckBundle.
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

// Rows are the plan as a table for people: a name and a value in each row. [Plan.Shell] has the
// commands.
func (p Plan) Rows() [][]string {
	const unknown = "unknown"
	return [][]string{
		{"gateway " + p.Version.String(), p.Path.String()}, {"why", p.Why}, {"commit", p.Commit},
		{"in go.mod", cmp.Or(p.ModuleVersion, unknown)}, {"image", p.Image},
		{"compiler's Go", cmp.Or(p.CompilerGo, unknown)}, {"output", p.Output},
	}
}
