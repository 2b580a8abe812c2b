package compiler_test

import (
	"maps"
	"os"
	"path/filepath"
	"testing"

	"example.com/tykupgrade/pluginbuild/compiler"
)

// What `go env -w` wrote about modules reaches the compiler, its GOFLAGS do not.
func TestHostEnv(t *testing.T) {
	file := filepath.Join(t.TempDir(), "env")
	if err := os.WriteFile(file,
		[]byte("GOPROXY=https://file\nGOPRIVATE=a.example.org\nGOSUMDB=off\nGOFLAGS=-buildvcs=false\nGOTOOLCHAIN=local\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"GOPROXY", "GOPRIVATE", "GONOPROXY", "GONOSUMDB", "GOINSECURE",
		"GOVCS", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "no_proxy"} {
		t.Setenv(name, "")
	}
	t.Setenv("GOENV", file)
	t.Setenv("GOSUMDB", "sum.example.org")
	t.Setenv("https_proxy", "http://proxy")
	got, err := compiler.HostEnv(map[string]string{"GOPROXY": "", "CC": "x"})
	want := map[string]string{"GOPROXY": "", "CC": "x", "GOPRIVATE": "a.example.org",
		"GOSUMDB": "sum.example.org", "https_proxy": "http://proxy"}
	if err != nil || !maps.Equal(got, want) {
		t.Errorf("%v, %v, want %v", got, err, want)
	}
	for _, name := range []string{"HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy",
		"no_proxy"} {
		t.Setenv(name, "of "+name)
		if got, err := compiler.HostEnv(nil); err != nil || got[name] != "of "+name {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
}
