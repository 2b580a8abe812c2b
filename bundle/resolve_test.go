package bundle_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/Masterminds/semver/v3"

	"example.com/tykupgrade/bundle"
)

// testdata/loaders.json has the loader order of all 132 releases from 3.0.0 to
// 5.14.0, as read from their source.
func TestResolveEveryRelease(t *testing.T) {
	t.Parallel()
	data, err := os.ReadFile("testdata/loaders.json")
	if err != nil {
		t.Fatal(err)
	}
	var loaders map[string]string
	if err := json.Unmarshal(data, &loaders); err != nil {
		t.Fatal(err)
	}
	if len(loaders) != 132 {
		t.Fatalf("%d releases", len(loaders))
	}
	for version, order := range loaders {
		var want []string
		for _, word := range strings.Split(order, "->") {
			name, ok := map[string]string{
				"exact-only":      "p.so",
				"exact":           "p.so",
				"versioned(no v)": "p_" + version + "_linux_amd64.so",
				"versioned(v)":    "p_v" + version + "_linux_amd64.so",
			}[word]
			if !ok {
				t.Fatalf("%s: unknown word %q", version, word)
			}
			want = append(want, name)
		}
		v := semver.MustParse(version)
		// With all of its names present the first wins, with only the last that one.
		for _, there := range [][]string{want, want[len(want)-1:]} {
			r, err := bundle.Resolve("p.so", bundle.Loader{Gateway: v}, there)
			if err != nil || !slices.Equal(r.Tried, want) || r.File != there[0] {
				t.Errorf("%s with %v: %+v, %v; want %v", version, there, r, err, want)
			}
		}
		// Response plugins take part from 4.3.2 on.
		if v.LessThan(semver.MustParse("4.3.2")) {
			want = []string{"p.so"}
		}
		if r, err := bundle.Resolve("p.so", bundle.Loader{Gateway: v, Response: true},
			[]string{"p.so"}); err != nil || !slices.Equal(r.Tried, want) {
			t.Errorf("%s, response: %+v, %v; want %v", version, r, err, want)
		}
	}
}

func TestResolve(t *testing.T) {
	t.Parallel()
	two := []string{"plugin.so", "plugin_v5.2.5_linux_amd64.so"}
	for name, c := range map[string]struct {
		hook, version, goos, goarch string
		files                       []string
		want                        string
	}{
		"the procedure, before": {"plugin.so", "4.0.8", "", "", two, "plugin.so"},
		"the procedure, after":  {"plugin.so", "5.2.5", "", "", two, two[1]},
		"4.1.0 misses the v": {"plugin.so", "4.1.0", "", "",
			[]string{"plugin_v4.1.0_linux_amd64.so"}, ""},
		"4.2.4 without v": {"plugin.so", "4.2.4", "", "",
			[]string{"plugin_4.2.4_linux_amd64.so"}, "plugin_4.2.4_linux_amd64.so"},
		"4.3.0 takes the exact one": {"plugin.so", "4.3.0", "", "", []string{"plugin.so",
			"plugin_v4.3.0_linux_amd64.so"}, "plugin.so"},
		"5.2.5, exact as last resort": {"plugin.so", "5.2.5", "", "", two[:1], "plugin.so"},
		"another patch":               {"plugin.so", "5.2.4", "", "", two[1:], ""},
		"another architecture":        {"plugin.so", "5.2.5", "linux", "arm64", two[1:], ""},
		"arm64": {"plugin.so", "5.2.5", "linux", "arm64",
			[]string{"plugin_v5.2.5_linux_arm64.so"}, "plugin_v5.2.5_linux_arm64.so"},
		"pre-release as its release": {"plugin.so", "5.2.5-rc1", "", "", two, two[1]},
		"pre-release of an era's first": {"plugin.so", "4.3.2-rc1", "", "", []string{"plugin.so",
			"plugin_v4.3.2_linux_amd64.so"}, "plugin_v4.3.2_linux_amd64.so"},
		"build metadata":         {"plugin.so", "v5.2.5+ee", "", "", two, two[1]},
		"leading ./":             {"./plugin.so", "5.2.5", "", "", two, two[1]},
		"leading /":              {"/plugin.so", "4.0.8", "", "", two, "plugin.so"},
		"without suffix":         {"plugin", "5.2.5", "", "", two, two[1]},
		"versioned name as path": {two[1], "5.3.0", "", "", two, two[1]},
		"no files":               {"plugin.so", "5.2.5", "", "", nil, ""},
	} {
		r, err := bundle.Resolve(c.hook, bundle.Loader{Gateway: semver.MustParse(c.version), GOOS: c.goos,
			GOARCH: c.goarch}, c.files)
		if r.File != c.want || (c.want == "") != errors.Is(err, bundle.ErrNotFound) || len(r.Tried) == 0 {
			t.Errorf("%s: %+v, %v; want %q", name, r, err, c.want)
		}
		if err != nil && (!strings.Contains(err.Error(), strings.Join(r.Tried, ", ")) ||
			err.(*bundle.Error).Hint() == "") {
			t.Errorf("%s: error %v", name, err)
		}
	}
	for _, hook := range []string{"", ".", "/", "..", "a/../.."} {
		if _, err := bundle.Resolve(hook, bundle.Loader{Gateway: semver.MustParse("5.2.5")},
			two); err == nil || errors.Is(err, bundle.ErrNotFound) {
			t.Errorf("path %q: %v", hook, err)
		}
	}
	if _, err := bundle.Resolve("plugin.so", bundle.Loader{Gateway: nil}, two); err == nil {
		t.Error("no version, no error")
	}
}

