package installation

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"example.com/tykupgrade/bundle"
	"example.com/tykupgrade/bundle/bundletest"
	"example.com/tykupgrade/debpkg/rollout"
	"example.com/tykupgrade/internal/lab"
	"example.com/tykupgrade/internal/lab/site"
	"example.com/tykupgrade/internal/lab/traffic"
)

// onlyThePlugin refuses answers without the header that the plugin adds.
func onlyThePlugin(r *http.Response) error {
	if r.Header.Get("Foo") == "" {
		return errors.New("the answer has no header Foo")
	}
	return nil
}

// switching is an upgrade of two gateways whose plugin is in the path of every request.
type switching struct {
	*site.Site
	front, plugin string
}

func newSwitching(t *testing.T) switching {
	t.Helper()
	s := site.Start(t, 2)
	build := func(gateway string) bundletest.Plugin {
		return bundletest.Plugin{Path: "example.com/plugins/foobar", Symbols: []string{"AddFooBarHeader"},
			Gateway: gateway}
	}
	zip, err := bundletest.Files{"plugin.so": build(site.Old)}.Zip("plugin.so", bundle.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.Mkdir(filepath.Join(s.Dir, "served"), 0o755),
		os.WriteFile(filepath.Join(s.Dir, "served", "foobar.zip"), zip, 0o644),
		os.WriteFile(filepath.Join(s.Dir, "plugin.so"), build(site.Old).Bytes(), 0o644),
		os.WriteFile(filepath.Join(s.Dir, "new.so"), build(site.New).Bytes(), 0o644)); err != nil {
		t.Fatal(err)
	}
	s.ServeBundles(t, "foobar.zip")
	return switching{s, s.HAProxy(t, "/hello"), fmt.Sprintf("plugin: {from: %s, current: plugin.so, "+
		"so: new.so, symbol: AddFooBarHeader, hook: post, bundle: {dir: bundles, name: foobar.zip, "+
		"serve: served, url: %q}}\n", site.Old, s.Bundles)}
}

// upgrade is one with lines added to the file.
func (s switching) upgrade(t *testing.T, more string) (*Upgrade, []rollout.Wave, rollout.Options) {
	t.Helper()
	file := filepath.Join(s.Dir, "upgrade.yaml")
	text := s.File(site.New, s.Lines()+"\ndrain: {grace: 300ms}\n"+s.plugin+more)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	u := prepared(t, file, nil, CheckBackup, CheckPreflight)
	u.Connect = s.Connect
	waves, err := u.Waves()
	if err != nil {
		t.Fatal(err)
	}
	return u, waves, u.RunOptions(t.Context(), waves)
}

// The default switch, with the plugin in the path of every request, there and back: no request
// fails, and none is answered without the plugin.
func TestSwitchUnderTraffic(t *testing.T) {
	t.Parallel()
	s := newSwitching(t)
	_, waves, o := s.upgrade(t, "")
	load := traffic.Options{Check: onlyThePlugin}.Run(4, s.front)
	if rep, err := rollout.Run(t.Context(), waves, o); err != nil {
		t.Fatal(err, rep.Events)
	}
	if v := s.Versions(); v != "5.2.5 5.2.5" {
		t.Errorf("versions %s", v)
	}
	if rep, err := rollout.Undo(t.Context(), waves, o); err != nil {
		t.Fatal(err, rep.Events)
	}
	if v := s.Versions(); v != "4.0.8 4.0.8" {
		t.Errorf("versions %s", v)
	}
	sent, failed, why := load.End(500)
	if failed > 0 {
		t.Errorf("%d of %d requests failed, the first: %v", failed, sent, why)
	}
	t.Logf("%d of %d requests failed", failed, sent)
}

// A new name with the plugin path that the gateways have loaded is refused. Forced, every request
// passes gateways of this release without the plugin: the test above would see it.
func TestSwitchThatTakesTrafficDown(t *testing.T) {
	t.Parallel()
	curl := lab.Program(t, "curl", "curl")
	s := newSwitching(t)
	script := "set -e\nsed -i \"s/$1/$2/\" " + s.Dir + "/h?/apps/*.json\n"
	for _, addr := range s.Addrs() {
		script += fmt.Sprintf("%s -sSf -o /dev/null -H x-tyk-authorization:%s http://%s/tyk/reload\n", curl,
			site.Secret, addr)
	}
	rename := filepath.Join(s.Dir, "rename")
	if err := os.WriteFile(rename, []byte(script), 0o600); err != nil {
		t.Fatal(err)
	}
	lines := fmt.Sprintf("switch: {mode: new_name, new: other.zip, force: %%v, rename: [sh, %q, "+
		"\"{from}\", \"{to}\"]}\n", rename)
	u, waves, o := s.upgrade(t, fmt.Sprintf(lines, false))
	p, err := u.Plan(t.Context())
	if err != nil || p.OK() || !strings.Contains(fmt.Sprint(p.Problems), "plugin already loaded") {
		t.Errorf("the plan accepts it: %v, %+v", err, p.Problems)
	}
	if _, err := rollout.Run(t.Context(), waves, o); err == nil || !strings.Contains(err.Error(),
		"plugin already loaded") {
		t.Errorf("the run accepts it: %v", err)
	}
	if err := os.Remove(o.Journal); err != nil {
		t.Fatal(err)
	}
	load := traffic.Options{Check: onlyThePlugin}.Run(2, s.front)
	if sent, failed, why := load.End(50); failed > 0 {
		t.Errorf("before: %d of %d requests failed, the first: %v", failed, sent, why)
	}
	_, waves, o = s.upgrade(t, fmt.Sprintf(lines, true))
	if _, err := rollout.Run(t.Context(), waves[:1], o); err != nil { // the preparation alone
		t.Fatal(err)
	}
	load = traffic.Options{Check: onlyThePlugin}.Run(2, s.front)
	if sent, failed, why := load.End(50); failed < sent || !strings.Contains(fmt.Sprint(why), "no header") {
		t.Errorf("%d of %d requests failed, the first: %v: the outage is not there", failed, sent, why)
	}
}
