package pluginbuild_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/fstest"

	"github.com/Masterminds/semver/v3"

	"example.com/tykupgrade/pluginbuild"
)

const hookSource = "package main\n\nimport \"net/http\"\n\nfunc Hook(w http.ResponseWriter, r " +
	"*http.Request) {}\n\nfunc main() {}\n"

func mapFS(files map[string]string) fstest.MapFS {
	m := fstest.MapFS{}
	for name, content := range files {
		m[name] = &fstest.MapFile{Data: []byte(content), Mode: 0o644}
	}
	return m
}

// pluginFS is a plugin without fault, and what a test changes in it; an empty
// content removes a file.
func pluginFS(gomod string, change map[string]string) fstest.MapFS {
	m := mapFS(map[string]string{"go.mod": gomod, "main.go": hookSource})
	for name, content := range change {
		m[name] = &fstest.MapFile{Data: []byte(content), Mode: 0o644}
		if content == "" {
			delete(m, name)
		}
	}
	return m
}

func summary(findings []pluginbuild.Finding) string {
	var s []string
	for _, f := range findings {
		x := string(f.Severity) + " " + f.Code
		if f.Prepare {
			x += "*"
		}
		s = append(s, x)
	}
	return strings.Join(s, ", ")
}

func TestCheckModule(t *testing.T) {
	t.Parallel()
	const (
		name    = "module example.org/plugin\n"
		good    = name + "\ngo 1.19\n"
		tyk525  = "\nrequire github.com/TykTechnologies/tyk v1.9.2-0.20231218094207-cbda400a37ee\n"
		tyk521  = "\nrequire github.com/TykTechnologies/tyk v1.9.2-0.20231006100548-ffa83a27d3bf\n"
		gateway = "module github.com/TykTechnologies/tyk\n\ngo 1.19\n\nrequire " +
			"(\n\tgithub.com/google/uuid v1.3.0\n\tgithub.com/sirupsen/logrus v1.9.0\n)\n"
		useTyk = "package main\n\nimport _ \"github.com/TykTechnologies/tyk/ctx\"\n"
		fork   = "github.com/TykTechnologies/graphql-go-tools v1.6.2-0.20220426094453-0cc35471c1ca"
	)
	source := func(code string) map[string]string {
		return map[string]string{
			"main.go": "package main\n\n" + code}
	}
	for _, c := range []struct {
		name, version string
		src           fs.FS
		want          string // severities and codes; * where Prepare puts it right
		text          string // in some finding
	}{
		{"nothing wrong", "5.2.5", pluginFS(good, nil), "info hook", "Hook has the signature of a request hook"},
		{"nothing wrong with the gateway required", "5.2.5", pluginFS(good+tyk525, nil),
			"info gateway-module, info hook", "fails offline"},

		{"not package main", "5.2.5", pluginFS(good, map[string]string{
			"main.go": strings.Replace(hookSource, "package main", "package plugin", 1)}),
			"error not-main, info hook", "package plugin"},
		{"two packages", "5.2.5", pluginFS(good, map[string]string{"b.go": "package b\n"}),
			"error mixed-packages", "b and main"},
		{"no source", "5.2.5", pluginFS(good, map[string]string{"main.go": ""}), "error no-source", ""},
		{"source for another system", "5.2.5", pluginFS(good, map[string]string{"main.go": "",
			"main_windows.go": hookSource}), "error no-source", ""},
		{"tests alone", "5.2.5", pluginFS(good, map[string]string{"main.go": "",
			"main_test.go": hookSource}), "error no-source", ""},
		{"syntax", "5.2.5", pluginFS(good, map[string]string{"main.go": "package main\n\nimport \"x\n"}),
			"error syntax", "main.go:3"},

		{"response hook", "5.2.5", pluginFS(good,
			source("import \"net/http\"\nfunc R(w http.ResponseWriter, res *http.Response, req "+
				"*http.Request) {}")), "info hook", "response hook"},
		{"analytics hook", "5.2.5", pluginFS(good,
			source("import \"github.com/TykTechnologies/tyk-pump/analytics\"\nfunc A(record "+
				"*analytics.AnalyticsRecord) {}")), "info hook", "analytics hook"},
		{"renamed and dot imports, aliases", "5.2.5", pluginFS(good,
			source("import (\n h \"net/http\"\n . \"net/http\"\n)\ntype W = h.ResponseWriter\nfunc A(w W, "+
				"_ *Request) {}")), "info hook", "A has the signature of a request"},
		{"alias of another package", "5.2.5", pluginFS(good,
			source("import \"example.org/types\"\nfunc A(w types.W, r *types.R) {}")), "warning no-hook",
			"A may have one"},
		{"alias in a circle", "5.2.5", pluginFS(good, source("type A = B\ntype B = A\nfunc F(a A) {}")),
			"warning no-hook", ""},
		{"not exported", "5.2.5", pluginFS(good,
			source("import \"net/http\"\nfunc hook(w http.ResponseWriter, r *http.Request) {}")),
			"error no-hook", ""},
		{"a method", "5.2.5", pluginFS(good, source("import \"net/http\"\ntype T int\nfunc (T) H(w "+
			"http.ResponseWriter, r *http.Request) {}")), "error no-hook", ""},
		{"a result", "5.2.5", pluginFS(good,
			source("import \"net/http\"\nfunc H(w http.ResponseWriter, r *http.Request) error { "+
				"return nil }")), "error no-hook", ""},
		{"generic", "5.2.5", pluginFS(good,
			source("import \"net/http\"\nfunc H[T any](w http.ResponseWriter, r *http.Request) {}")),
			"error no-hook", ""},
		{"a variable", "5.2.5", pluginFS(good,
			source("import \"net/http\"\nvar H = func(w http.ResponseWriter, r *http.Request) {}")),
			"error no-hook", ""},
		{"by value", "5.2.5", pluginFS(good,
			source("import \"net/http\"\nfunc H(w http.ResponseWriter, r http.Request) {}")),
			"error no-hook", ""},
		{"own type of that name", "5.2.5", pluginFS(good,
			source("type ResponseWriter int\ntype Request int\nfunc H(w ResponseWriter, r *Request) {}")),
			"error no-hook", ""},

		{"no dot in the module path", "5.2.5", pluginFS("module plugin\n\ngo 1.19\n", nil),
			"warning module-path, info hook", "no dot"},
		{"the gateway's module path", "5.2.5",
			pluginFS("module github.com/TykTechnologies/tyk\n\ngo 1.19\n", nil),
			"error module-path, info hook", ""},
		{"no module line", "5.2.5", pluginFS("go 1.19\n", nil), "error module-path, info hook", ""},
		{"import that begins like the module", "5.2.5", pluginFS(good, map[string]string{
			"a.go": "package main\n\nimport _ \"example.org/plugin2/x\"\n"}),
			"warning module-prefix, info hook", "example.org/plugin2/x"},
		{"the same before renaming came", "5.2.1", pluginFS(good, map[string]string{
			"a.go": "package main\n\nimport _ \"example.org/plugin2/x\"\n"}), "warning release, info hook",
			""},

		{"go too new", "5.2.5", pluginFS(name+"\ngo 1.20\n", nil), "error go-directive*, info hook",
			"go1.19"},
		{"go in the new form", "5.2.5", pluginFS(name+"\ngo 1.19.0\n", nil),
			"error go-directive*, info hook", "form"},
		{"toolchain before 1.21", "5.2.5", pluginFS(good+"\ntoolchain go1.22.1\n", nil),
			"error toolchain*, info hook", "refuses toolchain lines"},
		{"toolchain too new", "5.14.0", pluginFS(name+"\ngo 1.25.0\n\ntoolchain go1.26.8\n", nil),
			"error toolchain*, info hook", "go1.26.8"},
		{"toolchain as in the release", "5.3.0", pluginFS(name+"\ngo 1.21.0\n\ntoolchain go1.21.0\n",
			nil), "warning release, info hook", "glibc 2.36"},
		{"go too new where go.mod is deleted", "5.0.15", pluginFS(name+"\ngo 1.19\n", map[string]string{
			"vendor/modules.txt": "x"}), "warning go-directive*, info hook", ""},
		{"tool directive", "5.2.5", pluginFS(good+"\ntool example.org/x\n", nil),
			"error go-mod, info hook", "directive tool"},
		{"unreadable go.mod", "5.2.5", pluginFS("module x\nnonsense\n", nil), "error go-mod, info hook",
			"go.mod:2"},
		{"no go.mod", "5.2.1", pluginFS("", map[string]string{"go.mod": ""}),
			"error no-go-mod, warning release, info hook", ""},
		{"no go.mod where one is made", "5.2.5", pluginFS("", map[string]string{"go.mod": ""}),
			"warning no-go-mod, info hook", ""},

		{"replace outside", "5.2.5", pluginFS(good+"\nreplace example.org/x => ../x\n", nil),
			"error local-replace, info hook", "outside"},
		{"replace absolute", "5.2.5", pluginFS(good+"\nreplace example.org/x => /srv/x\n", nil),
			"error local-replace, info hook", "outside"},
		{"replace outside, vendored", "5.0.15",
			pluginFS(name+"\ngo 1.16\n\nreplace example.org/x => ../x\n", map[string]string{
				"vendor/modules.txt": "x"}), "info local-replace, info hook", "only through the vendor directory"},
		{"replace inside", "5.2.5", pluginFS(good+"\nreplace example.org/x => ./x\n", map[string]string{
			"x/go.mod": "module example.org/x\n"}), "info hook", ""},
		{"replace inside, nothing there", "5.2.5", pluginFS(good+"\nreplace example.org/x => ./x\n", nil),
			"error local-replace, info hook", "no go.mod"},
		{"the release's replace is missing", "4.0.3",
			pluginFS(name+"\ngo 1.15\n\nrequire github.com/TykTechnologies/tyk "+
				"v1.9.2-0.20220513084439-6c76e802a298\n", map[string]string{"vendor/modules.txt": "x"}),
			"warning replace*, info hook", "-replace=github.com/jensneuse"},
		{"the release's replace", "4.0.3",
			pluginFS(name+"\ngo 1.15\n\nreplace github.com/jensneuse/graphql-go-tools => "+fork+"\n",
				map[string]string{"vendor/modules.txt": "x"}), "info hook", ""},
		{"another release's replace", "5.2.5",
			pluginFS(good+"\nreplace github.com/jensneuse/graphql-go-tools => "+fork+"\n", nil),
			"error replace*, info hook", "another gateway release"},
		{"conflicting replace", "5.1.0",
			pluginFS(good+"\nreplace gorm.io/gorm => example.org/gorm v1.0.0\n", nil),
			"error replace, warning release, info hook", "a different replace"},
		{"replace of what the gateway uses", "5.2.5",
			pluginFS(good+"\nreplace github.com/google/uuid => example.org/uuid v1.0.0\n", nil),
			"error replace, info hook", "does not replace"},
		{"replace of the gateway", "5.2.5", pluginFS(good+"\nreplace github.com/TykTechnologies/tyk => "+
			"example.org/tyk v1.0.0\n", nil), "error replace, info hook", "gateway's module is replaced"},

		{"another commit", "5.2.5", pluginFS(good+tyk521, nil), "error gateway-module*, info hook",
			"ffa83a27d3bf"},
		{"a tagged version", "5.2.5", pluginFS(good+"\nrequire github.com/TykTechnologies/tyk v1.9.1\n",
			nil), "error gateway-module*, info hook", ""},
		{"not required, workspace", "5.2.5", pluginFS(good, map[string]string{"a.go": useTyk}),
			"info gateway-module, info hook", "supplies it"},
		{"not required, vendored", "5.0.15", pluginFS(name+"\ngo 1.16\n", map[string]string{
			"a.go": useTyk, "vendor/modules.txt": "x"}), "error gateway-module*, info hook", ""},

		{"newer dependency", "5.2.5", pluginFS(good+"\nrequire github.com/google/uuid v1.3.1\n", nil),
			"error newer-dependency, info hook", "go get github.com/google/uuid@v1.3.0"},
		{"newer indirect dependency", "5.2.5", pluginFS(good+"\nrequire github.com/google/uuid v1.3.1 "+
			"// indirect\n", nil), "error newer-dependency, info hook", ""},
		{"older and foreign dependencies", "5.2.5",
			pluginFS(good+"\nrequire (\n\tgithub.com/google/uuid v1.2.0\n\texample.org/x v1.9.0\n)\n", nil),
			"info hook", ""},
		{"newer dependency, gateway's vendor wins", "5.0.15",
			pluginFS(name+"\ngo 1.16\n\nrequire github.com/google/uuid v1.3.1\n", map[string]string{
				"vendor/modules.txt": "x"}), "warning newer-dependency, info hook", ""},
		{"older dependency, plugin's vendor wins", "3.2.2",
			pluginFS(name+"\ngo 1.15\n\nrequire github.com/google/uuid v1.2.0\n", map[string]string{
				"vendor/modules.txt": "x"}), "error newer-dependency, info hook", "is not the gateway's"},

		{"stray .so", "5.2.5", pluginFS(good, map[string]string{"old.so": "x", "older.so": "x"}),
			"warning stray-so, info hook", "moves every .so back"},
		{"dotfiles", "5.2.5", pluginFS(good, map[string]string{".env": "x", ".gitignore": "x",
			".git/config": "x"}), "info dotfiles, info hook", "not copied"},
		{"embedded dotfile", "5.2.5", pluginFS(good, map[string]string{".data": "x",
			"e.go": "package main\n\nimport _ \"embed\"\n\n//go:embed .data\nvar data string\n"}),
			"error embed, info dotfiles, info hook", "does not copy names with a leading dot"},
		{"embedded directory with dotfile in it", "5.2.5", pluginFS(good, map[string]string{
			"d/.data": "x", "e.go": "package main\n\nimport \"embed\"\n\n//go:embed all:d\nvar " +
				"data embed.FS\n"}), "info hook", ""},
		{"embedded nothing", "5.2.5", pluginFS(good, map[string]string{
			"e.go": "package main\n\nimport _ \"embed\"\n\n//go:embed data.txt\nvar data string\n"}),
			"error embed, info hook", "matches nothing"},
		{"embed before 1.16", "4.0.8", pluginFS(name+"\ngo 1.15\n", map[string]string{
			"vendor/modules.txt": "x", "data.txt": "x",
			"e.go": "package main\n\nimport _ \"embed\"\n\n//go:embed data.txt\nvar data string\n"}),
			"error new-package, info hook", "package embed"},
		{"cgo", "5.2.5", pluginFS(good, map[string]string{"lib/c.go": "package lib\n\nimport \"C\"\n"}),
			"warning cgo, info hook", "uses cgo"},
		{"go.work in the source root", "5.2.5", pluginFS(good, map[string]string{"go.work": "go 1.19\n"}),
			"warning go-work, info hook", "instead of mounting"},
		{"vendor where nothing uses it", "5.2.5", pluginFS(good, map[string]string{
			"vendor/modules.txt": "x"}), "warning vendor, info hook", ""},
		{"no vendor, the compiler can make it", "5.0.15", pluginFS(name+"\ngo 1.16\n", nil),
			"warning vendor*, info hook", "needs the network"},
		{"no vendor where it is needed", "3.2.2", pluginFS(name+"\ngo 1.15\n", nil),
			"error vendor*, info hook", ""},
		{"vendor of another release", "5.0.15", pluginFS(name+"\ngo 1.16\n", map[string]string{
			"vendor/modules.txt": "# github.com/TykTechnologies/tyk " +
				"v1.9.2-0.20231006100548-ffa83a27d3bf\n"}), "error vendor*, info hook", "ffa83a27d3bf"},
		{"interrupted prepare", "5.2.5", pluginFS(good, map[string]string{
			".tykupgrade-prepare/journal.json": "{}"}), "error interrupted*, info hook", ""},
		{"broken release", "5.0.2", pluginFS(name+"\ngo 1.16\n", map[string]string{
			"vendor/modules.txt": "x"}), "error release, info hook", "misspelt"},
		{"what the go command skips", "5.2.5", pluginFS(good, map[string]string{"_x/a.go": "nonsense",
			"testdata/a.go": "nonsense", ".x/a.go": "nonsense", "vendored/go.mod": "module x\n",
			"vendored/a.go": "nonsense"}), "info dotfiles, info hook", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			findings, err := pluginbuild.CheckModule(c.src, lookup(t, c.version), pluginbuild.CheckOptions{
				GatewayMod: strings.NewReader(gateway)})
			if err != nil {
				t.Fatal(err)
			}
			if got := summary(findings); got != c.want {
				t.Errorf("findings %s, want %s\n%+v", got, c.want, findings)
			}
			text := ""
			for _, f := range findings {
				text += f.Where + " " + f.Message + " " + f.Remedy + "\n"
				if f.Message == "" {
					t.Errorf("%+v says nothing", f)
				}
			}
			if !strings.Contains(text, c.text) {
				t.Errorf("no %q in %s", c.text, text)
			}
		})
	}
}

