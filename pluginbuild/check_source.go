package pluginbuild

import (
	"fmt"
	"go/ast"
	"go/build"
	"go/parser"
	"go/token"
	"go/version"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"
	"unicode"
)

// packages checks the Go source.
func (c *checker) packages() {
	for _, pkg := range c.dirs {
		if len(pkg.CgoFiles) > 0 {
			c.add(SeverityWarning, "cgo", path.Join(pkg.Dir, pkg.CgoFiles[0]),
				"make sure that the compiler image has the C libraries for the target's architecture",
				"package %s uses cgo", pkg.Name)
		}
		c.embeds(pkg)
		c.standard(pkg)
		c.newer(pkg)
	}
	if len(c.dirs) == 0 || c.dirs[0].Dir != "." {
		return // the walk has reported the fault of the source root
	}
	root := c.dirs[0]
	if root.Name != "main" {
		c.add(SeverityError, "not-main", where(root), "write `package main`; a func main is not needed",
			"the source root holds package %s", root.Name)
	}
	c.hooks(root)
}

// where returns the path of the first file of a package.
func where(pkg *build.Package) string {
	if files := slices.Concat(pkg.GoFiles, pkg.CgoFiles); len(files) > 0 {
		return path.Join(pkg.Dir, files[0])
	}
	return pkg.Dir
}

// embeds finds //go:embed targets that do not reach the compiler. Its script copies src/*, which
// skips names with a leading dot in the source root.
func (c *checker) embeds(pkg *build.Package) {
	for _, pattern := range pkg.EmbedPatterns {
		target := path.Join(pkg.Dir, strings.TrimPrefix(pattern, "all:"))
		in := where(pkg)
		if pos := pkg.EmbedPatternPos[pattern]; len(pos) > 0 {
			in = fmt.Sprintf("%s:%d", pos[0].Filename, pos[0].Line)
		}
		matches, err := fs.Glob(c.src, target)
		if err != nil || len(matches) == 0 {
			c.add(SeverityError, "embed", in, "", "//go:embed %s matches nothing", pattern)
			continue
		}
		for _, m := range matches {
			if strings.HasPrefix(m, ".") && m != "." && c.r.Compiler.Variant != NextGen {
				c.add(SeverityError, "embed", in, "rename the file, or move it into a directory",
					"//go:embed %s needs %s, but the compiler's script does not copy names with a leading "+
						"dot", pattern, m)
				break
			}
		}
	}
}

// newPackages maps packages of the standard library that plugins may use to the first Go that
// has them.
var newPackages = map[string]string{
	"embed": "go1.16", "io/fs": "go1.16", "net/netip": "go1.18",
	"slices": "go1.21", "maps": "go1.21", "cmp": "go1.21", "log/slog": "go1.21",
	"math/rand/v2": "go1.22", "iter": "go1.23", "unique": "go1.23", "weak": "go1.24",
}

// standard finds imports of packages that the compiler's Go does not have yet.
func (c *checker) standard(pkg *build.Package) {
	limit := version.Lang(c.r.goLimit())
	for _, i := range pkg.Imports {
		if since := newPackages[i]; since != "" && version.Compare(limit, since) < 0 {
			pos := pkg.ImportPos[i][0]
			c.add(SeverityError, "new-package", fmt.Sprintf("%s:%d", pos.Filename, pos.Line),
				"use another package for this release",
				"package %s needs %s, but the compiler has %s", i, since, limit)
		}
	}
}

// hookKinds maps the signatures of hooks to their kinds. At load time the gateway refuses other
// signatures, methods and variables.
var hookKinds = map[string]string{
	"(net/http.ResponseWriter, *net/http.Request)":                     "request",
	"(net/http.ResponseWriter, *net/http.Response, *net/http.Request)": "response",
	"(*github.com/TykTechnologies/tyk-pump/analytics.AnalyticsRecord)": "analytics",
}

// hooks lists the exported functions that the gateway can call.
func (c *checker) hooks(root *build.Package) {
	scan := &hookScan{aliases: map[string]aliasOf{}}
	for _, name := range slices.Concat(root.GoFiles, root.CgoFiles) {
		data, err := readRegular(c.src, name, maxGoFile)
		if err != nil {
			continue // the walk has reported it
		}
		if f, err := parser.ParseFile(scan.fset(), name, data, parser.SkipObjectResolution); err == nil {
			scan.add(f)
		}
	}
	found, unsure := scan.hooks()
	for _, h := range found {
		c.add(SeverityInfo, "hook", h.where, "", "%s has the signature of a %s hook", h.name, h.kind)
	}
	switch {
	case len(found) > 0:
	case len(unsure) > 0:
		c.add(SeverityWarning, "no-hook", unsure[0].where, "compare its signature with those of "+
			"request, response and analytics hooks",
			"no exported function certainly has a hook's signature; %s may have one, through types of "+
				"other packages", unsure[0].name)
	case len(scan.lower) > 0:
		h := scan.lower[0]
		c.add(SeverityError, "no-hook", h.where, "rename it to "+exported(h.name)+
			", here and in the manifest",
			"%s has the signature of a %s hook, but is not exported: its name begins with a lower-case "+
				"letter", h.name, h.kind)
	default:
		c.add(SeverityError, "no-hook", where(root),
			"export func Name(http.ResponseWriter, *http.Request), or a response or analytics "+
				"hook's signature",
			"no exported function has a signature that the gateway can call")
	}
}