func TestManifestResolve(t *testing.T) {
	t.Parallel()
	m := goManifest("plugin_4.1.0_linux_amd64.so", "plugin_v5.2.5_linux_amd64.so")
	m.Middleware.Post[0].Path = "plugin.so"
	m.Middleware.Response = []bundle.Hook{{Name: "R", Path: "plugin.so"}}
	m.Middleware.Pre = []bundle.Hook{{Name: "P", Path: "plugin.so", Disabled: true}}
	m.Middleware.AuthCheck = bundle.Hook{Name: "A", Path: "plugin.so"}

	all, err := m.Resolve(semver.MustParse("5.2.5"), "", "")
	if err != nil || len(all) != 3 || all[0].Hook != "custom_middleware.auth_check" ||
		all[2].File != "plugin_v5.2.5_linux_amd64.so" {
		t.Errorf("5.2.5: %+v, %v", all, err)
	}
	// 4.1.0 knows neither of disabled hooks nor of versioned response plugins.
	all, err = m.Resolve(semver.MustParse("4.1.0"), "", "")
	if !errors.Is(err, bundle.ErrNotFound) || strings.Count(err.Error(), "\n") != 0 ||
		!strings.Contains(err.Error(), "response[0]") ||
		len(all) != 4 || all[0].File != "plugin_4.1.0_linux_amd64.so" || all[3].File != "" {
		t.Errorf("4.1.0: %+v, %v", all, err)
	}
	m.Middleware.Driver = "python"
	if _, err := m.Resolve(semver.MustParse("5.2.5"), "", ""); err == nil ||
		!strings.Contains(err.Error(), "python") {
		t.Errorf("python: %v", err)
	}
}

// Every release with the first and the last of each loader order, in both
// directions. Either there is a plan that both gateways follow, or one gateway takes the exact
// name first and the other accepts no other name.
func TestLoadedFiles(t *testing.T) {
	t.Parallel()
	m := goManifest("b.so", "a_v5.2.5_linux_amd64.so", "a_v5.2.5_linux_arm64.so", "unused.so")
	m.Middleware.Post[0].Path = "b.so"
	m.Middleware.Pre = []bundle.Hook{{Name: "P", Path: "a.so"}, {Name: "Q", Path: "b.so"}}
	m.Middleware.Response = []bundle.Hook{{Name: "R", Path: "a.so"}}
	for goarch, want := range map[string]string{"amd64": "[a_v5.2.5_linux_amd64.so b.so]",
		"arm64": "[a_v5.2.5_linux_arm64.so b.so]"} {
		files, err := m.LoadedFiles(semver.MustParse("5.2.5"), "linux", goarch)
		if err != nil || fmt.Sprint(files) != want {
			t.Errorf("%s: %v, %v, want %s", goarch, files, err, want)
		}
	}
	// One hook without a file is an error, even if the others have theirs.
	if files, err := m.LoadedFiles(semver.MustParse("5.3.0"), "", ""); files != nil ||
		!errors.Is(err, bundle.ErrNotFound) {
		t.Errorf("%v, %v", files, err)
	}
}