// crowded has 20,001 files in the directory data. With as many entries a MapFS takes a minute.
type crowded struct{ fstest.MapFS }

func (c crowded) ReadDir(name string) ([]fs.DirEntry, error) {
	all, err := c.MapFS.ReadDir(name)
	if name == "data" {
		all = slices.Repeat(all, 20_001)
	}
	return all, err
}

func TestCheckModuleIsBounded(t *testing.T) {
	t.Parallel()
	r := lookup(t, "5.2.5")
	many := pluginFS("module example.org/plugin\n", nil)
	many["data/file"] = &fstest.MapFile{}
	if _, err := pluginbuild.CheckModule(crowded{many}, r, pluginbuild.CheckOptions{}); err == nil ||
		!strings.Contains(err.Error(), "20000 files") {
		t.Errorf("many files: %v", err)
	}
	huge := pluginFS("//"+strings.Repeat(" x", 1<<20), map[string]string{"big.go": "package main\n//" +
		strings.Repeat(" x", 5<<20)})
	findings, err := pluginbuild.CheckModule(huge, r, pluginbuild.CheckOptions{})
	if err != nil || !strings.HasPrefix(summary(findings), "error go-mod") {
		t.Errorf("huge files: %s, %v", summary(findings), err)
	}
	if _, err := pluginbuild.CheckModule(many, r, pluginbuild.CheckOptions{
		GatewayMod: strings.NewReader("nonsense")}); err == nil {
		t.Error("a gateway's go.mod that is none is taken")
	}
	if _, err := pluginbuild.CheckModule(many, pluginbuild.Release{},
		pluginbuild.CheckOptions{}); err == nil {
		t.Error("an empty release is taken")
	}
}

