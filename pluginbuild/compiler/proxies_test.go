package compiler_test

import (
	"maps"
	"os"
	"path/filepath"
	"testing"

	"example.com/tykupgrade/pluginbuild/compiler"
)

// A proxy that the caller gives in one spelling hides that of docker's configuration in
// both.
func TestWithProxiesGiven(t *testing.T) {
	dir := cleanDockerEnv(t)
	if err := os.WriteFile(filepath.Join(dir, "config.json"),
		[]byte(`{"proxies": {"default": {"httpProxy": "http://all", "noProxy": "all"}}}`),
		0o600); err != nil {
		t.Fatal(err)
	}
	for _, given := range []map[string]string{{"http_proxy": ""}, {"HTTP_PROXY": "http://mine"},
		{"Http_Proxy": "x"}} {
		want := maps.Clone(given)
		want["NO_PROXY"], want["no_proxy"] = "all", "all"
		got, err := compiler.WithProxies(given, "", "unix:///run/docker.sock")
		if err != nil || !maps.Equal(got, want) {
			t.Errorf("%v: %v, %v, want %v", given, got, err, want)
		}
	}
}
