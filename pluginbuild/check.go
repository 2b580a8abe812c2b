package pluginbuild

import (
	"errors"
	"fmt"
	"go/build"
	"go/version"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"

	"golang.org/x/mod/modfile"
	"golang.org/x/mod/module"
	"golang.org/x/mod/semver"
)

// Severity says what a [Finding] means for the upgrade.
type Severity string

// From what is good to know to what stops the plugin from loading.
const (
	SeverityInfo    Severity = "info"
	SeverityWarning Severity = "warning"
	SeverityError   Severity = "error"
)

// Finding is something about a plugin module, or about the release that it is
// for, that matters to the build.
type Finding struct {
	Severity Severity `json:"severity"`
	Code     string   `json:"code"`              // stable name of the rule: "go-directive"
	Where    string   `json:"where,omitempty"`   // "go.mod:3", "main.go"
	Message  string   `json:"message"`           // what is the case, and what it leads to
	Remedy   string   `json:"remedy,omitempty"`  // what to do
	Prepare  bool     `json:"prepare,omitempty"` // [Prepare] puts it right
}

// Blocks says whether the plugin would not build or not load, even after
// [Prepare].
func (f Finding) Blocks() bool { return f.Severity == SeverityError && !f.Prepare }

// CheckOptions changes what is checked. The zero value is useful.
type CheckOptions struct {
	// GatewayMod is the release's own go.mod. With it, dependencies that are
	// newer than the gateway's are found: they compile and then fail to load.
	GatewayMod io.Reader
}

const (
	maxEntries = 20_000  // files and directories of a plugin, vendor not counted
	maxGoFile  = 8 << 20 // one source file
)

// CheckModule reads a plugin module and says what about it does not fit the
// release. It changes nothing and runs nothing. An error means that src could
// not be read; what is wrong with the module is a finding, the most severe
// first.
func CheckModule(src fs.FS, r Release, o CheckOptions) ([]Finding, error) {
	if err := r.Validate(); err != nil {
		return nil, fmt.Errorf("check module: %w", err)
	}
	c := &checker{src: src, r: r}
	if o.GatewayMod != nil {
		gateway, err := readGoMod(o.GatewayMod)
		if err != nil {
			return nil, fmt.Errorf("check module: the gateway's go.mod: %w", err)
		}
		c.gateway = gateway
	}
	c.release()
	if err := c.read(); err != nil {
		return nil, fmt.Errorf("check module: %w", err)
	}
	c.files()
	c.goMod()
	c.packages()
	slices.SortStableFunc(c.findings, func(a, b Finding) int { return rank(b.Severity) - rank(a.Severity) })
	return c.findings, nil
}

func rank(s Severity) int {
	return slices.Index([]Severity{SeverityInfo, SeverityWarning, SeverityError}, s)
}

type checker struct {
	src     fs.FS
	r       Release
	gateway *modfile.File

	root     []fs.DirEntry
	dirs     []*build.Package // every readable package of the module, the root's first
	findings []Finding
}

func (c *checker) add(s Severity, code, where, remedy, format string, a ...any) *Finding {
	c.findings = append(c.findings, Finding{Severity: s, Code: code, Where: where, Remedy: remedy, Message: fmt.Sprintf(format, a...)})
	return &c.findings[len(c.findings)-1]
}

// release passes on what is odd about the release itself.
func (c *checker) release() {
	s, remedy := SeverityWarning, ""
	if c.r.Broken {
		s, remedy = SeverityError, "choose the next release"
	}
	for _, n := range c.r.Notes {
		c.add(s, "release", c.r.Tag(), remedy, "%s", n)
	}
}

