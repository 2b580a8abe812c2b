package pluginbuild_test

import (
	"encoding/json"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/Masterminds/semver/v3"
	"golang.org/x/mod/module"

	"example.com/tykupgrade/pluginbuild"
)

var update = flag.Bool("update", false, "write the golden files")

func lookup(t testing.TB, v string) pluginbuild.Release {
	t.Helper()
	r, err := pluginbuild.Lookup(semver.MustParse(v))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// golden compares got with a file below testdata.
func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s differs (run with -update to accept):\n--- want\n%s\n--- got\n%s", path, want, got)
	}
}

func TestTableIsConsistent(t *testing.T) {
	t.Parallel()
	releases := pluginbuild.Releases()
	if len(releases) != 132 {
		t.Errorf("%d releases, want the 132 general ones from 3.0.0 to 5.14.0", len(releases))
	}
	seen := map[string]bool{}
	byCommit := map[string][]string{}
	for i, r := range releases {
		v := r.Version.String()
		if err := r.Validate(); err != nil {
			t.Error(err)
		}
		if seen[v] || r.Version.Prerelease() != "" || r.Version.Original() != v {
			t.Errorf("%s: listed twice, a pre-release, or not canonical", v)
		}
		seen[v] = true
		byCommit[r.Commit] = append(byCommit[r.Commit], v)
		if i > 0 && !releases[i-1].Version.LessThan(r.Version) {
			t.Errorf("%s is out of order", v)
		}
		pseudo := r.PseudoVersion()
		if rev, err := module.PseudoVersionRev(pseudo); err != nil || !strings.HasPrefix(r.Commit, rev) ||
			len(rev) != 12 {
			t.Errorf("%s: pseudo-version %s does not derive from commit %s: %v", v, pseudo, r.Commit, err)
		}
		if at, err := module.PseudoVersionTime(pseudo); err != nil || !at.Equal(r.Date) {
			t.Errorf("%s: pseudo-version %s does not derive from date %s: %v", v, pseudo, r.Date, err)
		}
		if base, err := module.PseudoVersionBase(pseudo); err != nil || base != "v1.9.1" {
			t.Errorf("%s: pseudo-version %s has base %s", v, pseudo, base)
		}
		if r.Date.Year() < 2020 || r.Date.Year() > 2026 || r.Date.Location().String() != "UTC" {
			t.Errorf("%s: date %s", v, r.Date)
		}
		if r.Broken && len(r.Notes) == 0 {
			t.Errorf("%s is broken without a note", v)
		}
		// Every rule about an era says what the release's own entry says.
		derived, err := pluginbuild.Derive(semver.MustParse(v+"-rc1"), r.Commit)
		if err != nil {
			t.Fatal(err)
		}
		want := r.Compiler
		want.EL7Distros, want.EL7OrPlainDistros = nil, nil // by package, no rule
		if !reflect.DeepEqual(derived.Compiler, want) {
			t.Errorf("%s: the rules give\n%+v, the table has\n%+v", v, derived.Compiler, want)
		}
		if r.Go == "" || (r.Compiler.Go == "") != strings.Contains(strings.Join(r.Notes, ""),
			"Go version not recorded") {
			t.Errorf("%s: Go %q, compiler's Go %q, notes %q", v, r.Go, r.Compiler.Go, r.Notes)
		}
		if (r.Path() == pluginbuild.Path3) != (r.Compiler.Mode == pluginbuild.Workspace) {
			t.Errorf("%s: %s with mode %s", v, r.Path(), r.Compiler.Mode)
		}
	}
	// Releases of one commit exist, and all are known.
	var twins []string
	for _, vs := range byCommit {
		if len(vs) > 1 {
			twins = append(twins, strings.Join(vs, "="))
		}
	}
	slices.Sort(twins)
	if got := strings.Join(twins, " "); got != "5.10.1=5.10.2 5.3.3=5.3.4 5.8.4=5.8.5" {
		t.Errorf("releases of the same commit: %s", got)
	}
}

// Versions that public go.mod files of others require.
func TestPseudoVersionsSeenInTheWild(t *testing.T) {
	t.Parallel()
	for v, want := range map[string]string{
		"5.2.5": "v1.9.2-0.20231218094207-cbda400a37ee",
		"5.2.1": "v1.9.2-0.20231006100548-ffa83a27d3bf",
	} {
		if got := lookup(t, v).PseudoVersion(); got != want {
			t.Errorf("%s: %s, want %s", v, got, want)
		}
	}
	// The three commits of the procedure, each right for one release.
	for v, want := range map[string]string{"4.0.3": "6c76e802a298", "5.0.3": "54e1072a6a99",
		"5.2.1": "ffa83a27d3bf"} {
		if got := lookup(t, v).Commit; !strings.HasPrefix(got, want) {
			t.Errorf("%s: commit %s, want %s", v, got, want)
		}
	}
}

