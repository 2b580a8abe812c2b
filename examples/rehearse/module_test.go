package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"example.com/tykupgrade/examples/internal/cli"
	"example.com/tykupgrade/internal/lab"
)

// theirs is a user's module that uses what plugins usually use of Tyk's.
func theirs(t *testing.T, call string) (dir string) {
	t.Helper()
	dir = t.TempDir()
	for name, text := range map[string]string{
		"go.mod": "module example.com/acme/plugin\n\ngo 1.15\n",
		"plugin.go": `package main

import (
	"net/http"

	"github.com/TykTechnologies/tyk/ctx"
	"github.com/TykTechnologies/tyk/log"
)

var logger = log.Get()

func Tag(rw http.ResponseWriter, r *http.Request) {
	if s := ctx.` + call + `(r); s != nil {
		logger.WithField("alias", s.Alias).Infof("%d tags", len(s.Tags))
		r.Header.Add("Foo", "Bar")
	}
}

func main() {}
`} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// A module that uses more than the stub of Tyk's module has is told the way out.
func TestModuleBeyondTheStub(t *testing.T) {
	t.Parallel()
	needs(t)
	lab.Program(t, "gcc", "gcc")
	res := rehearse(t, []string{"DOCKER_HOST=unix:///nowhere/docker.sock"}, "-from", "5.0.3",
		"-to", "5.3.0", "-plugin", theirs(t, "GetTenant"))
	if res.code != cli.No || !strings.Contains(res.stderr, "undefined: ctx.GetTenant") ||
		!strings.Contains(res.stderr, "compile it with buildplugin for both releases") {
		t.Errorf("exit code %d\n%s", res.code, res.stderr)
	}
}