// read walks the module and parses its packages. What the go command would not
// look at is left out.
func (c *checker) read() error {
	var err error
	if c.root, err = fs.ReadDir(c.src, "."); err != nil {
		return err
	}
	ctx := c.context()
	entries := 0
	return fs.WalkDir(c.src, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entries++; entries > maxEntries {
			return fmt.Errorf("more than %d files; is this the plugin's own directory?", maxEntries)
		}
		if !d.IsDir() {
			return nil
		}
		if base := d.Name(); name != "." {
			if strings.HasPrefix(base, ".") || strings.HasPrefix(base, "_") || base == "testdata" || base == "vendor" {
				return fs.SkipDir
			}
			if _, err := fs.Stat(c.src, path.Join(name, "go.mod")); err == nil {
				return fs.SkipDir // a module of its own
			}
		}
		pkg, err := ctx.ImportDir(name, 0)
		var none *build.NoGoError
		var mixed *build.MultiplePackageError
		switch {
		case err == nil && len(pkg.GoFiles)+len(pkg.CgoFiles) > 0:
			c.dirs = append(c.dirs, pkg)
		case err == nil || errors.As(err, &none):
			if name == "." {
				c.add(SeverityError, "no-source", ".", "name the directory that holds the plugin's package main",
					"no Go file here takes part in a build for linux/amd64")
			}
		case errors.As(err, &mixed):
			c.add(SeverityError, "mixed-packages", name, "keep one package in one directory",
				"the files belong to packages %s", strings.Join(mixed.Packages, " and "))
		default:
			c.add(SeverityError, "syntax", name, "", "%v", err)
		}
		return nil
	})
}

// context reads packages out of c.src as the release's compiler would.
func (c *checker) context() build.Context {
	x := build.Context{
		GOOS: "linux", GOARCH: "amd64", Compiler: "gc", CgoEnabled: true,
		JoinPath:      path.Join,
		SplitPathList: func(s string) []string { return []string{s} },
		IsAbsPath:     path.IsAbs,
		IsDir: func(name string) bool {
			info, err := fs.Stat(c.src, name)
			return err == nil && info.IsDir()
		},
		HasSubdir: func(string, string) (string, bool) { return "", false },
		ReadDir: func(name string) ([]fs.FileInfo, error) {
			entries, err := fs.ReadDir(c.src, name)
			var infos []fs.FileInfo
			for _, e := range entries {
				// One that vanishes meanwhile is not there.
				if info, err := e.Info(); err == nil {
					infos = append(infos, info)
				}
			}
			return infos, err
		},
		OpenFile: func(name string) (io.ReadCloser, error) {
			f, err := c.src.Open(name)
			if err != nil {
				return nil, err
			}
			return boundedFile{io.LimitReader(f, maxGoFile), f}, nil
		},
	}
	if c.r.Compiler.GopluginTag {
		x.BuildTags = []string{"goplugin"}
	}
	for minor := 1; version.Compare(fmt.Sprintf("go1.%d", minor), version.Lang(c.r.goLimit())) <= 0; minor++ {
		x.ReleaseTags = append(x.ReleaseTags, fmt.Sprintf("go1.%d", minor))
	}
	return x
}

type boundedFile struct {
	io.Reader
	io.Closer
}

// files looks at what lies in the source root: the compiler's script copies
// src/* and builds there.
func (c *checker) files() {
	var so, dot []string
	hasVendor := false
	for _, e := range c.root {
		switch name := e.Name(); {
		case name == backupDir:
			if _, err := fs.Stat(c.src, path.Join(backupDir, journalName)); err == nil {
				c.add(SeverityError, "interrupted", name, "run Prepare or Recover again, which puts the module back as it was",
					"an earlier Prepare was interrupted; the module may be half changed").Prepare = true
			}
		case strings.HasPrefix(name, ".git"):
		case strings.HasPrefix(name, "."):
			dot = append(dot, name)
		case strings.HasSuffix(name, ".so"):
			so = append(so, name)
		case name == "go.work" && c.r.Compiler.Mode == Workspace:
			c.add(SeverityError, "go-work", name, "move it to a directory above the plugin",
				"the go command in the compiler finds this file before the workspace that the compiler makes, so the plugin is built without the gateway's modules")
		case name == "vendor" && e.IsDir():
			hasVendor = true
		}
	}
	if len(so) > 0 {
		c.add(SeverityWarning, "stray-so", list(so), "move them away, or let this package copy the source instead of mounting it",
			"the compiler's script copies every .so in, and from 5.2.4 on moves every .so back, owned by root")
	}
	if len(dot) > 0 {
		c.add(SeverityInfo, "dotfiles", list(dot), "", "files with a leading dot in the source root are not copied into the compiler")
	}
	c.vendor(hasVendor)
}