// One release per line, so that a diff shows which one changed.
func TestTableFileHasOneReleasePerLine(t *testing.T) {
	t.Parallel()
	data, err := os.ReadFile("releases.json")
	if err != nil {
		t.Fatal(err)
	}
	table, err := pluginbuild.ReadTable(strings.NewReader(string(data)))
	if err != nil {
		t.Fatal(err)
	}
	var file strings.Builder
	if err := table.Write(&file); err != nil {
		t.Fatal(err)
	}
	golden(t, "../releases.json", file.String())
}

func TestTableRoundTrip(t *testing.T) {
	t.Parallel()
	data, err := json.Marshal(pluginbuild.Releases())
	if err != nil {
		t.Fatal(err)
	}
	again, err := pluginbuild.ReadTable(strings.NewReader(string(data)))
	if err != nil || !reflect.DeepEqual(again, pluginbuild.Releases()) {
		t.Errorf("the table does not survive JSON: %v", err)
	}
}

func TestReadTableRefuses(t *testing.T) {
	t.Parallel()
	good := `{"version":"6.0.0","commit":"` + strings.Repeat("a", 40) +
		`","go":"1.26.0","compiler":{"mode":"workspace"}}`
	for name, c := range map[string][2]string{
		"not JSON":      {`[`, "unexpected EOF"},
		"unknown field": {`[{"comit":"x"}]`, "comit"},
		"no version":    {`[{"commit":"x"}]`, "no version"},
		"short commit":  {strings.Replace("["+good+"]", "aaaa", "", 1), "40 lower-case hex"},
		"bad go":        {strings.Replace("["+good+"]", "1.26.0", "go1.26", 1), "go directive"},
		"bad mode":      {strings.Replace("["+good+"]", "workspace", "magic", 1), "mode"},
		"bad edition": {strings.Replace("["+good+"]", `"mode"`, `"editions":["pro"],"mode"`, 1),
			"edition"},
		"bad replace": {strings.Replace("["+good+"]", `"compiler"`,
			`"replaces":[{"old":"x","new":"../y","new_version":"v1.0.0"}],"compiler"`, 1), "replace"},
		"bad toolchain": {strings.Replace("["+good+"]", `"compiler"`,
			`"toolchain":"; rm -rf /","compiler"`, 1), "toolchain"},
		"bad compiler go": {strings.Replace("["+good+"]", `"mode"`, `"go":"latest","mode"`, 1),
			"compiler Go version"},
		"trailing":  {"[" + good + "] []", "after the array"},
		"too large": {"[" + strings.Repeat(" ", 9<<20) + "]", "larger than"},
	} {
		if _, err := pluginbuild.ReadTable(strings.NewReader(c[0])); err == nil ||
			!strings.Contains(err.Error(), c[1]) {
			t.Errorf("%s: error %v, want %q in it", name, err, c[1])
		}
	}
	more, err := pluginbuild.ReadTable(strings.NewReader("[" + good + "]"))
	if err != nil {
		t.Fatal(err)
	}
	r, err := append(pluginbuild.Releases(), more...).Lookup(semver.MustParse("6.0.0"))
	if err != nil || r.Go != "1.26.0" || r.PseudoVersion() != "" {
		t.Errorf("added release: %+v, %v", r, err)
	}
}