func TestEachSymbol(t *testing.T) {
	t.Parallel()
	m := goManifest("b.so")
	m.Middleware.Pre = []bundle.Hook{{Name: "P", Path: "a.so"}, {Name: "D", Path: "a.so", Disabled: true}}
	m.Middleware.Response = []bundle.Hook{{Name: "R", Path: "a.so"}}
	m.Middleware.Post = nil
	var got []string
	add := func(file, name string, response bool) { got = append(got, file+" "+name+" "+fmt.Sprint(response)) }
	if err := m.EachSymbol(add); err != nil || fmt.Sprint(got) != "[a.so P false a.so R true]" {
		t.Errorf("%q, %v", got, err)
	}
	m.Middleware.Driver = "otto"
	got = nil
	if err := m.EachSymbol(add); !errors.Is(err, bundle.ErrManifest) || got != nil {
		t.Errorf("otto: %q, %v", got, err)
	}
}

func TestForUpgradeEveryRelease(t *testing.T) {
	t.Parallel()
	data, err := os.ReadFile("testdata/loaders.json")
	if err != nil {
		t.Fatal(err)
	}
	var loaders map[string]string
	if err := json.Unmarshal(data, &loaders); err != nil {
		t.Fatal(err)
	}
	compiled := func(v string) string {
		if loaders[v] == "exact-only" {
			return "plugin.so"
		}
		return "plugin_v" + v + "_linux_amd64.so"
	}
	ends := []string{"3.0.0", "4.0.16", "4.1.0", "4.2.4", "4.3.0", "4.3.1", "4.3.2", "5.14.0"}
	var pairs [][2]string
	for version := range loaders {
		for _, end := range ends {
			if version != end {
				pairs = append(pairs, [2]string{version, end}, [2]string{end, version})
			}
		}
	}
	plans, refused := 0, 0
	for _, pair := range pairs {
		current, target := pair[0], pair[1]
		from, to := loaders[current], loaders[target]
		u := bundle.Upgrade{
			From: semver.MustParse(current), To: semver.MustParse(target),
			Plugins: []bundle.Plugin{{Current: "old/" + compiled(current), Target: "new/" +
				compiled(target)}},
		}
		p, err := bundle.ForUpgrade(u)
		exactOnly := from == "exact-only" || to == "exact-only"
		exactFirst := strings.HasPrefix(from, "exact") && strings.HasPrefix(to, "exact")
		if (err != nil) != (exactOnly && exactFirst) {
			t.Fatalf("%s to %s: %+v, %v", current, target, p, err)
		}
		if err != nil {
			if !errors.Is(err, bundle.ErrNoUpgrade) || err.(*bundle.Error).Hint() == "" {
				t.Fatalf("%s to %s: %v", current, target, err)
			}
			refused++
			continue
		}
		plans++
		c, err1 := bundle.Resolve(p.Plugins[0].Hook, bundle.Loader{Gateway: u.From}, p.FileList)
		n, err2 := bundle.Resolve(p.Plugins[0].Hook, bundle.Loader{Gateway: u.To}, p.FileList)
		if err1 != nil || err2 != nil || p.Sources[c.File] != u.Plugins[0].Current ||
			p.Sources[n.File] != u.Plugins[0].Target || len(p.FileList) != 2 {
			t.Fatalf("%s to %s: %+v", current, target, p)
		}
	}
	if plans == 0 || refused == 0 {
		t.Errorf("%d plans, %d refused", plans, refused)
	}
}

