package fleet_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"example.com/tykupgrade/debpkg/fleet"
)

func TestGates(t *testing.T) {
	t.Parallel()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/slow":
			time.Sleep(100 * time.Millisecond)
		case "/api/v1/query":
			_, _ = fmt.Fprintf(w, `{"status":"success","data":{"resultType":"vector","result":[{"value":[1,%q]}]}}`, r.URL.Query().Get("query"))
			return
		}
		w.Header().Set("Foo", "Bar")
		_, _ = fmt.Fprint(w, `{"data": {"items": [{"state": "open", "n": 3}]}}`)
	}))
	defer srv.Close()
	for _, c := range []struct{ gate, want string }{
		{`url: URL`, ""},
		{`url: URL, status: 404`, "HTTP 200"},
		{`url: URL, header: {Foo: Bar}`, ""},
		{`url: URL, header: {Foo: Baz}`, "Foo"},
		{`url: URL, body: "open"`, ""},
		{`url: URL, body: "closed"`, "body"},
		{`url: URL, json: {data.items.0.state: open, data.items.0.n: 3}`, ""},
		{`url: URL, json: {data.items.0.state: closed}`, `data.items.0.state is "open", want "closed"`},
		{`url: URL, json: {data.items.1.state: open}`, "the body has no data.items.1.state"},
		{`url: URL/slow, max_latency: 20ms`, "max_latency is 20ms"},
		{`url: URL/slow, max_latency: 20s`, ""},
		{`url: URL, query: "0.5", max: 0.5`, ""},
		{`url: URL, query: "0.5", max: 0.4`, "0.5 is above 0.4"},
		{`url: URL, query: "0.5", min: 0.6`, "0.5 is below 0.6"},
		{`url: URL, query: "NaN", min: 0`, "NaN is not a number"},
	} {
		inv, err := fleet.Parse([]byte("versions: {pump: 1.9.0}\nhosts: [{name: p, component: pump}]\nhealth: {success_threshold: 1, deadline: 300ms}\ngates: [{name: g, " + strings.ReplaceAll(c.gate, "URL", srv.URL) + "}]\n"))
		if err != nil {
			t.Fatal(err)
		}
		err = inv.ProbeGates(t.Context())
		if (err != nil) != (c.want != "") || err != nil && (!strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "g: ")) {
			t.Errorf("%s: %v", c.gate, err)
		}
	}
	for _, gate := range []string{`url: "http://h/"`, "name: g", `name: g, url: h`, `name: g, url: "http://h/", body: "("`, `name: g, url: "http://h/", min: 1`,
		`name: g, url: "http://h/", query: up`, `name: g, url: "http://h/", query: up, max: 1, status: 200`} {
		if _, err := fleet.Parse([]byte("versions: {pump: 1.9.0}\nhosts: [{name: p, component: pump}]\ngates: [{" + gate + "}]\n")); err == nil {
			t.Errorf("%q was accepted", gate)
		}
	}
}
