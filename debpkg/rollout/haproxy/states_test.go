package haproxy_test

import (
	"bytes"
	"context"
	"errors"
	"net"
	"regexp"
	"strings"
	"testing"
	"time"

	"example.com/tykupgrade/debpkg/rollout"
	"example.com/tykupgrade/debpkg/rollout/haproxy"
)

// Every administrative state there is, and back to what it was.
func TestAdministrativeStates(t *testing.T) {
	t.Parallel()
	s := startSite(t, quickChecks)
	ctx := t.Context()
	both := s.lb("api", "web")

	// A server that haproxy.cfg disables can become ready, though its bit stays.
	if st := s.state(t, "h3", "api", "web"); !st.Drained {
		t.Errorf("a disabled server is %+v", st)
	}
	kept, err := both.Keep(ctx, "h3")
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(both.Ready(ctx, "h3"), rollout.WaitUp(ctx, both, "h3",
		quickUp)); err != nil {
		t.Errorf("a disabled server does not become ready: %v", err)
	}
	if err := both.Restore(ctx, "h3", kept); err != nil {
		t.Fatal(err)
	}
	if st := s.state(t, "h3", "api", "web"); !st.Drained || !strings.Contains(st.Detail, "MAINT") {
		t.Errorf("restored to %+v", st)
	}
	// A changed address is not out of service, and neither is a changed name.
	_, port, _ := net.SplitHostPort(s.servers[0].Addr)
	for server, command := range map[string]string{"addr": "addr 127.0.0.2 port " + port,
		"fqdn": "fqdn elsewhere.example"} {
		s.ask(t, "set server moved/"+server+" "+command)
		if now := s.ask(t, "show servers state moved"); !regexp.MustCompile(map[string]string{
			"addr": ` addr 127\.0\.0\.2 `, "fqdn": ` fqdn .* elsewhere\.example `}[server]).MatchString(now) {
			t.Errorf("set server %s changed nothing:\n%s", server, now)
		}
		if st := s.state(t, server, "moved"); !st.Up || st.Drained {
			t.Errorf("a server with a changed %s is %+v", server, st)
		}
		lb := s.lb("moved")
		kept, err := lb.Keep(ctx, server)
		if err = errors.Join(err, lb.Drain(ctx, server)); err != nil {
			t.Fatal(err)
		}
		if st := s.state(t, server, "moved"); !st.Drained {
			t.Errorf("a server with a changed %s is not drained: %+v", server, st)
		}
		if err := lb.Restore(ctx, server, kept); err != nil {
			t.Fatal(err)
		}
		if st := s.state(t, server, "moved"); !st.Up || st.Drained {
			t.Errorf("a server with a changed %s does not come back: %+v", server, st)
		}
	}
	// Servers without health checks are up: nothing else can be known.
	if st := s.state(t, "h1", "bare"); !st.Up || st.Drained || st.Changing {
		t.Errorf("a server without checks is %+v", st)
	}

	// The agent says "ready" ten times a second, which would end each drain.
	if !strings.Contains(s.ask(t, "show stat api 4 -1"), "agent") {
		t.Fatal("there is no agent check")
	}
	for name, out := range map[string]func(context.Context, string) error{"drain": both.Drain,
		"maint": both.Maintain} {
		kept, err := both.Keep(ctx, "h1")
		if err != nil || !strings.Contains(string(kept), `"agent":true`) {
			t.Fatalf("kept %s, %v", kept, err)
		}
		if err := out(ctx, "h1"); err != nil {
			t.Fatal(name, err)
		}
		for end := time.Now().Add(500 * time.Millisecond); time.Now().Before(end); time.Sleep(
			20 * time.Millisecond) {
			if st := s.state(t, "h1", "api", "web"); !st.Drained || st.Away != (name == "maint") {
				t.Fatalf("%s was undone, or is another state: %+v", name, st)
			}
		}
		if err := errors.Join(both.Restore(ctx, "h1", kept), rollout.WaitUp(ctx, both, "h1",
			quickUp)); err != nil {
			t.Fatal(name, err)
		}
		again, err := both.Keep(ctx, "h1")
		if err != nil || !bytes.Equal(kept, again) {
			t.Errorf("%s: was %s, is %s, %v", name, kept, again, err)
		}
	}
	// Ready without a kept state enables the agent too.
	if err := errors.Join(both.Drain(ctx, "h2"), both.Ready(ctx, "h2")); err != nil {
		t.Fatal(err)
	}
	if kept, err := both.Keep(ctx, "h2"); err != nil || strings.Count(string(kept),
		`"agent":true`) != 1 {
		t.Errorf("kept %s, %v", kept, err)
	}
	for name, data := range map[string]string{"not JSON": "x",
		"another backend": `[{"backend":"x","state":"ready"}]`,
		"another state":   `[{"backend":"api","state":"x"},{"backend":"web","state":"ready"}]`} {
		if err := both.Restore(ctx, "h1", []byte(data)); !errors.Is(err, haproxy.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