func TestLookupOfUnknownNamesTheNearest(t *testing.T) {
	t.Parallel()
	for v, want := range map[string]string{
		"5.15.0":    "5.14.0",
		"6.0.0-rc1": "5.14.0",
		"5.2.5-rc1": "5.2.5",
		"4.0.99":    "4.0.16",
		"5.2.99":    "5.2.6",
		"2.9.4":     "3.0.0",
	} {
		_, err := pluginbuild.Lookup(semver.MustParse(v))
		var unknown *pluginbuild.UnknownReleaseError
		if !errors.As(err, &unknown) || unknown.Nearest.Version.String() != want || unknown.Retryable() {
			t.Errorf("%s: error %v, want nearest %s", v, err, want)
			continue
		}
		for _, way := range []string{want, "make a Release yourself", "ResolveCommit"} {
			if !strings.Contains(err.Error(), way) {
				t.Errorf("%s: error %q does not say %q", v, err, way)
			}
		}
	}
	if _, err := pluginbuild.Lookup(nil); err == nil {
		t.Error("a nil version is found")
	}
	if _, err := (pluginbuild.Table{}).Lookup(semver.MustParse("1.0.0")); err == nil ||
		strings.Contains(err.Error(), "nearest") {
		t.Errorf("empty table: %v", err)
	}
	if r, err := (pluginbuild.Table{{}, lookup(t, "5.2.5")}).Lookup(semver.MustParse(
		"5.2.4")); err == nil || !strings.Contains(err.Error(), "5.2.5") {
		t.Errorf("a table with an empty entry: %+v, %v", r, err)
	}
	// A later entry wins, so that a consumer can correct one.
	mine := lookup(t, "5.2.5")
	mine.Go = "1.20"
	if r, err := append(pluginbuild.Releases(), mine).Lookup(mine.Version); err != nil ||
		r.Go != "1.20" {
		t.Errorf("corrected release: %+v, %v", r, err)
	}
	if lookup(t, "5.2.5").Go != "1.19" {
		t.Error("appending changed the table that comes with the package")
	}
}

func TestDerive(t *testing.T) {
	t.Parallel()
	commit := strings.Repeat("0123456789", 4)
	r, err := pluginbuild.Derive(semver.MustParse("5.15.0"), commit)
	if err != nil {
		t.Fatal(err)
	}
	near := lookup(t, "5.14.0")
	if r.Commit != commit || r.Go != near.Go || !reflect.DeepEqual(r.Replaces, near.Replaces) ||
		!reflect.DeepEqual(r.Compiler, near.Compiler) ||
		len(r.Notes) != 1 || !strings.Contains(r.Notes[0], "5.14.0") || r.PseudoVersion() != "" {
		t.Errorf("derived %+v", r)
	}
	mod := "module " + pluginbuild.Module + "\n\ngo 1.26.0\n\ntoolchain go1.26.3\n\nreplace " +
		"(\n\texample.org/a v1.0.0 => example.org/b v1.2.3\n\texample.org/c => ./local\n)\n"
	r, err = r.WithGoMod(strings.NewReader(mod))
	if err != nil || r.Go != "1.26.0" || r.Toolchain != "go1.26.3" || len(r.Replaces) != 1 ||
		len(r.Notes) != 0 || r.Compiler.Go != "1.26" || r.Next == nil || r.Next.Go != "1.26" ||
		r.Compiler.Base != "tykio/golang-cross:1.26-bullseye" ||
		r.Replaces[0].String() != "example.org/a@v1.0.0=example.org/b@v1.2.3" {
		t.Errorf("with its own go.mod: %+v, %v", r, err)
	}
	// An older go.mod lowers nothing, and the table's own entries stay as they are.
	old := "module " + pluginbuild.Module + "\n\ngo 1.16\n"
	if r, err := near.WithGoMod(strings.NewReader(old)); err != nil ||
		r.Compiler.Go != near.Compiler.Go || r.Compiler.Base != near.Compiler.Base {
		t.Errorf("with an older go.mod: %+v, %v", r, err)
	}
	// Not every candidate has the next-generation compiler.
	for v, has := range map[string]bool{"5.15.0-rc6": false, "5.15.0-rc7": true, "5.13.2-rc3": false,
		"5.13.2-rc4": true, "5.13.2": true, "5.14.0-rc1": false} {
		if r, err := pluginbuild.Derive(semver.MustParse(v), commit); err != nil ||
			(r.Next != nil) != has {
			t.Errorf("%s: %+v, %v", v, r.Next, err)
		}
	}
	for _, bad := range []string{"module example.org/other\n", "modul x", strings.Repeat("// x\n",
		1<<19)} {
		if _, err := r.WithGoMod(strings.NewReader(bad)); err == nil || !strings.Contains(err.Error(),
			"5.15.0") {
			t.Errorf("go.mod %.20q: error %v", bad, err)
		}
	}
	if _, err := pluginbuild.Derive(semver.MustParse("5.15.0"), "HEAD"); err == nil {
		t.Error("a commit that is none is taken")
	}
	// A known release keeps everything but what another commit puts in doubt.
	if r, err := pluginbuild.Derive(near.Version, near.Commit); err != nil || !reflect.DeepEqual(r,
		near) {
		t.Errorf("known release: %+v, %v", r, err)
	}
	if r, err := pluginbuild.Derive(near.Version, commit); err != nil || r.PseudoVersion() != "" {
		t.Errorf("known release, other commit: %+v, %v", r, err)
	}
}

