package pluginbuild

import (
	_ "embed"
	"fmt"
	"go/ast"
	"go/build"
	"go/parser"
	"go/token"
	"go/types"
	"go/version"
	"path"
	"slices"
	"strings"
	"sync"

	"example.com/tykupgrade/internal/lazyregexp"
)

// stdAPI lists the package-level names of the standard library by their first Go, in lines such
// as "errors 1.20 Join". A test writes stdapi.txt from the api directory of a Go distribution.
//
//go:embed stdapi.txt
var stdAPI string

// newNames maps "errors.Join" to "go1.20".
var newNames = sync.OnceValue(func() map[string]string {
	names := map[string]string{}
	for line := range strings.Lines(stdAPI) {
		words := strings.Fields(line)
		for _, name := range words[2:] {
			names[words[0]+"."+name] = "go" + words[1]
		}
	}
	return names
})

// requiresGo matches the message of go/types (1.21 to 1.26) about code that is newer than the
// language version.
var requiresGo = lazyregexp.New(`^(.*?)[:,]? ?requires? (go1\.[0-9]+) or later`)

// newer finds syntax and names of the standard library that the compiler's Go does not have.
func (c *checker) newer(pkg *build.Package) {
	if c.r.Go == "" && c.r.Compiler.Go == "" {
		return
	}
	limit := version.Lang(c.r.goLimit())
	set := token.NewFileSet()
	var files []*ast.File
	for _, name := range slices.Concat(pkg.GoFiles, pkg.CgoFiles) {
		data, err := readRegular(c.src, path.Join(pkg.Dir, name), maxGoFile)
		if err != nil {
			return // the walk has reported it
		}
		f, err := parser.ParseFile(set, path.Join(pkg.Dir, name), data, parser.SkipObjectResolution)
		if err != nil {
			return
		}
		files = append(files, f)
	}
	at := func(p token.Pos) string {
		pos := set.Position(p)
		return fmt.Sprintf("%s:%d", pos.Filename, pos.Line)
	}
	seen := map[string]bool{}
	language := c.language()
	info := &types.Info{Uses: map[*ast.Ident]types.Object{}}
	conf := types.Config{
		GoVersion: language, FakeImportC: true, Importer: emptyImporter{},
		Error: func(err error) {
			e, ok := err.(types.Error)
			if !ok {
				return
			}
			m := requiresGo.FindStringSubmatch(e.Msg)
			if m == nil || seen[m[1]] {
				return
			}
			seen[m[1]] = true
			c.add(SeverityError, "new-language", at(e.Pos), "write it for "+language+
				", or compile for a newer release",
				"%s needs %s, but the release's compiler reads %s", m[1], m[2], language)
		},
	}
	// Most errors are about missing packages.
	_, _ = conf.Check(pkg.ImportPath, set, files, info)
	for _, f := range files {
		ast.Inspect(f, func(n ast.Node) bool {
			s, ok := n.(*ast.SelectorExpr)
			if !ok {
				return true
			}
			x, ok := s.X.(*ast.Ident)
			if !ok {
				return true
			}
			p, ok := info.Uses[x].(*types.PkgName)
			if !ok {
				return true
			}
			name := p.Imported().Path() + "." + s.Sel.Name
			if since := newNames()[name]; since != "" && version.Compare(limit, since) < 0 && !seen[name] &&
				newPackages[p.Imported().Path()] == "" {
				seen[name] = true
				c.add(SeverityError, "new-api", at(s.Pos()), "use another function for this release",
					"%s needs %s, but the compiler has %s", name, since, limit)
			}
			return true
		})
	}
}

// language returns the language version of the source for the compiler. It is that of go.mod
// after [Prepare], or the compiler's own.
func (c *checker) language() string {
	limit := version.Lang(c.r.goLimit())
	mod, err := openGoMod(c.src)
	if err != nil || c.r.Compiler.Mode == GOPATH || c.r.Compiler.Variant == NextGen {
		return limit
	}
	switch d := directive(mod); {
	case d != "" && c.r.accepts(d):
		return version.Lang("go" + d)
	case c.r.Go != "":
		return version.Lang("go" + c.r.Go)
	}
	return limit
}

// emptyImporter returns empty packages. The gateway's may be missing, and a package's name is
// enough.
type emptyImporter struct{}

func (emptyImporter) Import(p string) (*types.Package, error) {
	if p == "unsafe" {
		return types.Unsafe, nil
	}
	pkg := types.NewPackage(p, path.Base(strings.TrimSuffix(p, "/v2")))
	pkg.MarkComplete()
	return pkg, nil
}
