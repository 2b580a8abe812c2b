package apidef

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"
)

func TestSet(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ doc, path, want string }{
		{`{"a":1}`, "a", `{"a":"v"}`},
		{` { "b" : 1.0e5 , "a" : [ {"a":2} ] } ` + "\n", "a", ` { "b" : 1.0e5 , "a" : "v" } ` + "\n"},
		{`{"o":{"x":"\u00e9<","y":1}}`, "o.y", `{"o":{"x":"\u00e9<","y":"v"}}`},
		{`{}`, "a", `{"a":"v"}`},
		{"{\n  \"b\": 12345678901234567890\n}", "a", "{\n  \"b\": 12345678901234567890,\"a\":\"v\"\n}"},
		{`{"o":{}}`, "o.p.q", `{"o":{"p":{"q":"v"}}}`},
		{`{"o":{"k\"ey":1}}`, "o.a", `{"o":{"k\"ey":1,"a":"v"}}`},
		{`{"a":"x\\"}`, "a", `{"a":"v"}`},
		{`{"\u0061":1}`, "a", `{"\u0061":"v"}`},
		{`{"a":1,"a":2}`, "a", "!duplicate key"},
		{`{"A":1}`, "a", "!duplicate key"},
		{`{"o":[]}`, "o.a", "!not an object"},
		{`[]`, "a", "!not a JSON object"},
		{`{"a":}`, "a", "!not JSON"},
		{strings.Repeat(`{"a":`, 600) + "1" + strings.Repeat("}", 600), "a", "!nested deeper"},
		{"{\"a\":\"\xff\"}", "a", "!UTF-8"},
	} {
		got, err := set([]byte(c.doc), "v", strings.Split(c.path, ".")...)
		if says, bad := strings.CutPrefix(c.want, "!"); bad {
			if err == nil || !strings.Contains(err.Error(), says) {
				t.Errorf("%s: %s, %v", c.doc, got, err)
			}
		} else if err != nil || string(got) != c.want {
			t.Errorf("%s: %s, %v; want %s", c.doc, got, err, c.want)
		}
	}
}

// Everything outside the edited path is byte for byte the same.
func FuzzSet(f *testing.F) {
	for _, s := range []string{`{"a":{"b":1,"c":[1,2,{"x":null}]},"d":"\u00e9\\\""}`, `{}`,
		` {"a":{}} `, `{"a":{"b":{"b":2}}}`, `{"a":[],"b":-1.5E+10}`} {
		f.Add([]byte(s), "a", "b", "new \"value\" <é>")
	}
	f.Fuzz(func(t *testing.T, doc []byte, k1, k2, value string) {
		before := bytes.Clone(doc)
		out, err := set(doc, value, k1, k2)
		if !bytes.Equal(doc, before) {
			t.Fatal("the argument changed")
		}
		if err != nil {
			if !json.Valid(doc) {
				return
			}
			if out != nil {
				t.Fatal("an error and a document")
			}
			return
		}
		if !json.Valid(out) {
			t.Fatalf("%s became %s", doc, out)
		}
		s, depth, err := find(doc, k1, k2)
		if err != nil {
			t.Fatal(err)
		}
		raw, err := json.Marshal(value)
		if err != nil {
			t.Fatal(err)
		}
		got, err := get(out, k1, k2)
		if err != nil && !errors.Is(err, errAmbiguous) || err == nil && !bytes.Equal(got, raw) {
			t.Fatalf("%s: %s, %v", out, got, err)
		}
		if depth == 2 {
			if want := string(doc[:s.start]) + string(raw) + string(doc[s.end:]); string(out) != want {
				t.Fatalf("%s became %s", doc, out)
			}
			return
		}
		// Something was added at one place: what was there is all there, in order.
		i := 0
		for i < len(doc) && doc[i] == out[i] {
			i++
		}
		if tail := doc[i:]; !bytes.HasSuffix(out, tail) {
			// The added bytes may begin like what follows them.
			for ; i >= 0 && !bytes.HasSuffix(out, doc[i:]); i-- {
			}
			if i < 0 || !bytes.HasPrefix(out, doc[:i]) {
				t.Fatalf("%s became %s", doc, out)
			}
		}
		var a, b map[string]json.RawMessage
		if json.Unmarshal(doc, &a) == nil && json.Unmarshal(out, &b) == nil {
			for k, v := range a {
				if k != k1 && !bytes.Equal(b[k], v) {
					t.Fatalf("%s became %s", doc, out)
				}
			}
		}
	})
}
