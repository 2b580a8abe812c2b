package bundle_test

import (
	"bytes"
	"path/filepath"
	"strings"
	"testing"

	"github.com/Masterminds/semver/v3"

	"example.com/tykupgrade/bundle"
)

// Gateways clean names and take files that are listed twice, as tyk bundle build
// writes them; so does this package.
func TestNamesAreCleaned(t *testing.T) {
	t.Parallel()
	for name, list := range map[string][]string{"dot slash": {"./plugin.so"}, "twice": {"plugin.so",
		"plugin.so"}, "both": {"./plugin.so", "plugin.so"}} {
		m := goManifest("plugin.so")
		m.FileList = list
		m.Middleware.Post[0].Path = "./plugin.so"
		var zip bytes.Buffer
		if _, err := bundle.Write(&zip, files("plugin.so"), m, bundle.Options{}); err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		got, err := verify(zip.Bytes(), bundle.VerifyOptions{Expect: m})
		if err != nil || strings.Join(got.FileList, " ") != strings.Join(list, " ") {
			t.Errorf("%s: %v, %v", name, got, err)
		}
		dir := filepath.Join(t.TempDir(), "x")
		if err := extract(t.Context(), zip.Bytes(), dir, bundle.VerifyOptions{}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		only(t, dir, "manifest.json", "plugin.so")
		if r, err := got.Resolve(semver.MustParse("5.2.5"), "", ""); err != nil ||
			r[0].File != "plugin.so" {
			t.Errorf("%s: %v, %v", name, r, err)
		}
	}
	m := goManifest("lib/plugin.so")
	if _, err := bundle.Write(&bytes.Buffer{}, files("lib/plugin.so"), m,
		bundle.Options{}); err == nil {
		t.Error("a file in a directory was accepted")
	}
}

// A directory entry alone is what a hand-made zip may have.
func TestDirectoryEntry(t *testing.T) {
	t.Parallel()
	data := craft(t, entry{name: "empty/"}, entry{name: "a", data: "abc"}, entry{name: manifest,
		data: abcOnly})
	if _, err := verify(data, bundle.VerifyOptions{}); err != nil {
		t.Error(err)
	}
	// What the Finder adds, in a directory that comes first.
	data = craft(t, entry{name: "a", data: "abc"}, entry{name: ".DS_Store", data: "x"},
		entry{name: "__MACOSX/"},
		entry{name: "__MACOSX/._a", data: "x"}, entry{name: manifest, data: abcOnly})
	if _, err := verify(data, bundle.VerifyOptions{}); err != nil {
		t.Error(err)
	}
	dir := filepath.Join(t.TempDir(), "x")
	if err := extract(t.Context(), data, dir, bundle.VerifyOptions{}); err != nil {
		t.Error(err)
	}
	only(t, dir, "a", "manifest.json")
}

func TestTrafficLogs(t *testing.T) {
	t.Parallel()
	m := goManifest("plugin.so", "log.so", "log_v5.15.0_linux_amd64.so")
	var before, after bytes.Buffer
	if _, err := m.WriteTo(&before); err != nil || strings.Contains(before.String(), "traffic_logs") {
		t.Errorf("5.14 writes none: %s, %v", &before, err)
	}
	m.Middleware.TrafficLogs = &bundle.Hook{Name: "Log", Path: "log.so"}
	if _, err := m.WriteTo(&after); err != nil || !strings.Contains(after.String(),
		`"auth_check":{"disabled":false,"name":"","path":"","require_session":false,"raw_body_only":false},"traffic_logs":{`) {
		t.Errorf("%s, %v", &after, err)
	}
	if parsed, err := bundle.Parse(after.Bytes()); err != nil ||
		parsed.Middleware.TrafficLogs == nil || len(parsed.Unknown) > 0 {
		t.Errorf("%+v, %v", parsed, err)
	}
	found := m.Validate(files(m.FileList...))
	if len(found) != 1 || found[0].Severity != bundle.Accepted || !strings.Contains(found[0].Problem,
		"before 5.15") {
		t.Errorf("%+v", found)
	}
	for version, want := range map[string]string{"5.14.0": "plugin.so", "5.15.0": "plugin.so log.so",
		"5.15.0-rc1": "plugin.so log.so"} {
		all, err := m.Resolve(semver.MustParse(version), "", "")
		var got []string
		for _, r := range all {
			got = append(got, r.File)
		}
		if err != nil || strings.Join(got, " ") != want {
			t.Errorf("%s: %v, %v", version, got, err)
		}
	}
	// Two builds cannot share the exact name that traffic_logs needs.
	p, err := bundle.ForUpgrade(bundle.Upgrade{From: semver.MustParse("5.15.0"),
		To:      semver.MustParse("5.16.0"),
		Plugins: []bundle.Plugin{{Current: "old/log.so", Target: "new/log_v5.16.0_linux_amd64.so"}}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.Manifest(m); err == nil || !strings.Contains(err.Error(), "exact name") {
		t.Errorf("%v", err)
	}
	m.Middleware.TrafficLogs = &bundle.Hook{Name: "Log", Path: "none.so"}
	if found := m.Validate(nil); len(found) != 2 || found[1].Severity != bundle.Refused {
		t.Errorf("%+v", found)
	}
}

func TestCheckList(t *testing.T) {
	t.Parallel()
	auth := func(name string) bundle.Listed {
		m := goManifest(name)
		m.Middleware.AuthCheck = bundle.Hook{Name: "Auth", Path: name}
		return bundle.Listed{Name: name + ".zip", Manifest: m}
	}
	python := goManifest("x.so")
	python.Middleware.Driver = "python"
	logs := goManifest("l.so")
	logs.Middleware.TrafficLogs = &bundle.Hook{Name: "Log", Path: "l.so"}
	for name, c := range map[string]struct {
		list []bundle.Listed
		want string
	}{
		"fine": {[]bundle.Listed{auth("a.so"), {Name: "b.zip", Manifest: goManifest("b.so")}},
			""},
		"auth twice": {[]bundle.Listed{auth("a.so"), auth("b.so")}, "refused auth_check"},
		"two drivers": {[]bundle.Listed{auth("a.so"), {Name: "p.zip", Manifest: python}},
			"refused driver"},
		"traffic logs": {[]bundle.Listed{auth("a.so"), {Name: "l.zip", Manifest: logs}},
			"accepted traffic_logs"},
		"one directory": {[]bundle.Listed{{Name: "x.zip", Manifest: goManifest("a.so")}, {Name: "x.ZIP",
			Manifest: goManifest("b.so")}}, "refused directory"},
	} {
		var got []string
		for _, f := range bundle.CheckList(c.list) {
			got = append(got, string(f.Severity)+" "+f.Problem)
		}
		if (c.want == "") != (len(got) == 0) || len(got) > 1 || len(got) == 1 &&
			(!strings.HasPrefix(got[0], strings.Fields(c.want)[0]) || !strings.Contains(got[0],
				strings.Fields(c.want)[1])) {
			t.Errorf("%s: %v", name, got)
		}
	}
}
