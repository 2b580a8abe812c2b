package pluginbuild

import (
	"errors"
	"fmt"
	"go/version"
	"io/fs"
	"path"
	"slices"
	"strings"

	"golang.org/x/mod/modfile"
	"golang.org/x/mod/module"
	"golang.org/x/mod/semver"
)

// isCommit reports whether a version of the gateway's module is the release's.
func (c *checker) isCommit(v string) bool {
	rev, err := module.PseudoVersionRev(v)
	return err == nil && len(rev) >= 12 && strings.HasPrefix(c.r.Commit, rev)
}

// goMod checks go.mod.
func (c *checker) goMod() {
	mod, err := openGoMod(c.src)
	switch comp := c.r.Compiler; {
	case errors.Is(err, errNoGoMod) && comp.Mode == Workspace && comp.CreatesModule():
		c.add(SeverityWarning, "no-go-mod", "go.mod", "go mod init with the plugin's module path",
			"go.mod is missing; the compiler makes one with the newest versions of all dependencies")
		return
	case errors.Is(err, errNoGoMod):
		c.add(SeverityError, "no-go-mod", "go.mod", "go mod init with the plugin's module path",
			"go.mod is missing, and this release's commands need it")
		return
	case err != nil:
		c.add(SeverityError, "go-mod", "go.mod", "", "cannot read go.mod: %v", err)
		return
	}
	c.modulePath(mod)
	c.goVersion(mod)
	c.replaces(mod)
	c.dependencies(mod)
}

// lineOf names a line of go.mod.
func lineOf(line *modfile.Line) string {
	if line == nil {
		return "go.mod"
	}
	return fmt.Sprintf("go.mod:%d", line.Start.Line)
}