func TestImage(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		version string
		edition pluginbuild.Edition
		el7     bool
		want    string
	}{
		{"5.2.5", "", false, "tykio/tyk-plugin-compiler:v5.2.5"},
		{"5.7.1", pluginbuild.Enterprise, false, "tykio/tyk-plugin-compiler-ee:v5.7.1"},
		{"5.6.1", pluginbuild.Enterprise, false, ""},
		{"5.13.0", pluginbuild.FIPS, false, "tykio/tyk-plugin-compiler-fips:v5.13.0"},
		{"5.12.1", pluginbuild.FIPS, false, ""},
		{"4.0.8", pluginbuild.Standard, true, "tykio/tyk-plugin-compiler:v4.0.8-el7"},
		{"5.1.0", "", true, ""},
		{"5.14.0", "pro", false, ""},
	} {
		got, err := lookup(t, c.version).Image(c.edition, c.el7)
		if got != c.want || (err == nil) != (c.want != "") {
			t.Errorf("%s %q %v: %q, %v", c.version, c.edition, c.el7, got, err)
		}
	}
	if _, err := (pluginbuild.Release{}).Image("", false); err == nil {
		t.Error("an empty release has an image")
	}
}

func TestOutput(t *testing.T) {
	t.Parallel()
	for _, c := range [][3]string{
		{"4.0.8", "plugin.so", "plugin.so"},
		{"4.1.0", "plugin.so", "plugin_v4.1.0_linux_amd64.so"},
		{"5.2.5", "my.plugin.so", "my.plugin_v5.2.5_linux_amd64.so"},
		{"5.2.5", "plugin", "plugin_v5.2.5_linux_amd64.so"},
	} {
		if got := lookup(t, c[0]).Output(c[1], "linux", "amd64"); got != c[2] {
			t.Errorf("%s %s: %s, want %s", c[0], c[1], got, c[2])
		}
	}
	rc, err := pluginbuild.Derive(semver.MustParse("5.15.0-rc3"), strings.Repeat("a", 40))
	if err != nil {
		t.Fatal(err)
	}
	if got := rc.Output("p.so", "linux", "arm64"); got != "p_v5.15.0_linux_arm64.so" {
		t.Errorf("release candidate: %s", got)
	}
}

func TestParseVersion(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"5.2.5": "5.2.5", "v5.2.5": "5.2.5", "5.3.0~rc1": "5.3.0-rc1", "v5.3.0-rc1": "5.3.0-rc1",
		"5.2": "", "": "", "latest": "", "5.2.5.1": "", "vv5.2.5": "", "5.2.x": "", "-5.2.5": "",
		strings.Repeat("1", 65): "",
	} {
		v, err := pluginbuild.ParseVersion(in)
		if (err == nil) != (want != "") || err == nil && v.String() != want {
			t.Errorf("%q: %v, %v", in, v, err)
		}
	}
}

func FuzzParseVersion(f *testing.F) {
	for _, s := range []string{"5.2.5", "v4.0.8", "5.3.0~rc1", "5.15.0-rc1+meta",
		"99999999999999999999.0.0", "v", "5..", "\x00"} {
		f.Add(s)
	}
	name := regexp.MustCompile(`^plugin(_v\d+\.\d+\.\d+_linux_amd64)?\.so$`)
	f.Fuzz(func(t *testing.T, s string) {
		v, err := pluginbuild.ParseVersion(s)
		if err != nil {
			return
		}
		if again, err := pluginbuild.ParseVersion(v.String()); err != nil && len(v.String()) <= 64 ||
			err == nil && !again.Equal(v) {
			t.Fatalf("%q reads as %s, which reads as %s, %v", s, v, again, err)
		}
		if p := pluginbuild.PathTo(v); p < 1 || p > 3 {
			t.Fatalf("%s: %s", v, p)
		}
		r, err := pluginbuild.Derive(v, strings.Repeat("a", 40))
		if err != nil {
			t.Fatal(err)
		}
		if out := r.Output("plugin.so", "linux", "amd64"); !name.MatchString(out) {
			t.Fatalf("%s: output %q", v, out)
		}
		if _, err := r.Commands(pluginbuild.CommandOptions{}); err != nil {
			t.Fatal(err)
		}
		pluginbuild.Explain(v, semver.New(5, 2, 5, "", ""))
	})
}