// hookScan reads signatures from the syntax alone, because the gateway's packages may be missing.
type hookScan struct {
	set     *token.FileSet
	funcs   []scanned
	lower   []hook             // functions that lack only an exported name
	aliases map[string]aliasOf // of this package
}

type scanned struct {
	decl    *ast.FuncDecl
	imports map[string]string // local name to path
}

type aliasOf struct {
	typ     ast.Expr
	imports map[string]string
}

type hook struct{ name, kind, where string }

func (s *hookScan) fset() *token.FileSet {
	if s.set == nil {
		s.set = token.NewFileSet()
	}
	return s.set
}

func (s *hookScan) add(f *ast.File) {
	imports := map[string]string{}
	for _, i := range f.Imports {
		p, err := strconv.Unquote(i.Path.Value)
		if err != nil {
			continue
		}
		name := path.Base(p)
		if i.Name != nil {
			name = i.Name.Name
		}
		imports[name] = p
	}
	for _, d := range f.Decls {
		switch d := d.(type) {
		case *ast.FuncDecl:
			if d.Recv == nil {
				s.funcs = append(s.funcs, scanned{d, imports})
			}
		case *ast.GenDecl:
			for _, spec := range d.Specs {
				if t, ok := spec.(*ast.TypeSpec); ok && t.Assign.IsValid() && t.TypeParams == nil {
					s.aliases[t.Name.Name] = aliasOf{t.Type, imports}
				}
			}
		}
	}
}

// hooks returns the functions that fit a kind, and those that may fit because the compiler alone
// knows a type.
func (s *hookScan) hooks() (found, unsure []hook) {
	for _, f := range s.funcs {
		t := f.decl.Type
		if t.TypeParams != nil || t.Results.NumFields() > 0 || t.Params.NumFields() == 0 ||
			t.Params.NumFields() > 3 {
			continue
		}
		var params []string
		for _, p := range t.Params.List {
			name := s.typeName(p.Type, f.imports, 0)
			for range max(1, len(p.Names)) {
				params = append(params, name)
			}
		}
		h := hook{name: f.decl.Name.Name, where: s.position(f.decl)}
		h.kind = hookKinds["("+strings.Join(params, ", ")+")"]
		switch {
		case !f.decl.Name.IsExported():
			if h.kind != "" {
				s.lower = append(s.lower, h)
			}
		case h.kind != "":
			found = append(found, h)
		case slices.ContainsFunc(params, func(p string) bool { return strings.Contains(p, "?") }):
			unsure = append(unsure, h)
		}
	}
	return found, unsure
}

// exported returns the name with a capital letter first.
func exported(name string) string {
	runes := []rune(strings.TrimLeft(name, "_"))
	if len(runes) == 0 {
		return "Hook"
	}
	runes[0] = unicode.ToUpper(runes[0])
	return string(runes)
}

func (s *hookScan) position(n ast.Node) string {
	p := s.fset().Position(n.Pos())
	return fmt.Sprintf("%s:%d", p.Filename, p.Line)
}

// wellKnown are packages without aliases of a hook's types, so their type names are certain.
var wellKnown = []string{"net/http", "github.com/TykTechnologies/tyk-pump/analytics"}

// typeName returns a type with full import paths. It marks a name that may mean another type
// with a question mark.
func (s *hookScan) typeName(e ast.Expr, imports map[string]string, depth int) string {
	if depth > 10 {
		return "?" // aliases in a circle
	}
	switch e := e.(type) {
	case *ast.StarExpr:
		return "*" + s.typeName(e.X, imports, depth+1)
	case *ast.ParenExpr:
		return s.typeName(e.X, imports, depth+1)
	case *ast.SelectorExpr:
		pkg, ok := e.X.(*ast.Ident)
		if !ok {
			return "?"
		}
		p := imports[pkg.Name]
		if !slices.Contains(wellKnown, p) {
			if first, _, _ := strings.Cut(p, "/"); p != "" && !strings.Contains(first, ".") {
				return p + "." + e.Sel.Name // the standard library
			}
			return "?" + p + "." + e.Sel.Name
		}
		return p + "." + e.Sel.Name
	case *ast.Ident:
		if a, ok := s.aliases[e.Name]; ok {
			return s.typeName(a.typ, a.imports, depth+1)
		}
		if dot := imports["."]; dot != "" && e.IsExported() {
			return dot + "." + e.Name
		}
		return e.Name
	}
	return "other" // slices, maps, functions: no hook has them
}
