package main

import (
	"bytes"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"example.com/tykupgrade/examples/internal/cli"
	"example.com/tykupgrade/internal/lab/canary"
)

// The address of a hook is a secret, as those of chat rooms are. It is in no output, file or
// argument of a run that succeeds, of one that the hook vetoes, or of what reports them.
func TestHookSecret(t *testing.T) {
	const secret = "c4n4ry-hook-51d2"
	var asked atomic.Int32
	veto := atomic.Bool{}
	room := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		if q.URL.Path == "/"+secret {
			asked.Add(1)
		}
		if body, _ := io.ReadAll(q.Body); veto.Load() || len(body) == 0 {
			http.Error(w, "not now: "+q.URL.String(), http.StatusForbidden)
		}
	}))
	defer room.Close()
	t.Setenv("ROLLING_TEST_ROOM", room.URL+"/"+secret)
	s, _, file := newSite(t, "drain: {grace: 300ms}\nhooks:\n- {name: room, on: [before_run, before_target, "+
		"after_target, after_run], url_env: ROLLING_TEST_ROOM}\n")
	canary.Watch(t, func(p canary.Process) bool { return bytes.Contains(p.Args, []byte(secret)) })
	clean := func(what string, data []byte) {
		t.Helper()
		if bytes.Contains(data, []byte(secret)) {
			t.Errorf("the secret is in %s:\n%s", what, data)
		}
	}
	page := filepath.Join(s.Dir, "report.html")
	for _, c := range []struct {
		args string
		code int
		want string
	}{
		{"plan", cli.Yes, "tyk-gateway 4.0.8 → 5.2.5"},
		{"run -yes", cli.Yes, "outcome   done"},
		{"report -html " + page, cli.Yes, ""},
		{"report -json", cli.Yes, `"done"`},
		{"audit", cli.Yes, `"event":"done"`},
		{"undo -yes", cli.No, "403"},                // a veto
		{"undo -yes", cli.No, "connection refused"}, // the room is gone
	} {
		veto.Store(strings.HasPrefix(c.args, "undo"))
		if strings.HasPrefix(c.want, "connection") {
			room.Close()
		}
		code, out := rolling(t, s, append([]string{"-file", file}, strings.Fields(c.args)...)...)
		if code != c.code || !strings.Contains(out, c.want) {
			t.Errorf("%s: exit code %d, want %d and %q\n%s", c.args, code, c.code, c.want, out)
		}
		clean(c.args, []byte(out))
	}
	if n := asked.Load(); n < 6 {
		t.Errorf("the hook was called %d times", n)
	}
	err := filepath.WalkDir(s.Dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		data, err := os.ReadFile(path)
		clean(path, data)
		return err
	})
	if err != nil {
		t.Error(err)
	}
}
