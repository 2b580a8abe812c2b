package apidef_test

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/Masterminds/semver/v3"

	"example.com/tykupgrade/bundle"
	"example.com/tykupgrade/bundle/apidef"
	"example.com/tykupgrade/bundle/bundletest"
)

func apps(t *testing.T, docs map[string]string) apidef.Directory {
	t.Helper()
	dir := t.TempDir()
	for name, text := range docs {
		if err := os.WriteFile(filepath.Join(dir, name+".json"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return apidef.Directory{Path: dir}
}

// Every place where a definition may name a plugin.
var places = map[string]string{
	"bundled": `{"api_id":"bundled","custom_middleware_bundle":"a.zip","custom_middleware":{"driver":"goplugin","post":[{"name":"P","path":"plugin.so"}]}}`,
	"files": `{"api_id":"files","custom_middleware_bundle":"off.zip","custom_middleware_bundle_disabled":true,
		"custom_middleware":{"driver":"goplugin","pre":[{"name":"A","path":"/opt/a.so"},{"name":"B","path":"/opt/b.so","disabled":true}],"auth_check":{"name":"C","path":"/opt/c.so"},"response":[{"name":"R","path":"/opt/r.so"}],"traffic_logs":{"name":"T","path":"/opt/t.so"}},
		"version_data":{"versions":{"Default":{"extended_paths":{"go_plugin":[{"path":"/x","method":"GET","plugin_path":"/opt/x.so","func_name":"X"}]}}}},
		"analytics_plugin":{"enable":true,"plugin_path":"/opt/an.so","func_name":"An"}}`,
	"idle":    `{"api_id":"idle","active":false,"custom_middleware_bundle":"idle.zip"}`,
	"python":  `{"api_id":"python","custom_middleware":{"driver":"python","pre":[{"name":"A","path":"/opt/a.py"}]}}`,
	"oas":     `{"api_id":"oas","is_oas":true,"custom_middleware_bundle":"stale.zip"}`,
	"oas-oas": `{"x-tyk-api-gateway":{"middleware":{"global":{"pluginConfig":{"driver":"goplugin","bundle":{"enabled":true,"path":"o.zip"}},"prePlugins":[{"enabled":true,"functionName":"Pre","path":"pre.so"}],"trafficLogs":{"enabled":true,"plugins":[{"enabled":true,"functionName":"Log","path":"/opt/log.so"}]}},"operations":{"getX":{"postPlugins":[{"enabled":false,"functionName":"Op","path":"/opt/op.so"}]}}}}}`,
}

func TestInventory(t *testing.T) {
	t.Parallel()
	inv, err := apidef.List(t.Context(), apps(t, places), old)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, u := range inv.Uses {
		got = append(got, fmt.Sprint(u.API, " ", u.Bundles, " disabled ", u.Disabled, " inactive ",
			u.Inactive, " oas ", u.OAS))
		for _, p := range u.Plugins {
			got = append(got, fmt.Sprint("  ", p.At, " ", p.Path, " ", p.Symbol, " disabled ", p.Disabled,
				" bundled ", p.Bundled))
		}
	}
	want := `bundled [a.zip] disabled false inactive false oas false
  custom_middleware.post[0] plugin.so P disabled false bundled true
files [off.zip] disabled true inactive false oas false
  custom_middleware.pre[0] /opt/a.so A disabled false bundled false
  custom_middleware.pre[1] /opt/b.so B disabled true bundled false
  custom_middleware.auth_check /opt/c.so C disabled false bundled false
  custom_middleware.response[0] /opt/r.so R disabled false bundled false
  custom_middleware.traffic_logs /opt/t.so T disabled false bundled false
  version_data.versions.Default.extended_paths.go_plugin[0] /opt/x.so X disabled false bundled false
  analytics_plugin /opt/an.so An disabled false bundled false
idle [idle.zip] disabled false inactive true oas false
oas [o.zip] disabled false inactive false oas true
  x-tyk-api-gateway.middleware.global.prePlugins[0] pre.so Pre disabled false bundled true
  x-tyk-api-gateway.middleware.global.trafficLogs.plugins[0] /opt/log.so Log disabled false bundled false
  x-tyk-api-gateway.middleware.operations.getX.postPlugins[0] /opt/op.so Op disabled true bundled false
python [] disabled false inactive false oas false`
	if strings.Join(got, "\n") != want {
		t.Errorf("got\n%s", strings.Join(got, "\n"))
	}
	if b := inv.Bundles(); !reflect.DeepEqual(b, map[string][]string{"a.zip": {"bundled"},
		"o.zip": {"oas"}}) {
		t.Errorf("bundles %v", b)
	}
	if d := inv.OnDisk(); len(d) != 7 ||
		d["/opt/x.so"][0] != "files version_data.versions.Default.extended_paths.go_plugin[0]" ||
		d["/opt/log.so"] == nil {
		t.Errorf("on disk %v", d)
	}
	if _, err := json.Marshal(inv); err != nil {
		t.Error(err)
	}
}

// Seen on a real gateway: APIs with different bundle names and the same plugin
// file; only the first that is loaded keeps its plugin.
func TestInventoryClashes(t *testing.T) {
	t.Parallel()
	docs := map[string]string{}
	opens := map[string][]bundle.Open{}
	for i := range 12 {
		name := fmt.Sprintf("b%02d.zip", i)
		docs[name] = fmt.Sprintf(`{"api_id":"api%02d","custom_middleware_bundle":%q}`, i, name)
		m := bundletest.Files{"plugin.so": {}}.Manifest("plugin.so")
		var err error
		opens[name], err = m.Opens(name, bundle.Loader{Gateway: old}, func(string) (string,
			error) {
			return bundletest.Plugin{Path: "example.org/p"}.Path, nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	docs["disk"] = `{"api_id":"disk","analytics_plugin":{"enable":true,"plugin_path":"/opt/an.so","func_name":"An"}}`
	inv, err := apidef.List(t.Context(), apps(t, docs), old)
	if err != nil {
		t.Fatal(err)
	}
	clashes, err := inv.Clashes(opens, func(string) (string, error) {
		return "example.org/other",
			nil
	})
	if err != nil || len(clashes) != 11 || clashes[0].First.Bundle != "b00.zip" ||
		clashes[10].Second.Bundle != "b11.zip" {
		t.Errorf("%d: %v, %v", len(clashes), clashes, err)
	}
	clashes, err = inv.Clashes(nil, func(string) (string, error) { return "", os.ErrPermission })
	if err == nil || !strings.Contains(err.Error(), "disk") {
		t.Errorf("%v, %v", clashes, err)
	}
}

func TestSignatures(t *testing.T) {
	t.Parallel()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	other, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	docs := map[string]string{}
	for name, signer := range map[string]*rsa.PrivateKey{"good.zip": key, "other.zip": other,
		"unsigned.zip": nil} {
		o := bundle.Options{}
		if signer != nil {
			o.Signer = signer
		}
		data, err := bundletest.Files{"plugin.so": {}}.Zip("plugin.so", o)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
		docs[name] = fmt.Sprintf(`{"api_id":"api-%s","custom_middleware_bundle":%q}`, name, name)
	}
	inv, err := apidef.List(t.Context(), apps(t, docs), old)
	if err != nil {
		t.Fatal(err)
	}
	v := semver.MustParse
	hosts := []apidef.Host{{Name: "gw1", From: v("5.0.11"), To: v("5.0.12"), Key: &key.PublicKey},
		{Name: "gw2", From: v("5.1.0"), To: v("5.3.0"), Key: &key.PublicKey}, {Name: "gw3",
			From: v("5.2.5"), To: v("5.14.0")}}
	found, err := inv.Signatures(t.Context(), hosts, func(_ context.Context, name string) (string,
		error) {
		return filepath.Join(dir, name), nil
	})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, f := range found {
		got = append(got, fmt.Sprint(f.Host, " ", f.Bundle, " ", f.APIs, " ", f.Release, " ", f.Blocks))
	}
	want := `gw1 other.zip [api-other.zip] 5.0.11 false
gw1 other.zip [api-other.zip] 5.0.12 true
gw2 other.zip [api-other.zip] 5.1.0 false
gw2 other.zip [api-other.zip] 5.3.0 false
gw1 unsigned.zip [api-unsigned.zip] 5.0.11 false
gw1 unsigned.zip [api-unsigned.zip] 5.0.12 true
gw2 unsigned.zip [api-unsigned.zip] 5.1.0 false
gw2 unsigned.zip [api-unsigned.zip] 5.3.0 false`
	if strings.Join(got, "\n") != want {
		t.Errorf("got\n%s", strings.Join(got, "\n"))
	}
	if s := found[1].String(); !strings.Contains(s, "gateway 5.0.12 refuses bundle other.zip of API "+
		"api-other.zip") {
		t.Error(s)
	}
	if _, err := inv.Signatures(t.Context(), hosts, func(_ context.Context, name string) (string,
		error) {
		return filepath.Join(dir, "none"), nil
	}); err == nil {
		t.Error("a bundle that is not there")
	}
}
