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
)

// Severity is how much a [Finding] affects the upgrade.
type Severity string

// The severities.
const (
	SeverityInfo    Severity = "info"
	SeverityWarning Severity = "warning"
	SeverityError   Severity = "error" // the plugin does not build or does not load
)

// Finding is a fact about a plugin module or its release that matters to the build.
type Finding struct {
	Severity Severity `json:"severity"`
	Code     string   `json:"code"`              // stable name of the rule: "go-directive"
	Where    string   `json:"where,omitempty"`   // "go.mod:3", "main.go"
	Message  string   `json:"message"`           // the fact and its effect
	Remedy   string   `json:"remedy,omitempty"`  // what to do
	Prepare  bool     `json:"prepare,omitempty"` // [Prepare] fixes it
}

// Blocks reports whether the plugin fails to build or load even after [Prepare].
func (f Finding) Blocks() bool { return f.Severity == SeverityError && !f.Prepare }

// CheckOptions configures [CheckModule]. The zero value is useful.
type CheckOptions struct {
	// GatewayMod is the release's own go.mod. With it, CheckModule finds dependencies that are
	// newer than the gateway's: they compile but fail to load. It sees only dependencies in the
	// plugin's go.mod. From go 1.17 on these are all, after `go mod tidy`.
	GatewayMod io.Reader

	// NoGet is as in [CommandOptions]. It decides which findings [Prepare] fixes.
	NoGet bool
}

const (
	maxEntries = 20_000  // files and directories of a plugin, vendor not counted
	maxGoFile  = 8 << 20 // one source file
)

// CheckModule compares a plugin module with a release. It returns findings, the most severe
// first. It changes nothing and runs no program. An error means that src cannot be read or that
// r is invalid; a fault of the module is a finding.
func CheckModule(src fs.FS, r Release, o CheckOptions) ([]Finding, error) {
	if err := r.Validate(); err != nil {
		return nil, fmt.Errorf("check module: %w", err)
	}
	if src == nil {
		return nil, errors.New("check module: no file system given; use os.DirFS for a directory")
	}
	c := &checker{src: src, r: r, noGet: o.NoGet && r.Compiler.Mode == Workspace}
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
	slices.SortStableFunc(c.findings, func(a, b Finding) int {
		return rank(b.Severity) - rank(
			a.Severity)
	})
	return c.findings, nil
}

func rank(s Severity) int {
	return slices.Index([]Severity{SeverityInfo, SeverityWarning, SeverityError}, s)
}

// workFile in the plugin's root hides the workspace of plugin and gateway that compilers from
// 5.1.0 on make. Earlier compilers do not read it.
const workFile = "go.work"

type checker struct {
	src     fs.FS
	r       Release
	gateway *modfile.File
	noGet   bool

	root     []fs.DirEntry
	dirs     []*build.Package // every readable package of the module, the root's first
	findings []Finding
}

func (c *checker) add(s Severity, code, where, remedy, format string, a ...any) *Finding {
	c.findings = append(c.findings, Finding{Severity: s, Code: code, Where: where, Remedy: remedy,
		Message: fmt.Sprintf(format, a...)})
	return &c.findings[len(c.findings)-1]
}

// release adds the notes on the release itself.
func (c *checker) release() {
	s, remedy := SeverityWarning, ""
	if c.r.Broken {
		s, remedy = SeverityError, "choose the next release"
	}
	for _, n := range c.r.Notes {
		c.add(s, "release", c.r.Tag(), remedy, "%s", n)
	}
}

