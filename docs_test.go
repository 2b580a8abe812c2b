package tykupgrade_test

import (
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"example.com/tykupgrade/internal/lab"
)

var update = flag.Bool("update", false, "rewrite the tables that are generated from the code")

// documents are all Markdown files of the project.
func documents(t *testing.T) []string {
	t.Helper()
	return append(glob(t, "*.md"), glob(t, "docs/*.md")...)
}

// packages maps a package's name to its directory: every public one.
func packages(t *testing.T) map[string]string {
	t.Helper()
	set := map[string]string{}
	for _, pattern := range []string{"*", "*/*", "*/*/*"} {
		for _, dir := range glob(t, pattern) {
			top, _, _ := strings.Cut(dir, string(filepath.Separator))
			if !slices.Contains([]string{"pluginbuild", "bundle", "debpkg", "backup", "health"}, top) ||
				strings.Contains(dir, "internal") || strings.Contains(dir, "testdata") {
				continue
			}
			if files, _ := filepath.Glob(dir + "/*.go"); len(files) > 0 {
				set[filepath.Base(dir)] = dir
			}
		}
	}
	return set
}

// Every Go line of the documents is in an Example, so that it compiles.
func TestCodeIsExamples(t *testing.T) {
	t.Parallel()
	known := map[string]bool{}
	for _, dir := range append(slices.Collect(maps.Values(packages(t))), ".") {
		files, _ := filepath.Glob(dir + "/*_test.go")
		for _, file := range files {
			for line := range strings.Lines(read(t, file)) {
				known[code(line)] = true
			}
		}
	}
	for _, doc := range documents(t) {
		for _, b := range regexp.MustCompile("(?s)```go\n(.*?)```").FindAllStringSubmatch(read(t, doc),
			-1) {
			for line := range strings.Lines(b[1]) {
				if c := code(line); c != "" && !known[c] {
					t.Errorf("%s: no test file has the line:\n%s", doc, line)
				}
			}
		}
	}
}

var comment = regexp.MustCompile(`(^|\s+)// .*$`)

func code(line string) string {
	if !strings.Contains(line, "// ") { // most lines, and the expression is slow
		return strings.TrimSpace(line)
	}
	return strings.TrimSpace(comment.ReplaceAllString(strings.TrimSpace(line), ""))
}