// Pipes and devices are not opened, which could block for ever.
func TestCheckModuleOfIrregularFiles(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]string{
		"main.go":            "error syntax",
		"go.mod":             "error go-mod, info hook",
		"vendor/modules.txt": "info hook",
	} {
		dir := t.TempDir()
		for file, f := range pluginFS("module example.org/plugin\n\ngo 1.16\n", map[string]string{
			"vendor/modules.txt": "x"}) {
			path := filepath.Join(dir, file)
			err := os.MkdirAll(filepath.Dir(path), 0o755)
			if file == name {
				err = errors.Join(err, syscall.Mkfifo(path, 0o600))
			} else {
				err = errors.Join(err, os.WriteFile(path, f.Data, 0o600))
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		findings, err := pluginbuild.CheckModule(os.DirFS(dir), lookup(t, "5.0.15"),
			pluginbuild.CheckOptions{})
		if err != nil || summary(findings) != want {
			t.Errorf("%s: %+v, %v", name, findings, err)
		}
	}
}

func TestCheckBundle(t *testing.T) {
	t.Parallel()
	one, two := pluginFS("module example.org/one\n", nil), pluginFS("module example.org/two\n", nil)
	for v, want := range map[string]string{"5.2.5": "error same-module", "5.2.1": "error same-module",
		"5.0.15": "info same-module"} {
		findings, err := pluginbuild.CheckBundle(map[string]fs.FS{"a": one, "b": two, "c": one},
			lookup(t, v))
		if err != nil || summary(findings) != want || findings[0].Where != "a, c" {
			t.Errorf("%s: %+v, %v", v, findings, err)
		}
		if hasID := strings.Contains(findings[0].Remedy, "plugin id"); hasID != (v == "5.2.5") {
			t.Errorf("%s: remedy %q", v, findings[0].Remedy)
		}
	}
	if findings, err := pluginbuild.CheckBundle(map[string]fs.FS{"a": one, "b": two},
		lookup(t, "5.2.5")); err != nil || len(findings) != 0 {
		t.Errorf("%+v, %v", findings, err)
	}
	if _, err := pluginbuild.CheckBundle(map[string]fs.FS{"a": mapFS(nil)},
		lookup(t, "5.2.5")); err == nil || !strings.Contains(err.Error(), "plugin a") {
		t.Errorf("no go.mod: %v", err)
	}
}

func TestNewPlan(t *testing.T) {
	t.Parallel()
	src := pluginFS("module example.org/plugin\n\ngo 1.26.0\n", nil)
	p, err := pluginbuild.NewPlan(src, lookup(t, "5.2.5"), pluginbuild.PlanOptions{
		Current: semver.MustParse("4.0.8")})
	if err != nil {
		t.Fatal(err)
	}
	if p.Image != "tykio/tyk-plugin-compiler:v5.2.5" || p.Output != "plugin_v5.2.5_linux_amd64.so" ||
		p.Row.Table != 2 || p.Path != 3 || p.Blocked() {
		t.Errorf("plan %+v", p)
	}
	golden(t, "plan.txt", p.Shell())
	for name, c := range map[string]struct {
		version string
		o       pluginbuild.PlanOptions
		want    string
	}{
		"arm64":               {"5.2.5", pluginbuild.PlanOptions{GOARCH: "arm64"}, ""},
		"arm64 without cross": {"4.2.0", pluginbuild.PlanOptions{GOARCH: "arm64"}, "warning platform"},
		"arm64 without args":  {"4.0.8", pluginbuild.PlanOptions{GOARCH: "arm64"}, "error platform"},
		"s390x":               {"5.14.0", pluginbuild.PlanOptions{GOARCH: "s390x"}, "warning platform"},
		"edition that is none": {"5.2.5", pluginbuild.PlanOptions{Image: pluginbuild.Image{
			Edition: pluginbuild.FIPS}}, "unknown edition"},
		"name with directory": {"5.2.5", pluginbuild.PlanOptions{Name: "../plugin.so"},
			"plain file name"},
		"name without .so": {"5.2.5", pluginbuild.PlanOptions{Name: "plugin"}, "plain file name"},
		"get is needed":    {"5.0.15", pluginbuild.PlanOptions{NoGet: true}, "5.1.0"},
	} {
		p, err := pluginbuild.NewPlan(src, lookup(t, c.version), c.o)
		if got := summary(p.Findings) + fmt.Sprint(err); !strings.Contains(got, c.want) {
			t.Errorf("%s: %s, want %q", name, got, c.want)
		}
		if c.want == "" && strings.Contains(summary(p.Findings), "platform") {
			t.Errorf("%s: %s", name, summary(p.Findings))
		}
	}
	// A broken go.mod is a finding, and the plan still tells what to run.
	p, err = pluginbuild.NewPlan(pluginFS("nonsense", nil), lookup(t, "5.2.5"),
		pluginbuild.PlanOptions{})
	if err != nil || !p.Blocked() || len(p.Commands) != 3 {
		t.Errorf("%+v, %v", p, err)
	}
}

func FuzzCheckModule(f *testing.F) {
	f.Add("module example.org/plugin\n\ngo 1.19\n", hookSource)
	f.Add("module x\n\ngo 1.21.0\ntoolchain go1.21.4\nrequire a.b/c v1.0.0\nreplace a.b/c => ../c\n",
		"package main\n\n//go:embed .x all:[\nvar x string\n")
	f.Add("module \"x\ny\"", "package main\nimport . \"net/http\"\ntype A = B\ntype B = A\nfunc "+
		"F(A, *B) {}")
	f.Add("replace (\n a => b v1\n)\ntool x\ngodebug a=b\nignore x\nretract v1.0.0\n",
		"//go:build ignore\npackage x")
	f.Add("go 99999999999999999999.1\ntoolchain go1.999999999999999999999",
		"package main\nfunc A(a.b.c, [](func()))")
	table := pluginbuild.Releases()
	f.Fuzz(func(t *testing.T, gomod, source string) {
		src := mapFS(map[string]string{"go.mod": gomod, "main.go": source})
		for _, i := range []int{0, len(table) / 3, len(table) - 1} {
			r := table[i]
			findings, err := pluginbuild.CheckModule(src, r, pluginbuild.CheckOptions{})
			if err != nil {
				t.Fatal(err)
			}
			for _, f := range findings {
				if f.Message == "" || f.Code == "" {
					t.Fatalf("%+v", f)
				}
			}
			commands, err := r.Commands(pluginbuild.CommandOptions{GoMod: []byte(gomod)})
			if err != nil {
				continue
			}
			for _, c := range commands {
				if c.Argv[0] != "go" || strings.ContainsRune(c.Shell(), 0) {
					t.Fatalf("%q", c.Argv)
				}
			}
		}
	})
}
