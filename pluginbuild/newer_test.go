package pluginbuild_test

import (
	"bufio"
	"fmt"
	"go/version"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"example.com/tykupgrade/internal/lab"
	"example.com/tykupgrade/pluginbuild"
)

// Code that is newer than the compiler's Go is found before minutes of compiling,
// with file and line.
func TestCheckFindsNewCode(t *testing.T) {
	t.Parallel()
	lines := func(text ...string) string { return strings.Join(text, "\n") + "\n" }
	for name, c := range map[string]struct {
		release, mod, code string
		want               []string // "code where", in order
	}{
		"generics, Go 1.16": {"4.3.0", "1.16", lines("package main",
			"func F[T interface{}](x T) {}"), []string{"new-language new.go:2"}},
		"range over int, 1.19": {"5.2.5", "1.19", lines("package main", "func f() {",
			"for i := range 3 {", "_ = i", "}", "}"), []string{"new-language new.go:3"}},
		"min, 1.19": {"5.2.5", "1.19", lines("package main", "var x = min(1, 2)"),
			[]string{"new-language new.go:2"}},
		"errors.Join, 1.19": {"5.2.5", "1.19", lines("package main", `import e "errors"`,
			"var x = e.Join(nil)", "var y = e.Join(nil)"), []string{"new-api new.go:3"}},
		"all of it, 1.21": {"5.3.0", "1.21", lines("package main", `import "errors"`,
			"func F[T any](x T) {}", "var x = min(1, 2)", "var y = errors.Join(nil)"), nil},
		"generics, go.mod below": {"5.2.5", "1.16", lines("package main",
			"func F[T interface{}](x T) {}"), []string{"new-language new.go:2"}},
		"iterators, 1.22": {"5.6.0", "1.22", lines("package main", `import "strings"`,
			"func f() {", `for x := range strings.Lines("a") {`, "_ = x", "}", "}"),
			[]string{"new-api new.go:4"}},
		"a name of its own": {"5.2.5", "1.19", lines("package main", "type e struct{}",
			"func (e) Join() {}", "func f(errors e) { errors.Join() }"), nil},
		"a test": {"5.2.5", "1.19", "", nil},
	} {
		files := map[string]string{"new.go": c.code, "new_test.go": lines("package main",
			"var x = min(1, 2)")}
		if c.code == "" {
			delete(files, "new.go")
		}
		findings, err := pluginbuild.CheckModule(pluginFS("module example.org/p\n\ngo "+c.mod+"\n",
			files), lookup(t, c.release), pluginbuild.CheckOptions{})
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, f := range findings {
			if strings.HasPrefix(f.Code, "new-") {
				got = append(got, f.Code+" "+f.Where)
				if !f.Blocks() || f.Remedy == "" {
					t.Errorf("%s: %+v", name, f)
				}
			}
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%s: %v, want %v\n%+v", name, got, c.want, findings)
		}
	}
}

// The table of names is the one that Go distributions carry.
func TestStandardNames(t *testing.T) {
	t.Parallel()
	goCmd := lab.Program(t, "go", "golang-go")
	cmd := exec.Command(goCmd, "env", "GOROOT")
	cmd.Env = lab.GoEnv()
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(strings.TrimSpace(string(out)), "api", "go1.*.txt"))
	if err != nil || len(files) == 0 {
		t.Skip("this Go comes without its api directory, as Debian's does")
	}
	// Names of one system, and packages that are no plugin's business, are left out.
	line := regexp.MustCompile(`^([a-z0-9/]+), (?:func|type|var|const) ([A-Z]\w*)`)
	strange := regexp.MustCompile(
		`^(syscall|debug/|go/|cmd/|internal/|runtime/|testing|image/|text/template/parse|index/)`)
	names := map[string][]string{}
	known := map[string]bool{}
	slices.SortFunc(files, func(a, b string) int { return version.Compare(minor(a), minor(b)) })
	for _, file := range files {
		if version.Compare(minor(file), "go1.26") > 0 {
			continue // a newer Go than the table was written with
		}
		f, err := os.Open(file)
		if err != nil {
			t.Fatal(err)
		}
		for s := bufio.NewScanner(f); s.Scan(); {
			text, ok := strings.CutPrefix(s.Text(), "pkg ")
			if !ok || strings.HasPrefix(text, "syscall") { // nine of ten lines
				continue
			}
			m := line.FindStringSubmatch(text)
			if m == nil || strange.MatchString(m[1]) || known[m[1]+"."+m[2]] {
				continue
			}
			known[m[1]+"."+m[2]] = true
			if version.Compare(minor(file), "go1.13") >= 0 { // older compilers than 1.12 are none of ours
				key := m[1] + " " + strings.TrimPrefix(minor(file), "go")
				names[key] = append(names[key], m[2])
			}
		}
		_ = f.Close()
	}
	var b strings.Builder
	for _, key := range slices.Sorted(maps.Keys(names)) {
		slices.Sort(names[key])
		fmt.Fprintf(&b, "%s %s\n", key, strings.Join(names[key], " "))
	}
	golden(t, "../stdapi.txt", b.String())
}

func minor(file string) string { return strings.TrimSuffix(filepath.Base(file), ".txt") }