// Every name like bundle.Write in the documents is exported by that package.
func TestNamesExist(t *testing.T) {
	t.Parallel()
	names := map[string]map[string]bool{}
	for name, dir := range packages(t) {
		names[name] = exported(t, dir)
	}
	for _, doc := range append(documents(t), "doc.go") {
		if doc == "CHANGELOG.md" { // names what is gone
			continue
		}
		for _, m := range regexp.MustCompile("`([a-z]+)\\.([A-Z][A-Za-z]*(?:\\.[A-Z][A-Za-z]*)?)`").
			FindAllStringSubmatch(read(t, doc), -1) {
			if set, isPackage := names[m[1]]; isPackage && !set[m[2]] {
				t.Errorf("%s names %s.%s, which does not exist", doc, m[1], m[2])
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

// Links inside the repository lead somewhere; so do anchors and commands.
func TestLinks(t *testing.T) {
	t.Parallel()
	for _, doc := range documents(t) {
		text := read(t, doc)
		for _, m := range regexp.MustCompile(`\]\(([^)\s]+)\)`).FindAllStringSubmatch(text, -1) {
			link, anchor, _ := strings.Cut(m[1], "#")
			if strings.HasPrefix(link, "https://") {
				continue
			}
			target := doc
			if link != "" {
				target = filepath.Join(filepath.Dir(doc), link)
			}
			info, err := os.Stat(target)
			if err != nil {
				t.Errorf("%s links to %s: %v", doc, m[1], err)
			} else if anchor != "" && !info.IsDir() && !anchors(read(t, target))[anchor] {
				t.Errorf("%s links to %s, which is no heading", doc, m[1])
			}
		}
		for _, m := range regexp.MustCompile(`\./(examples/[a-z]+)`).FindAllStringSubmatch(text, -1) {
			if _, err := os.Stat(m[1]); err != nil {
				t.Errorf("%s names the command %s: %v", doc, m[1], err)
			}
		}
	}
}

// anchors are the headings as links name them: in lower case, with hyphens for
// spaces and without other signs.
func anchors(text string) map[string]bool {
	set := map[string]bool{}
	for _, m := range regexp.MustCompile(`(?m)^#+ (.+)$`).FindAllStringSubmatch(text, -1) {
		set[regexp.MustCompile(`[^a-z0-9_-]`).ReplaceAllString(strings.ReplaceAll(strings.ToLower(m[1]),
			" ", "-"), "")] = true
	}
	return set
}

// The README stays short enough to be read to its end.
func TestReadmeIsShort(t *testing.T) {
	t.Parallel()
	lines := strings.Split(strings.TrimSuffix(read(t, "README.md"), "\n"), "\n")
	if len(lines) > 150 {
		t.Errorf("README.md has %d lines, at most 150", len(lines))
	}
	for i, line := range lines {
		if n := len([]rune(line)); n > 100 {
			t.Errorf("README.md:%d has %d columns, at most 100", i+1, n)
		}
	}
}

// The tables of docs/upgrade-yaml.md are those of the structs that read the file.
func TestUpgradeYAMLKeys(t *testing.T) {
	t.Parallel()
	const doc, begin = "docs/upgrade-yaml.md", "<!-- generated: go test . -update -->\n"
	text := read(t, doc)
	head, _, ok := strings.Cut(text, begin)
	if !ok {
		t.Fatalf("%s lacks the line %s", doc, begin)
	}
	want := head + begin + keyTables(t)
	if *update {
		if err := os.WriteFile(doc, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	} else if want != text {
		t.Errorf("%s is older than the code: go test . -run UpgradeYAML -update", doc)
	}
}

// sections of the file by the struct that reads them, in the order of the page.
var sections = []struct{ title, name string }{
	{"Hosts and run", "Inventory"}, {"hosts", "Host"}, {"hosts.plugin", "Plugin"}, {"ssh", "SSH"},
	{"balancer", "Balancer"}, {"haproxy", "HAProxy"},
	{"canary", "Canary"}, {"drain", "Drain"}, {"up", "Wait"}, {"health", "Health"}, {"bluegreen",
		"BlueGreen"}, {"gates", "Gate"}, {"prober", "Prober"}, {"hooks", "Hook"},
	{"Plugin, switch, backup (command upgrade only)", "installation.File"},
	{"plugin", "installation.Plugin"}, {"Builds, in plugin and bundles.plugins", "installation.Build"},
	{"Functions, in plugin and bundles", "installation.Function"}, {"plugin.compiler",
		"installation.Compiler"}, {"plugin.bundle", "installation.Server"},
	{"bundles", "installation.Bundle"},
	{"switch", "installation.Switch"}, {"apis", "installation.APIs"}, {"Secrets, in apis",
		"installation.Secret"}, {"backup", "installation.Backup"}, {"backup.redis", "installation.Redis"},
	{"backup.mongo", "installation.Mongo"}, {"backup.postgres", "installation.Postgres"},
	{"URIs, in backup.redis, backup.mongo and backup.postgres", "installation.URI"},
}

func keyTables(t *testing.T) string {
	t.Helper()
	structs := map[string]*ast.StructType{}
	for _, file := range append(glob(t, "debpkg/fleet/*.go"),
		glob(t, "debpkg/fleet/installation/*.go")...) {
		f, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(f, func(n ast.Node) bool {
			if spec, ok := n.(*ast.TypeSpec); ok {
				if s, ok := spec.Type.(*ast.StructType); ok && hasKeys(s) {
					name := spec.Name.Name
					if strings.HasPrefix(file, "debpkg/fleet/installation/") {
						name = "installation." + name
					}
					structs[name] = s
				}
			}
			return true
		})
	}
	var b strings.Builder
	for _, section := range sections {
		s := structs[section.name]
		if s == nil {
			t.Fatalf("no struct %s with yaml keys", section.name)
		}
		delete(structs, section.name)
		fmt.Fprintf(&b, "\n### %s\n\n| Key | Type | Meaning |\n|---|---|---|\n", section.title)
		for _, field := range s.Fields.List {
			if key := yamlKey(field); key != "" {
				meaning := field.Doc.Text() + field.Comment.Text()
				if strings.TrimSpace(meaning) == "" {
					t.Errorf("%s: %s has no comment, and %s needs a meaning", section.name, key,
						"docs/upgrade-yaml.md")
				}
				fmt.Fprintf(&b, "| `%s` | %s | %s |\n", key, kind(field.Type),
					strings.ReplaceAll(strings.Join(strings.Fields(meaning), " "), "|", `\|`))
			}
		}
	}
	for name := range structs {
		t.Errorf("struct %s has yaml keys and no section in the page: add it to sections", name)
	}
	return b.String()
}

func yamlKey(field *ast.Field) string {
	if field.Tag == nil {
		return ""
	}
	key, _, _ := strings.Cut(reflect.StructTag(strings.Trim(field.Tag.Value, "`")).Get("yaml"), ",")
	return strings.TrimPrefix(key, "-")
}

func hasKeys(s *ast.StructType) bool {
	return slices.ContainsFunc(s.Fields.List, func(f *ast.Field) bool { return yamlKey(f) != "" })
}

func plural(kind string) string {
	if rest, ok := strings.CutPrefix(kind, "list of "); ok {
		return "lists of " + rest
	}
	return kind + "s"
}

func kind(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.StarExpr:
		return kind(e.X)
	case *ast.ArrayType:
		return "list of " + plural(kind(e.Elt))
	case *ast.MapType:
		return "map of " + plural(kind(e.Value))
	case *ast.SelectorExpr:
		return kind(e.Sel)
	case *ast.Ident:
		switch e.Name {
		case "string", "Mode", "OnBudgetExceeded", "Order":
			return "text"
		case "int", "float64":
			return "number"
		case "bool":
			return "true or false"
		case "Duration":
			return "duration"
		case "Amount":
			return "number or percentage"
		}
	}
	return "section"
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

	"github.com/Masterminds/semver/v3"
	"example.com/tykupgrade/bundle"
)

func main() {
	v, err := semver.StrictNewVersion("5.2.5")
	if err != nil {
		panic(err)
	}
	r, err := bundle.Resolve("plugin.so", LOADER, []string{"plugin.so", "plugin_v5.2.5_linux_amd64.so"})
	fmt.Print(r.File, err)
}
`} {
		text = strings.Replace(text, "LOADER",
			`bundle.Loader{Gateway: v, GOOS: "linux", GOARCH: "amd64"}`, 1)
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var out []byte
	for _, args := range [][]string{
		{"mod", "edit", "-require", "example.com/tykupgrade@v0.1.0", "-replace",
			"example.com/tykupgrade=" + root},
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

// docs/troubleshooting.md has every sentinel of every public package, and none
// that is gone.
func TestTroubleshootingIsComplete(t *testing.T) {
	t.Parallel()
	const doc = "docs/troubleshooting.md"
	listed := map[string]bool{}
	pkg := ""
	for line := range strings.Lines(read(t, doc)) {
		if name, ok := strings.CutPrefix(line, "## "); ok {
			pkg = strings.TrimSpace(name)
		} else if m := regexp.MustCompile("^\\| `(Err[A-Za-z]+)` \\|").FindStringSubmatch(
			line); m != nil {
			listed[pkg+"."+m[1]] = true
		}
	}
	for _, dir := range packages(t) {
		for name := range exported(t, dir) {
			if key := dir + "." + name; regexp.MustCompile(`^Err[A-Z][A-Za-z]*$`).MatchString(name) &&
				!strings.HasSuffix(dir, "test") {
				if !listed[key] {
					t.Errorf("%s lacks %s", doc, key)
				}
				delete(listed, key)
			}
		}
	}
	for key := range listed {
		if !strings.Contains(key, "test.") {
			t.Errorf("%s names %s, which does not exist", doc, key)
		}
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
