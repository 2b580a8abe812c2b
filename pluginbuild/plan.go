package pluginbuild

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/Masterminds/semver/v3"
)

// PlanOptions configures [NewPlan]. The zero value plans plugin.so of the standard edition for
// linux/amd64.
type PlanOptions struct {
	CheckOptions
	Current *semver.Version // the current release, for the explanation
	NoGet   bool            // as in [CommandOptions]
	Name    string          // file name of the plugin; empty: "plugin.so"
	GOOS    string          // of the gateway's host; empty: linux
	GOARCH  string          // empty: amd64
	Image   Image           // zero: the release's official image of the standard edition
}

// Plan describes the upgrade of a plugin to a release: commands, image, output and findings. It
// marshals to JSON.
type Plan struct {
	Version       *semver.Version `json:"version"`
	Commit        string          `json:"commit"`
	ModuleVersion string          `json:"module_version,omitempty"` // how go.mod names the commit
	Path          Path            `json:"path"`
	Why           string          `json:"why"`
	// in the procedure's table; nil if the current release is unknown
	Row        *Row      `json:"row,omitempty"`
	Commands   []Command `json:"commands"`
	Image      string    `json:"image"`
	CompilerGo string    `json:"compiler_go,omitempty"`
	Output     string    `json:"output"` // name of the file that the compiler writes
	Findings   []Finding `json:"findings"`
}

// NewPlan plans the upgrade of the plugin module in src to the release. It reads src and changes
// nothing. A fault of the module is a finding, not an error.
func NewPlan(src fs.FS, r Release, o PlanOptions) (Plan, error) {
	r, err := r.WithVariant(o.Image.Variant)
	if err != nil {
		return Plan{}, fmt.Errorf("plan: %w", err)
	}
	o.CheckOptions.NoGet = o.CheckOptions.NoGet || o.NoGet
	findings, err := CheckModule(src, r, o.CheckOptions)
	if err != nil {
		return Plan{}, fmt.Errorf("plan for %s: %w", r.name(), err)
	}
	image, err := o.Image.Reference(r)
	if err != nil {
		return Plan{}, fmt.Errorf("plan for %s: %w", r.Version, err)
	}
	mod, err := readModuleFile(src)
	if err != nil {
		mod = nil // a finding reports it
	}
	commands, err := r.Commands(CommandOptions{GoMod: mod, NoGet: o.NoGet})
	if err != nil && mod != nil && !errors.Is(err, ErrNeedsGet) {
		commands, err = r.Commands(CommandOptions{NoGet: o.NoGet})
	}
	if err != nil {
		return Plan{}, fmt.Errorf("plan: %w", err)
	}
	name := cmp.Or(o.Name, "plugin.so")
	if err := r.ValidateName(name); err != nil {
		return Plan{}, fmt.Errorf("plan: %w", err)
	}
	goos, goarch := cmp.Or(o.GOOS, "linux"), cmp.Or(o.GOARCH, "amd64")
	findings = append(findings, r.platform(goos, goarch, o.Image.Edition)...)
	p := Plan{
		Version: r.Version, Commit: r.Commit, ModuleVersion: r.PseudoVersion(),
		Path: r.Path(), Why: because[r.Path()],
		Commands: commands, Image: image, CompilerGo: r.Compiler.Go,
		Output:   r.Output(name, goos, goarch),
		Findings: findings,
	}
	if o.Current != nil {
		row := Explain(o.Current, r.Version)
		p.Row, p.Why = &row, row.Why
	}
	return p, nil
}

// platform returns findings about a target that the release's compiler does not support.
func (r Release) platform(goos, goarch string, e Edition) []Finding {
	var f []Finding
	switch {
	case goos == "linux" && goarch == "amd64":
	case !r.Compiler.PlatformArgs:
		f = append(f, Finding{SeverityError, "platform", r.Tag(),
			fmt.Sprintf("the compiler of %s builds only for linux/amd64, not for %s/%s", r.Version, goos,
				goarch), "choose 4.1.0 or newer", false})
	case r.Compiler.Crosses(goarch, e):
	default:
		f = append(f, Finding{SeverityWarning, "platform", r.Tag(),
			fmt.Sprintf("the compiler of %s has no C compiler for %s/%s, and plugins need one",
				r.Version, goos, goarch), "use another image that has one", false})
	}
	return f
}

// Blocked reports whether a finding stops the plugin from building or loading.
func (p Plan) Blocked() bool { return slices.ContainsFunc(p.Findings, Finding.Blocks) }

// Shell returns the commands as a POSIX shell script for the module's directory. A comment
// explains each command.
func (p Plan) Shell() string {
	var b strings.Builder
	fmt.Fprintf(&b, "# gateway %s, %s\n", p.Version, p.Path)
	b.WriteString("export GOWORK=off\n")
	for _, c := range p.Commands {
		fmt.Fprintf(&b, "# %s\n%s\n", c.Why, c.Shell())
	}
	return b.String()
}
