package tykupgrade_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"example.com/tykupgrade/internal/lab"
)

// packages are the public ones by the name that the README uses.
var packages = map[string]string{
	"pluginbuild": "pluginbuild", "compiler": "pluginbuild/compiler", "preflight": "pluginbuild/preflight", "bundle": "bundle", "debpkg": "debpkg",
	"rollout": "debpkg/rollout", "backup": "backup", "redisdb": "backup/redisdb", "mongodb": "backup/mongodb", "hostfiles": "backup/hostfiles",
	"health": "health",
}

// Every Go line of the README stands in an Example, so that it compiles.
func TestReadmeCodeIsExamples(t *testing.T) {
	t.Parallel()
	known := map[string]bool{}
	for _, dir := range packages {
		for _, file := range glob(t, dir+"/*_test.go") {
			for line := range strings.Lines(read(t, file)) {
				known[code(line)] = true
			}
		}
	}
	blocks := regexp.MustCompile("(?s)```go\n(.*?)```").FindAllStringSubmatch(read(t, "README.md"), -1)
	if len(blocks) == 0 {
		t.Error("no Go block was found")
	}
	for _, b := range blocks {
		for line := range strings.Lines(b[1]) {
			if c := code(line); c != "" && !known[c] {
				t.Errorf("no test file has the README's line:\n%s", line)
			}
		}
	}
}

var comment = regexp.MustCompile(`(^|\s+)// .*$`)

func code(line string) string {
	return strings.TrimSpace(comment.ReplaceAllString(strings.TrimSpace(line), ""))
}

// Every name like bundle.Write in the README is exported by that package.
func TestReadmeNamesExist(t *testing.T) {
	t.Parallel()
	names := map[string]map[string]bool{}
	for name, dir := range packages {
		names[name] = exported(t, dir)
	}
	all := map[string]bool{}
	for _, set := range names {
		maps.Copy(all, set)
	}
	for _, doc := range []string{"README.md", "doc.go", "CONTRIBUTING.md"} {
		for _, m := range regexp.MustCompile("`([a-zA-Z]+)\\.([A-Z][A-Za-z]*)`").FindAllStringSubmatch(read(t, doc), -1) {
			set, isPackage := names[m[1]]
			switch {
			case isPackage && !set[m[2]]:
				t.Errorf("%s names %s.%s, which does not exist", doc, m[1], m[2])
			case m[1] != strings.ToLower(m[1]) && !all[m[1]+"."+m[2]]:
				t.Errorf("%s names the method or field %s.%s, which does not exist", doc, m[1], m[2])
			}
		}
	}
}

// exported returns the package's exported names; methods and fields as T.Name.
func exported(t *testing.T, dir string) map[string]bool {
	t.Helper()
	set := map[string]bool{}
	for _, file := range glob(t, dir+"/*.go") {
		f, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(f, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.FuncDecl:
				name := n.Name.Name
				if n.Recv != nil {
					recv := n.Recv.List[0].Type
					if star, ok := recv.(*ast.StarExpr); ok {
						recv = star.X
					}
					if id, ok := recv.(*ast.Ident); ok {
						name = id.Name + "." + name
					}
				}
				set[name] = true
				return false
			case *ast.TypeSpec:
				set[n.Name.Name] = true
				if s, ok := n.Type.(*ast.StructType); ok {
					for _, field := range s.Fields.List {
						for _, id := range field.Names {
							set[n.Name.Name+"."+id.Name] = true
						}
					}
				}
			case *ast.ValueSpec:
				for _, id := range n.Names {
					set[id.Name] = true
				}
			}
			return true
		})
	}
	return set
}

// Links to files of the repository lead somewhere.
func TestReadmeLinks(t *testing.T) {
	t.Parallel()
	for _, doc := range []string{"README.md", "CONTRIBUTING.md", "CHANGELOG.md"} {
		for _, m := range regexp.MustCompile(`\]\(([^)#]+)[^)]*\)`).FindAllStringSubmatch(read(t, doc), -1) {
			if strings.HasPrefix(m[1], "https://") {
				continue
			}
			if _, err := os.Stat(m[1]); err != nil {
				t.Errorf("%s links to %s: %v", doc, m[1], err)
			}
		}
		for _, m := range regexp.MustCompile(`\]\(#([^)]+)\)`).FindAllStringSubmatch(read(t, doc), -1) {
			if !anchors(read(t, doc))[m[1]] {
				t.Errorf("%s links to #%s, which is no heading", doc, m[1])
			}
		}
	}
	for _, m := range regexp.MustCompile(`\./(examples/[a-z]+)`).FindAllStringSubmatch(read(t, "README.md"), -1) {
		if _, err := os.Stat(m[1]); err != nil {
			t.Errorf("the README names the command %s: %v", m[1], err)
		}
	}
}

// anchors are the headings as they stand in links: in lower case, with hyphens
// for spaces and without other signs.
func anchors(text string) map[string]bool {
	set := map[string]bool{}
	for _, m := range regexp.MustCompile(`(?m)^#+ (.+)$`).FindAllStringSubmatch(text, -1) {
		set[regexp.MustCompile(`[^a-z0-9-]`).ReplaceAllString(strings.ReplaceAll(strings.ToLower(m[1]), " ", "-"), "")] = true
	}
	return set
}

// A module elsewhere imports packages over a replace line, as the README says.
func TestImportedElsewhere(t *testing.T) {
	t.Parallel()
	root, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for name, text := range map[string]string{
		"go.sum": read(t, "go.sum"),
		"go.mod": "module example.org/tool\n\ngo 1.26\n",
		"main.go": `package main

import (
	"fmt"

	"example.com/tykupgrade/bundle"
	"example.com/tykupgrade/health"
)

func main() {
	v, err := health.ParseVersion("5.2.5")
	if err != nil {
		panic(err)
	}
	r, err := bundle.Resolve("plugin.so", bundle.Loader{Gateway: v}, []string{"plugin.so", "plugin_v5.2.5_linux_amd64.so"})
	fmt.Print(r.File, err)
}
`} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var out []byte
	for _, args := range [][]string{
		{"mod", "edit", "-require", "example.com/tykupgrade@v0.1.0", "-replace", "example.com/tykupgrade=" + root},
		{"run", "-mod=mod", "."},
	} {
		cmd := exec.CommandContext(t.Context(), "go", args...)
		cmd.Dir, cmd.Env = dir, lab.GoEnv("GOPROXY=off")
		if out, err = cmd.CombinedOutput(); err != nil {
			t.Fatalf("go %s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}
	if want := "plugin_v5.2.5_linux_amd64.so<nil>"; string(out) != want {
		t.Errorf("got %q, want %q", out, want)
	}
}

func read(t *testing.T, file string) string {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func glob(t *testing.T, pattern string) []string {
	t.Helper()
	files, err := filepath.Glob(pattern)
	if err != nil || len(files) == 0 {
		t.Fatalf("%s: no files, %v", pattern, err)
	}
	slices.Sort(files)
	return files
}