func list(names []string) string {
	if len(names) > 5 {
		return fmt.Sprintf("%s and %d more", strings.Join(names[:5], ", "), len(names)-5)
	}
	return strings.Join(names, ", ")
}

func (c *checker) vendor(has bool) {
	switch {
	case !c.r.Path().vendors():
		if has {
			c.add(SeverityWarning, "vendor", "vendor", "remove it, or keep it for the release that runs now",
				"from 5.1.0 on nothing builds from the vendor directory; as it does not match go.mod any more, builds outside the compiler fail")
		}
	case !has && c.r.Compiler.Mode == GOPATH:
		c.add(SeverityWarning, "vendor", "vendor", "go mod vendor",
			"there is no vendor directory; the compiler would have to make it, which needs the network and a go.mod that its old Go can read").Prepare = true
	case !has:
		c.add(SeverityError, "vendor", "vendor", "go mod vendor", "this release's compiler takes dependencies from the vendor directory, and there is none").Prepare = true
	default:
		if v := c.vendored(Module); v != "" && !c.isCommit(v) {
			c.add(SeverityError, "vendor", "vendor/modules.txt", "go mod vendor",
				"the vendor directory holds the gateway's module at %s, which is not the commit of %s", v, c.r.Version).Prepare = true
		}
	}
}

// vendored returns the version of a module in the vendor directory.
func (c *checker) vendored(path string) string {
	f, err := c.src.Open("vendor/modules.txt")
	if err != nil {
		return ""
	}
	defer func() { _ = f.Close() }()
	data, err := readBounded(f, maxGoFile)
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(data)) {
		if words := strings.Fields(line); len(words) >= 3 && words[0] == "#" && words[1] == path {
			return words[2]
		}
	}
	return ""
}

// isCommit says whether a version of the gateway's module is the release's.
func (c *checker) isCommit(v string) bool {
	rev, err := module.PseudoVersionRev(v)
	return err == nil && len(rev) >= 12 && strings.HasPrefix(c.r.Commit, rev)
}

// goMod looks at go.mod.
func (c *checker) goMod() {
	mod, err := openGoMod(c.src)
	switch comp := c.r.Compiler; {
	case errors.Is(err, errNoGoMod) && comp.Mode == Workspace && comp.RenamesModule:
		c.add(SeverityWarning, "no-go-mod", "go.mod", "go mod init with the plugin's module path",
			"the compiler makes a go.mod, with whatever versions are newest that day")
		return
	case errors.Is(err, errNoGoMod):
		c.add(SeverityError, "no-go-mod", "go.mod", "go mod init with the plugin's module path", "there is none, and this release's recipe needs it")
		return
	case err != nil:
		c.add(SeverityError, "go-mod", "go.mod", "", "it cannot be read: %v", err)
		return
	}
	c.modulePath(mod)
	c.goVersion(mod)
	c.replaces(mod)
	c.dependencies(mod)
}

func lineOf(line *modfile.Line) string {
	if line == nil {
		return "go.mod"
	}
	return fmt.Sprintf("go.mod:%d", line.Start.Line)
}

func (c *checker) modulePath(mod *modfile.File) {
	if mod.Module == nil {
		c.add(SeverityError, "module-path", "go.mod", "go mod edit -module=example.com/yourplugin", "it has no module line")
		return
	}
	name := mod.Module.Mod.Path
	if first, _, _ := strings.Cut(name, "/"); !strings.Contains(first, ".") {
		c.add(SeverityWarning, "module-path", lineOf(mod.Module.Syntax), "go mod edit -module=example.com/"+path.Base(name)+", and change the imports of its packages",
			"the module path %q has no dot in its first element: Go reserves such paths for its own packages and looks imports of them up there", name)
	}
	if name == Module {
		c.add(SeverityError, "module-path", lineOf(mod.Module.Syntax), "give the plugin a module path of its own", "the module path is the gateway's own")
	}
	if !c.r.Compiler.RenamesModule {
		return
	}
	for _, pkg := range c.dirs {
		for _, i := range pkg.Imports {
			if strings.HasPrefix(i, name) && i != name && !strings.HasPrefix(i, name+"/") {
				c.add(SeverityWarning, "module-prefix", pkg.Dir, "rename the plugin's module",
					"with a plugin id the compiler's script renames module %q by text, and would corrupt the import of %q, which begins alike", name, i)
			}
		}
	}
}

