package pluginbuild

import (
	"fmt"
	"go/version"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/Masterminds/semver/v3"
)

// Derive returns a Release for a version that is not in the table. It derives the features of
// the compiler from the version. Go version, replaces and base image are a guess: those of the
// nearest known release, as Notes says. [Release.WithGoMod] replaces the guess by the release's
// own go.mod. For a version in the table, Derive returns that entry with the given commit.
func Derive(v *semver.Version, commit string) (Release, error) {
	r, err := Lookup(v)
	if err == nil {
		if r.Commit != commit {
			r.Commit, r.Date = commit, time.Time{}
		}
		return r, r.Validate()
	}
	unknown, ok := err.(*UnknownReleaseError)
	if !ok {
		return Release{}, err
	}
	near := unknown.Nearest
	r = Release{Version: v, Commit: commit, Go: near.Go, Replaces: near.Replaces,
		Compiler: era(core(v)), Next: nextCompiler(v)}
	r.Compiler.Go, r.Compiler.Base = near.Compiler.Go, near.Compiler.Base
	if r.Next != nil {
		r.Next.Go = near.Compiler.Go
	}
	r.Notes = []string{fmt.Sprintf("not in the release table: Go version and replaces are those of "+
		"%s and may be wrong; compare them with the release's own go.mod", near.Version)}
	return r, r.Validate()
}

// WithGoMod returns the release with the Go version and the replaces of its own go.mod.
func (r Release) WithGoMod(mod io.Reader) (Release, error) {
	f, err := readGoMod(mod)
	if err != nil {
		return Release{}, fmt.Errorf("read go.mod of release %s: %w", r.Version, err)
	}
	if f.Module == nil || f.Module.Mod.Path != Module {
		return Release{}, fmt.Errorf("read go.mod of release %s: not the go.mod of %s", r.Version,
			Module)
	}
	r.Go, r.Toolchain, r.Replaces = directive(f), "", nil
	if f.Toolchain != nil {
		r.Toolchain = f.Toolchain.Name
	}
	for _, p := range f.Replace {
		// A directory next to the gateway's sources means nothing to a plugin.
		if p.New.Version != "" {
			r.Replaces = append(r.Replaces, Replace{p.Old.Path, p.Old.Version, p.New.Path, p.New.Version})
		}
	}
	r.Notes = nil
	r.Compiler.raise(r.Go)
	if r.Next != nil {
		next := *r.Next
		next.raise(r.Go)
		r.Next = &next
	}
	return r, r.Validate()
}

// raise sets the compiler's Go to that of the release's go.mod if it is older. All tags from
// 5.3.0 to 5.15.0-rc7 build in an image of the minor version in their go.mod.
func (c *Compiler) raise(directive string) {
	minor := strings.TrimPrefix(version.Lang("go"+directive), "go")
	if minor == "" || version.Compare("go"+minor, version.Lang("go"+c.Go)) <= 0 {
		return
	}
	c.Base = strings.Replace(c.Base, ":"+c.Go+"-", ":"+minor+"-", 1)
	c.Go = minor
}

// era returns the features that depend on the version alone. They come from the compiler's
// Dockerfile and script in every tag from 3.0.0 to 5.14.0.
func era(v *semver.Version) Compiler {
	from := func(s string) bool { return !v.LessThan(semver.MustParse(s)) }
	line := func(lo, below string) bool { return from(lo) && !from(below) }
	only502 := v.Equal(semver.New(5, 0, 2, "", ""))
	c := Compiler{
		Mode:           Vendor,
		EL7:            line("3.2.3", "5.1.0"),
		Suffix:         from("4.1.0"),
		PluginID:       line("3.0.10", "3.1.0") || from("3.2.3"),
		PlatformArgs:   line("3.2.3", "4.0.0") || from("4.1.0"),
		CrossARM64:     from("5.0.3"),
		Trimpath:       from("5.1.0"),
		GopluginTag:    line("5.8.14", "5.9.0") || from("5.12.1"),
		RenamesModule:  from("5.2.4"),
		FetchesModules: only502 || from("5.1.1"),
		Gateway:        from("5.2.3"),
	}
	switch {
	case from("5.1.0"):
		c.Mode = Workspace
	case only502:
		c.Mode = Modules
	case from("3.2.3") || line("3.0.10", "3.1.0"):
		c.Mode = GOPATH
	}
	if from("5.7.0") {
		c.Env = append(c.Env, "BUILD_TAG")
		c.Editions = []Edition{Standard, Enterprise}
	}
	if line("5.8.14", "5.9.0") || from("5.13.0") {
		c.Editions = append(c.Editions, FIPS)
	}
	if from("5.2.4") {
		c.Env = append(c.Env, "DEBUG")
	}
	if from("5.2.3") {
		c.Env = append(c.Env, "GO_GET")
	}
	if from("5.2.4") {
		c.Env = append(c.Env, "GO_TIDY")
	}
	return c
}

// withoutNext are the tags of 5.13.2 and 5.15.0 that lack the next-generation compiler.
var withoutNext = []string{"5.13.2-rc1", "5.13.2-rc2", "5.13.2-rc3", "5.15.0-alpha1",
	"5.15.0-alpha9", "5.15.0-rc1", "5.15.0-rc2", "5.15.0-rc3", "5.15.0-rc4", "5.15.0-rc5",
	"5.15.0-rc6"}

// nextCompiler returns the next-generation compiler, or nil if the version has none. Release
// candidates of 5.13.2 and 5.15.0 and alphas of 5.15.0 have one.
func nextCompiler(v *semver.Version) *Compiler {
	if slices.Contains(withoutNext, v.String()) {
		return nil
	}
	v = core(v)
	from := func(s string) bool { return !v.LessThan(semver.MustParse(s)) }
	if !from("5.15.0") && (!from("5.13.2") || from("5.14.0")) {
		return nil
	}
	return &Compiler{
		Variant: NextGen, Mode: Workspace, Editions: []Edition{Standard, Enterprise, FIPS},
		Suffix: true, PluginID: true, PlatformArgs: true, CrossARM64: true, CrossS390X: true,
		Env: []string{"BUILD_TAG", "DEBUG", "EDITION", "FIPS", "GO_GET", "GO_TIDY",
			"PLUGIN_BUILD_METHOD", "PLUGIN_TRIMPATH", "VALIDATE"},
		Trimpath: true, GopluginTag: true, FetchesModules: true,
		Hosts: []string{"linux/amd64", "linux/arm64"}, Glibc: "2.17",
		Source: "github.com/TykTechnologies/tyk ci/images/plugin-compiler-ng at 1a0c59dbda93, " +
			"documentation of 2026-08-14",
	}
}