// read walks the module and parses its packages. It skips what the go command
// ignores.
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
			return fmt.Errorf("more than %d files; name the plugin's own directory", maxEntries)
		}
		if !d.IsDir() {
			return nil
		}
		if base := d.Name(); name != "." {
			if strings.HasPrefix(base, ".") || strings.HasPrefix(base, "_") || base == "testdata" ||
				base == "vendor" {
				return fs.SkipDir
			}
			if _, err := fs.Stat(c.src, path.Join(name, "go.mod")); err == nil {
				return fs.SkipDir // another module
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
				c.add(SeverityError, "no-source", ".", "name the directory with the plugin's package main",
					"no Go file here is part of a build for linux/amd64")
			}
		case errors.As(err, &mixed):
			c.add(SeverityError, "mixed-packages", name, "keep one package in one directory",
				"the files belong to packages %s", strings.Join(mixed.Packages, " and "))
		default:
			c.add(SeverityError, "syntax", name, "fix the file, or move it away", "%v", err)
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
				// A file that vanishes meanwhile does not count.
				if info, err := e.Info(); err == nil {
					infos = append(infos, info)
				}
			}
			return infos, err
		},
		OpenFile: func(name string) (io.ReadCloser, error) {
			f, err := openRegular(c.src, name)
			if err != nil {
				return nil, err
			}
			return boundedFile{io.LimitReader(f, maxGoFile), f}, nil
		},
	}
	if c.r.Compiler.GopluginTag {
		x.BuildTags = []string{"goplugin"}
	}
	for minor := 1; version.Compare(fmt.Sprintf("go1.%d", minor),
		version.Lang(c.r.goLimit())) <= 0; minor++ {
		x.ReleaseTags = append(x.ReleaseTags, fmt.Sprintf("go1.%d", minor))
	}
	return x
}

type boundedFile struct {
	io.Reader
	io.Closer
}

// files checks the source root. The compiler's script copies src/* and builds the copy.
func (c *checker) files() {
	var so, dot []string
	hasVendor := false
	for _, e := range c.root {
		switch name := e.Name(); {
		case name == backupDir:
			if _, err := fs.Stat(c.src, path.Join(backupDir, journalName)); err == nil {
				c.add(SeverityError, "interrupted", name, "run Prepare or Recover, which restore the module",
					"an earlier Prepare was interrupted; the module may be half changed").Prepare = true
			}
		case strings.HasPrefix(name, ".git"):
		case strings.HasPrefix(name, "."):
			dot = append(dot, name)
		case strings.HasSuffix(name, ".so"):
			so = append(so, name)
		case name == workFile && c.r.Compiler.Mode == Workspace:
			c.add(SeverityWarning, "go-work", name, "move it to a directory above the plugin, or let this "+
				"package copy the source instead of mounting it",
				"the compiler's script copies this file, and the go command uses it instead of the script's "+
					"own workspace, so the plugin is built without the gateway's modules")
		case name == "vendor" && e.IsDir():
			hasVendor = true
		}
	}
	if len(so) > 0 {
		c.add(SeverityWarning, "stray-so", list(so), "move them away, or let this package copy the "+
			"source instead of mounting it",
			"the compiler's script also copies every .so, and from 5.2.4 on moves every .so back, "+
				"owned by root")
	}
	if len(dot) > 0 && c.r.Compiler.Variant != NextGen {
		c.add(SeverityInfo, "dotfiles", list(dot), "", "files with a leading dot in the source root "+
			"are not copied into the compiler")
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
				"from 5.1.0 on the compiler ignores the vendor directory; it no longer matches go.mod, so "+
					"builds outside the compiler fail")
		}
	case !has && c.r.Compiler.Mode == GOPATH:
		c.add(SeverityWarning, "vendor", "vendor", "go mod vendor",
			"the vendor directory is missing; the compiler would make it, which needs the network and a "+
				"go.mod that its old Go can read").Prepare = true
	case !has:
		c.add(SeverityError, "vendor", "vendor", "go mod vendor",
			"the vendor directory is missing; this release's compiler takes dependencies from it").
			Prepare = true
	default:
		if v := c.vendored(Module); v != "" && !c.isCommit(v) {
			c.add(SeverityError, "vendor", "vendor/modules.txt", "go mod vendor",
				"the vendor directory has the gateway's module at %s, which is not the commit of %s", v,
				c.r.Version).Prepare = true
		}
	}
}

// vendored returns the version of a module in the vendor directory.
func (c *checker) vendored(path string) string {
	data, err := readRegular(c.src, "vendor/modules.txt", maxGoFile)
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