// goVersion finds what the compiler's Go cannot read.
func (c *checker) goVersion(mod *modfile.File) {
	if c.r.Go == "" && c.r.Compiler.Go == "" {
		return
	}
	limit := c.r.goLimit()
	severity := SeverityError
	if c.r.Compiler.Mode == GOPATH {
		severity = SeverityWarning // the compiler deletes go.mod; the source may still be too new
	}
	if d := directive(mod); d != "" && !c.r.accepts(d) {
		reason := "newer than the " + limit + " that the compiler is known to have"
		if version.Compare("go"+d, limit) <= 0 {
			reason = "written in a form that Go before 1.21 refuses"
		}
		c.add(severity, "go-directive", lineOf(mod.Go.Syntax), "go mod edit -go="+c.r.Go, "go %s is %s", d, reason).Prepare = true
	}
	if mod.Toolchain != nil {
		name := mod.Toolchain.Name
		switch {
		case version.Compare(limit, modernGo) < 0:
			c.add(severity, "toolchain", lineOf(mod.Toolchain.Syntax), "go mod edit -toolchain=none", "Go before 1.21, which the compiler has, refuses toolchain lines").Prepare = true
		case version.Compare(name, limit) > 0:
			c.add(severity, "toolchain", lineOf(mod.Toolchain.Syntax), "go mod edit -toolchain=none",
				"toolchain %s is newer than the %s that the compiler is known to have; a plugin built with another Go than the gateway does not load", name, limit).Prepare = true
		}
	}
	if c.r.Compiler.Mode == GOPATH {
		return
	}
	newer := func(line *modfile.Line, verb, since string) {
		if version.Compare(version.Lang(limit), since) < 0 {
			c.add(SeverityError, "go-mod", lineOf(line), "remove the line for this release", "the directive %s came with %s; the compiler has %s and refuses it", verb, since, limit)
		}
	}
	for _, x := range mod.Retract {
		newer(x.Syntax, "retract", "go1.16")
	}
	for _, x := range mod.Godebug {
		newer(x.Syntax, "godebug", "go1.23")
	}
	for _, x := range mod.Tool {
		newer(x.Syntax, "tool", "go1.24")
	}
	for _, x := range mod.Ignore {
		newer(x.Syntax, "ignore", "go1.25")
	}
}

// replaces compares the module's replace directives with the release's.
func (c *checker) replaces(mod *modfile.File) {
	stale := c.r.stale(mod)
	for _, m := range mod.Replace {
		p := Replace{m.Old.Path, m.Old.Version, m.New.Path, m.New.Version}
		where := lineOf(m.Syntax)
		switch {
		case m.New.Version == "":
			c.localReplace(where, m.New.Path)
		case slices.Contains(c.r.Replaces, p):
			continue
		case slices.Contains(stale, p):
			c.add(SeverityError, "replace", where, "go mod edit -dropreplace="+at(p.Old, p.OldVersion),
				"the replace of %s belongs to another release of the gateway; it would give this one's plugin other packages than the gateway has", p.Old).Prepare = true
			continue
		}
		switch {
		case m.Old.Path == Module:
			c.add(SeverityError, "replace", where, "go mod edit -dropreplace="+at(p.Old, p.OldVersion),
				"the gateway's own module is replaced, so the plugin is not built against the release")
		case c.r.replaces(m.Old.Path):
			c.add(SeverityError, "replace", where, "go mod edit -dropreplace="+at(p.Old, p.OldVersion),
				"release %s replaces %s by %s; the compiler's workspace refuses two different replaces, and without one the plugin does not load",
				c.r.Version, m.Old.Path, c.replacement(m.Old.Path))
		case c.gateway != nil && requires(c.gateway, m.Old.Path) != "":
			c.add(SeverityError, "replace", where, "go mod edit -dropreplace="+at(p.Old, p.OldVersion),
				"the gateway uses %s as it is; a plugin built with a replaced one does not load", m.Old.Path)
		}
	}
	if requires(mod, Module) == "" {
		return // nothing that needs them, or that is a finding of its own
	}
	for _, p := range c.r.Replaces {
		if !slices.ContainsFunc(mod.Replace, func(m *modfile.Replace) bool { return m.Old.Path == p.Old }) {
			c.add(SeverityWarning, "replace", "go.mod", "go mod edit -replace="+p.String(),
				"release %s replaces %s, and a module that requires the gateway does not inherit that", c.r.Version, p.Old).Prepare = true
		}
	}
}

