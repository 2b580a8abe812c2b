package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"

	"github.com/Masterminds/semver/v3"

	"example.com/tykupgrade/examples/internal/cli"
)

// A host's container that is still there counts, another rehearsal's does not.
func TestHostsLeft(t *testing.T) {
	engine := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		switch {
		case strings.HasSuffix(q.URL.Path, "/_ping"):
			w.Header().Set("Api-Version", "1.41")
		case strings.HasSuffix(q.URL.Path, "/containers/json") && strings.Contains(q.URL.RawQuery,
			"tykupgrade.lab.host") && q.FormValue("all") == "1":
			_, _ = io.WriteString(w,
				`[{"Id": "0123456789abcdef", "Mounts": [{"Source": "/tmp/mine/stage/repo"}]}, {"Id": "f", "Mounts": [{"Source": "/tmp/other/stage/repo"}]}]`)
		default:
			t.Errorf("unexpected request %s", q.URL)
		}
	}))
	defer engine.Close()
	t.Setenv("DOCKER_HOST", "tcp://"+engine.Listener.Addr().String())
	left := &Left{}
	if err := hostsLeft(t.Context(), "/tmp/mine/stage", left); left.Containers != 1 || err == nil ||
		!strings.Contains(err.Error(), "0123456789ab;") {
		t.Errorf("%+v, %v", left, err)
	}
}

// What nobody could read is not a success, though every step was.
func TestLostOutput(t *testing.T) {
	t.Parallel()
	sink, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Skip("there is no /dev/full: ", err)
	}
	defer func() { _ = sink.Close() }()
	var stderr bytes.Buffer
	cmd := newCommand(t, "-fleet")
	cmd.Dir, cmd.Stdout, cmd.Stderr = t.TempDir(), sink, &stderr // outside of the module: one step
	if err := cmd.Run(); err == nil || !strings.Contains(stderr.String(), "no space left on device") {
		t.Errorf("%v\n%s", err, &stderr)
	}
}

func TestPrint(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	p := &printer{out: cli.NewOut(&out)}
	p.begin("a step")(&Step{Name: "a step", Status: statusOK, Duration: 1.25, Stub: "this",
		Detail: []string{"one", strings.Repeat("word ", 30)}})
	p.print(&Step{Name: "left out", Status: statusSkipped, Detail: []string{"no such thing"}})
	p.print(&Step{Name: "nothing to say", Status: statusOK, Real: true})
	pad := strings.Repeat(" ", indent)
	want := "ok      a step               1.2s  stub      one\n" + pad +
		strings.TrimSpace(strings.Repeat("word ", 19)) + "\n" + pad +
		strings.TrimSpace(strings.Repeat("word ", 11)) + "\n" +
		pad + "stub: this\nskipped left out             0.0s  -         no such thing\nok      nothing " +
		"to say       0.0s  real\n"
	if out.String() != want {
		t.Errorf("got\n%s\nwant\n%s", out.String(), want)
	}
}

// Steps run in order, and the first failure ends the story but not the end.
func TestFailedStep(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	r := newRehearsal(options{from: mustVersion(t, "4.0.8"), to: mustVersion(t, "5.2.5"), stdout: &out,
		err: io.Discard})
	err := r.step(t.Context(), "wrong", func(context.Context,
		*Step) error {
		return errors.New("boom")
	})
	if err == nil || r.report.OK || r.report.Steps[0].Status != statusFailed ||
		!strings.Contains(out.String(), "failed  wrong") {
		t.Errorf("error %v, report %+v\n%s", err, r.report, &out)
	}
	r.summary(r.report)
	if !strings.Contains(out.String(), "4.0.8 → 5.2.5: a step failed: 0 steps ok") {
		t.Errorf("summary\n%s", &out)
	}
}

// A proof that differs names what, and one that proves nothing is none.
func TestDifference(t *testing.T) {
	t.Parallel()
	if got := difference([]string{"a", "b"}, []string{"b",
		"c"}); got != `only before: "a"; only after: "c"` {
		t.Error(got)
	}
}

func mustVersion(t *testing.T, text string) *semver.Version {
	t.Helper()
	v, err := parseRelease(text)
	if err != nil {
		t.Fatal(err)
	}
	return v
}