func TestForUpgrade(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		current, oldFile, target, newFile string
		response                          bool
		hook                              string
		files                             string // name=source …
		err                               string
	}{
		"the procedure": {"4.0.8", "plugin.so", "5.2.5", "plugin_v5.2.5_linux_amd64.so", false,
			"plugin.so", "plugin.so=plugin.so plugin_v5.2.5_linux_amd64.so=plugin_v5.2.5_linux_amd64.so",
			""},
		"both versioned": {"5.0.3", "plugin_v5.0.3_linux_amd64.so", "5.2.5",
			"plugin_v5.2.5_linux_amd64.so", false,
			"plugin.so", "plugin_v5.0.3_linux_amd64.so=plugin_v5.0.3_linux_amd64.so " +
				"plugin_v5.2.5_linux_amd64.so=plugin_v5.2.5_linux_amd64.so", ""},
		"from 4.1.0, renamed as needed there": {"4.1.0", "plugin.so", "5.2.5",
			"plugin_v5.2.5_linux_amd64.so", false,
			"plugin.so", "plugin.so=plugin.so plugin_v5.2.5_linux_amd64.so=plugin_v5.2.5_linux_amd64.so",
			""},
		"to 4.2.4: copies without v, nothing exact": {"4.1.0", "plugin.so", "4.2.4",
			"plugin_v4.2.4_linux_amd64.so", false,
			"plugin.so", "plugin_4.1.0_linux_amd64.so=plugin.so " +
				"plugin_4.2.4_linux_amd64.so=plugin_v4.2.4_linux_amd64.so", ""},
		"to 4.3.1: its own name will do": {"4.2.0", "plugin.so", "4.3.1", "plugin_v4.3.1_linux_amd64.so",
			false,
			"plugin.so", "plugin_4.2.0_linux_amd64.so=plugin.so " +
				"plugin_v4.3.1_linux_amd64.so=plugin_v4.3.1_linux_amd64.so", ""},
		"bases differ": {"4.0.8", "mine.so", "5.2.5", "plugin_v5.2.5_linux_amd64.so", false,
			"mine.so", "mine.so=mine.so mine_v5.2.5_linux_amd64.so=plugin_v5.2.5_linux_amd64.so", ""},
		"same name in two directories": {"4.0.8", "old/plugin.so", "5.2.5", "new/plugin.so", false,
			"plugin.so", "plugin.so=old/plugin.so plugin_v5.2.5_linux_amd64.so=new/plugin.so", ""},
		"rolling back": {"5.2.5", "plugin_v5.2.5_linux_amd64.so", "4.0.8", "plugin.so", false,
			"plugin.so", "plugin_v5.2.5_linux_amd64.so=plugin_v5.2.5_linux_amd64.so plugin.so=plugin.so",
			""},
		"response from 4.1.0": {"4.1.0", "plugin.so", "5.2.5", "plugin_v5.2.5_linux_amd64.so", true,
			"plugin.so", "plugin.so=plugin.so plugin_v5.2.5_linux_amd64.so=plugin_v5.2.5_linux_amd64.so",
			""},
		"response to 4.2.4": {"4.1.0", "plugin.so", "4.2.4", "plugin_v4.2.4_linux_amd64.so", true,
			"", "", "for response hooks"},
		"4.0.8 to 4.1.0": {"4.0.8", "plugin.so", "4.1.0", "plugin_v4.1.0_linux_amd64.so",
			false, "", "", "gateway 4.0.8 loads the exact name"},
		"4.1.0 back to 4.0.8": {"4.1.0", "plugin_v4.1.0_linux_amd64.so", "4.0.8", "plugin.so",
			false, "", "", "gateway 4.0.8 loads the exact name"},
		"4.0.8 to 4.0.9": {"4.0.8", "a/plugin.so", "4.0.9", "b/plugin.so", false, "", "",
			"no single bundle"},
		"same version": {"5.2.5", "a.so", "5.2.5", "b.so", false, "", "", "both are 5.2.5"},
		"same file": {"4.0.8", "plugin.so", "5.2.5", "plugin.so", false, "", "",
			"both versions"},
		"named for another version": {"4.0.8", "plugin.so", "5.2.5", "plugin_v5.2.4_linux_amd64.so",
			false, "", "", "another one than 5.2.5"},
		"named for another machine": {"4.0.8", "plugin.so", "5.2.5", "plugin_v5.2.5_linux_arm64.so",
			false, "", "", "another one than 5.2.5"},
		"no plugin": {"4.0.8", "plugin.so", "5.2.5", "plugin.zip", false, "", "",
			"not the name of a .so"},
	} {
		p, err := bundle.ForUpgrade(bundle.Upgrade{
			From: semver.MustParse(c.current), To: semver.MustParse(c.target),
			Plugins: []bundle.Plugin{{Current: c.oldFile, Target: c.newFile, Response: c.response}},
		})
		if c.err != "" {
			if err == nil || !strings.Contains(err.Error(), c.err) {
				t.Errorf("%s: error %v", name, err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		var got []string
		for _, f := range p.FileList {
			got = append(got, f+"="+p.Sources[f])
		}
		if p.Plugins[0].Hook != c.hook || strings.Join(got, " ") != c.files {
			t.Errorf("%s: hook %s, %s", name, p.Plugins[0].Hook, strings.Join(got, " "))
		}
	}
	if _, err := bundle.ForUpgrade(bundle.Upgrade{}); err == nil {
		t.Error("nothing given, no error")
	}
}

// The plan for 4.0.8 to 5.2.5, applied to what ran before, is the manifest that
// the procedure prints.
func TestForUpgradeGivesTheProcedure(t *testing.T) {
	t.Parallel()
	p := upgradePlan(t, "4.0.8", "plugin.so", "5.2.5", "plugin_v5.2.5_linux_amd64.so", false)
	before := goManifest("plugin.so")
	before.Middleware.IDExtractor.ExtractorConfig = map[string]any{}
	before.Checksum, before.Signature = "old", "old"
	after, err := p.Manifest(before)
	if err != nil {
		t.Fatal(err)
	}
	var got, want bytes.Buffer
	for m, b := range map[*bundle.Manifest]*bytes.Buffer{after: &got, parseFile(t, example): &want} {
		if _, err := m.WriteTo(b); err != nil {
			t.Fatal(err)
		}
	}
	if got.String() != want.String() || len(before.FileList) != 1 || before.Checksum != "old" {
		t.Errorf("got %s\nwant %s\nargument now %+v", &got, &want, before)
	}
}

func upgradePlan(t *testing.T, current, oldFile, target, newFile string,
	response bool) *bundle.UpgradePlan {
	t.Helper()
	p, err := bundle.ForUpgrade(bundle.Upgrade{
		From: semver.MustParse(current), To: semver.MustParse(target),
		Plugins: []bundle.Plugin{{Current: oldFile, Target: newFile, Response: response}},
	})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestPlanManifest(t *testing.T) {
	t.Parallel()
	p := upgradePlan(t, "4.1.0", "old/plugin.so", "4.2.4", "new/plugin_v4.2.4_linux_amd64.so", false)
	m := goManifest("other.so", "plugin.so")
	m.Middleware.Pre = []bundle.Hook{{Name: "P", Path: "plugin.so"}}
	n, err := p.Manifest(m)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Join(n.FileList, " ") != "other.so plugin_4.1.0_linux_amd64.so "+
		"plugin_4.2.4_linux_amd64.so" ||
		n.Middleware.Post[0].Path != "other.so" || m.Middleware.Pre[0].Path != "plugin.so" {
		t.Errorf("manifest %+v", n)
	}
	// The files need not be copied: the plan serves them under their new names.
	src := files("old/plugin.so", "new/plugin_v4.2.4_linux_amd64.so", "other.so")
	var zipped bytes.Buffer
	if _, err := bundle.Write(&zipped, p.FS(src), n, bundle.Options{}); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := extract(t.Context(), zipped.Bytes(), dir, bundle.VerifyOptions{}); err != nil {
		t.Fatal(err)
	}
	for name, source := range p.Sources {
		if got, err := os.ReadFile(dir + "/" + name); err != nil || !bytes.Equal(got, src[source].Data) {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}

	for name, c := range map[string]struct {
		change func(m *bundle.Manifest)
		want   string
	}{
		"not in the list": {func(m *bundle.Manifest) { m.FileList = m.FileList[:1] }, "it lacks the current build"},
		"no hook":         {func(m *bundle.Manifest) { m.Middleware.Pre = nil }, "no hook makes gateway"},
		"another build in the way": {func(m *bundle.Manifest) {
			m.FileList = append(m.FileList, "plugin_4.0.0_linux_amd64.so")
			m.Middleware.Pre = append(m.Middleware.Pre, bundle.Hook{Name: "P", Path: "plugin.so"})
			m.FileList = append(m.FileList, "plugin.so")
		}, "instead of"},
		"response hook": {func(m *bundle.Manifest) {
			m.Middleware.Response = []bundle.Hook{{Name: "R", Path: "plugin.so"}}
		}, "Plugin.Response"},
	} {
		m := m
		m = &bundle.Manifest{FileList: slices.Clone(m.FileList), Middleware: m.Middleware}
		c.change(m)
		if _, err := p.Manifest(m); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