func (c *checker) modulePath(mod *modfile.File) {
	if mod.Module == nil {
		c.add(SeverityError, "module-path", "go.mod", "go mod edit -module=example.com/yourplugin",
			"go.mod has no module line")
		return
	}
	name := mod.Module.Mod.Path
	if first, _, _ := strings.Cut(name, "/"); !strings.Contains(first, ".") {
		c.add(SeverityWarning, "module-path", lineOf(mod.Module.Syntax),
			"go mod edit -module=example.com/"+path.Base(name)+", and change the imports of its packages",
			"the module path %q has no dot in its first element: Go reserves such paths for the "+
				"standard library and looks for the packages there", name)
	}
	if name == Module {
		c.add(SeverityError, "module-path", lineOf(mod.Module.Syntax),
			"give the plugin another module path", "the module path is the gateway's")
	}
	if !c.r.Compiler.RenamesModule {
		return
	}
	for _, pkg := range c.dirs {
		for _, i := range pkg.Imports {
			if strings.HasPrefix(i, name) && i != name && !strings.HasPrefix(i, name+"/") {
				c.add(SeverityWarning, "module-prefix", pkg.Dir, "rename the plugin's module",
					"with a plugin id the compiler's script replaces the text %q, and so breaks the import "+
						"of %q, which begins alike", name, i)
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
	if c.r.Compiler.Mode == GOPATH || c.r.Compiler.Variant == NextGen {
		// the compiler deletes or changes go.mod; the source may still be too new
		severity = SeverityWarning
	}
	if d := directive(mod); d != "" && !c.r.accepts(d) {
		reason := "newer than the compiler's known " + limit
		if version.Compare("go"+d, limit) <= 0 {
			reason = "in a form that Go before 1.21 refuses"
		}
		c.add(severity, "go-directive", lineOf(mod.Go.Syntax), "go mod edit -go="+c.r.Go, "go %s is %s",
			d, reason).Prepare = true
	}
	if mod.Toolchain != nil {
		name := mod.Toolchain.Name
		switch {
		case version.Compare(limit, modernGo) < 0:
			c.add(severity, "toolchain", lineOf(mod.Toolchain.Syntax), "go mod edit -toolchain=none",
				"the compiler's Go is older than 1.21 and refuses toolchain lines").Prepare = true
		case version.Compare(name, limit) > 0:
			c.add(severity, "toolchain", lineOf(mod.Toolchain.Syntax), "go mod edit -toolchain=none",
				"toolchain %s is newer than the compiler's known %s; a plugin built with another Go than the "+
					"gateway does not load", name, limit).Prepare = true
		}
	}
	if c.r.Compiler.Mode == GOPATH || c.r.Compiler.Variant == NextGen {
		return
	}
	newer := func(line *modfile.Line, verb, since string) {
		if version.Compare(version.Lang(limit), since) < 0 {
			c.add(SeverityError, "go-mod", lineOf(line), "remove the line for this release",
				"the directive %s came with %s; the compiler has %s and refuses it", verb, since, limit)
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
				"the replace of %s belongs to another gateway release; with it the plugin and this gateway "+
					"get different packages", p.Old).Prepare = true
			continue
		}
		switch {
		case m.Old.Path == Module:
			c.add(SeverityError, "replace", where, "go mod edit -dropreplace="+at(p.Old, p.OldVersion),
				"the gateway's module is replaced, so the plugin is not built against the release")
		case c.r.replaces(m.Old.Path):
			c.add(SeverityError, "replace", where, "go mod edit -dropreplace="+at(p.Old, p.OldVersion),
				"release %s replaces %s by %s; the compiler's workspace refuses a different replace, and "+
					"without a workspace the plugin does not load",
				c.r.Version, m.Old.Path, c.replacement(m.Old.Path))
		case c.gateway != nil && requires(c.gateway, m.Old.Path) != "":
			c.add(SeverityError, "replace", where, "go mod edit -dropreplace="+at(p.Old, p.OldVersion),
				"the gateway does not replace %s; a plugin that does so does not load", m.Old.Path)
		}
	}
	if requires(mod, Module) == "" || c.noGet {
		return // nothing needs them, or another finding covers it
	}
	for _, p := range c.r.Replaces {
		if !slices.ContainsFunc(mod.Replace,
			func(m *modfile.Replace) bool { return m.Old.Path == p.Old }) {
			c.add(SeverityWarning, "replace", "go.mod", "go mod edit -replace="+p.String(),
				"release %s replaces %s, and modules that require the gateway do not inherit replaces",
				c.r.Version, p.Old).Prepare = true
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
	case (path.IsAbs(target) || inside == ".." || strings.HasPrefix(inside, "../")) &&
		c.r.Path().vendors():
		c.add(SeverityInfo, "local-replace", where, "", "the replacement %s is outside the plugin's "+
			"directory, so the compiler gets it only through the vendor directory", target)
	case path.IsAbs(target) || inside == ".." || strings.HasPrefix(inside, "../"):
		c.add(SeverityError, "local-replace", where, "require a version that the compiler can fetch, "+
			"or move the directory into the plugin's",
			"the replacement %s is outside the plugin's directory, so the compiler does not have it",
			target)
	default:
		if _, err := fs.Stat(c.src, path.Join(inside, "go.mod")); err != nil {
			c.add(SeverityError, "local-replace", where, "", "the replacement %s has no go.mod", target)
		}
	}
}

// requires returns the version of a module that mod requires, or "".
func requires(mod *modfile.File, path string) string {
	for _, q := range mod.Require {
		if q.Mod.Path == path {
			return q.Mod.Version
		}
	}
	return ""
}

// imports reports whether any package of the plugin imports from a module.
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
		c.add(SeverityInfo, "gateway-module", "go.mod", "", "go.mod does not require the gateway's "+
			"module; the compiler's workspace supplies it")
	case v == "":
		c.add(SeverityError, "gateway-module", "go.mod", "go get "+Module+"@"+c.r.Commit,
			"the plugin imports the gateway's packages, but go.mod does not require them").Prepare = true
	case c.noGet:
		c.add(SeverityInfo, "gateway-module", "go.mod", "go mod edit -droprequire="+Module,
			"go.mod requires the gateway's module, which the compiler's workspace supplies").Prepare = true
	case !c.isCommit(v):
		c.add(SeverityError, "gateway-module", "go.mod", "go get "+Module+"@"+c.r.Commit,
			"go.mod requires the gateway's module at %s, which is not the commit of %s", v,
			c.r.Version).Prepare = true
	case c.r.Compiler.Mode == Workspace:
		c.add(SeverityInfo, "gateway-module", "go.mod", "to compile offline, leave out `go get`",
			"go.mod requires the gateway's module, so the compiler looks up that commit in a proxy or "+
				"repository, which fails offline")
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
				"%s %s is newer than the gateway's %s: the plugin compiles but does not load",
				q.Mod.Path, q.Mod.Version, has)
		case cmp > 0 && c.r.Compiler.Mode == GOPATH:
			c.add(SeverityWarning, "newer-dependency", lineOf(q.Syntax), remedy,
				"%s %s is newer than the gateway's %s, which the compiler uses", q.Mod.Path,
				q.Mod.Version, has)
		case cmp != 0 && c.r.Compiler.Mode == Vendor:
			c.add(SeverityError, "newer-dependency", lineOf(q.Syntax), remedy,
				"%s %s is not the gateway's %s: the plugin compiles but does not load",
				q.Mod.Path, q.Mod.Version, has)
		}
	}
}
