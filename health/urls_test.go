package health_test

import (
	"errors"
	"net/http"
	"strings"
	"testing"

	"example.com/tykupgrade/health"
)

func TestBadProbesAreRefusedBeforeAnythingIsAsked(t *testing.T) {
	t.Parallel()
	none := client(http.HandlerFunc(func(http.ResponseWriter,
		*http.Request) {
		t.Error("something was asked")
	}))
	ready := health.Gateway("", nil)
	ready.Ready = "ready"
	unnamed := health.Pump("")
	unnamed.Checks = []health.Check{{}}
	method := health.HTTP("http://x/", health.Expect{})
	method.Method = "B AD"
	for _, p := range []health.Probe{
		health.Gateway("ftp://gw", nil), health.Gateway("http://", nil), health.Gateway("http://gw:port",
			nil), health.HTTP("", health.Expect{}),
		health.HTTP("gw:80/x", health.Expect{}), health.TCP("gw"), health.TCP("gw:99999"),
		health.Gateway("gw:0", nil), health.Plugin("http://gw/api", health.Expect{}), {}, ready, unnamed,
		method,
		health.Gateway("http://user:topsecret@gw:\x7f/", nil),
	} {
		r := p.Check(t.Context(), none)
		var own *health.Error
		if r.Status != health.Fail || !errors.As(r.Err, &own) || own.Retryable() ||
			strings.Contains(r.Error, "topsecret") {
			t.Errorf("%v: %s, %v", p, r.Status, r.Err)
		}
		if _, err := health.Wait(t.Context(), health.Policy{Client: none}, p); err == nil {
			t.Errorf("%v: Wait took it", p)
		}
	}
}

func TestURLs(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		p    health.Probe
		want string
	}{
		{health.Gateway("", nil), "gateway localhost:8080 (http://localhost:8080/hello)"},
		{health.Gateway("gw1", nil), "gateway gw1:8080 (http://gw1:8080/hello)"},
		{health.Gateway("gw1:9090", nil), "gateway gw1:9090 (http://gw1:9090/hello)"},
		{health.Gateway("[::1]", nil), "gateway [::1]:8080 (http://[::1]:8080/hello)"},
		{health.Gateway("https://gw1/", nil), "gateway gw1 (https://gw1/hello)"},
		{health.Gateway("https://gw1:9696/liveness", nil),
			"gateway gw1:9696 (https://gw1:9696/liveness)"},
		{health.Dashboard(""), "dashboard localhost:3000 (http://localhost:3000/hello)"},
		{health.Pump(""), "pump localhost:8083 (http://localhost:8083/health)"},
		{health.TCP("redis:6379"), "tcp redis:6379 (tcp://redis:6379)"},
		{health.Plugin("http://gw/api/x?key=secret", health.Expect{Status: 200}),
			"plugin gw/api/x (http://gw/api/x?…)"},
	} {
		if got := c.p.String(); got != c.want {
			t.Errorf("got %q, want %q", got, c.want)
		}
	}
}