func (c *checker) replacement(old string) string {
	for _, p := range c.r.Replaces {
		if p.Old == old {
			return at(p.New, p.NewVersion)
		}
	}
	return ""
}

func (c *checker) localReplace(where, target string) {
	inside := path.Clean(target)
	switch {
	case path.IsAbs(target) || inside == ".." || strings.HasPrefix(inside, "../"):
		c.add(SeverityError, "local-replace", where, "require a version that the compiler can fetch, or move the directory into the plugin's",
			"the replacement %s lies outside the plugin's directory, so the compiler does not have it", target)
	default:
		if _, err := fs.Stat(c.src, path.Join(inside, "go.mod")); err != nil {
			c.add(SeverityError, "local-replace", where, "", "the replacement %s has no go.mod", target)
		}
	}
}

// requires returns the version in which mod requires a module, "" for none.
func requires(mod *modfile.File, path string) string {
	for _, q := range mod.Require {
		if q.Mod.Path == path {
			return q.Mod.Version
		}
	}
	return ""
}

// imports says whether any package of the plugin imports from a module.
func (c *checker) imports(mod string) bool {
	for _, pkg := range c.dirs {
		for _, i := range pkg.Imports {
			if i == mod || strings.HasPrefix(i, mod+"/") {
				return true
			}
		}
	}
	return false
}

func (c *checker) dependencies(mod *modfile.File) {
	switch v := requires(mod, Module); {
	case v == "" && !c.imports(Module):
	case v == "" && c.r.Compiler.Mode == Workspace:
		c.add(SeverityInfo, "gateway-module", "go.mod", "", "the gateway's module is not required; the compiler's workspace supplies it")
	case v == "":
		c.add(SeverityError, "gateway-module", "go.mod", "go get "+Module+"@"+c.r.Commit, "the plugin imports the gateway's packages and go.mod does not require them").Prepare = true
	case !c.isCommit(v):
		c.add(SeverityError, "gateway-module", "go.mod", "go get "+Module+"@"+c.r.Commit,
			"the gateway's module is required at %s, which is not the commit of %s", v, c.r.Version).Prepare = true
	case c.r.Compiler.Mode == Workspace:
		c.add(SeverityInfo, "gateway-module", "go.mod", "leave `go get` out, from 5.1 on",
			"as go.mod requires the gateway's module, the compile looks that commit up in a proxy or repository, which fails offline")
	}
	if c.gateway == nil {
		return
	}
	for _, q := range mod.Require {
		has := requires(c.gateway, q.Mod.Path)
		if q.Mod.Path == Module || has == "" {
			continue
		}
		remedy := "go get " + q.Mod.Path + "@" + has
		switch cmp := semver.Compare(q.Mod.Version, has); {
		case cmp > 0 && c.r.Compiler.Mode == Workspace:
			c.add(SeverityError, "newer-dependency", lineOf(q.Syntax), remedy,
				"%s %s is newer than the gateway's %s: the plugin compiles with it and then does not load", q.Mod.Path, q.Mod.Version, has)
		case cmp > 0 && c.r.Compiler.Mode == GOPATH:
			c.add(SeverityWarning, "newer-dependency", lineOf(q.Syntax), remedy,
				"%s %s is newer than the gateway's %s, with which the compiler builds", q.Mod.Path, q.Mod.Version, has)
		case cmp != 0 && c.r.Compiler.Mode == Vendor:
			c.add(SeverityError, "newer-dependency", lineOf(q.Syntax), remedy,
				"%s %s is not the gateway's %s: the plugin compiles with its own and then does not load", q.Mod.Path, q.Mod.Version, has)
		}
	}
}
