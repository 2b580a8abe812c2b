package haproxy

import (
	"bytes"
	"strings"
	"testing"
)

func FuzzParseStat(f *testing.F) {
	f.Add("# pxname,svname,qcur,scur,status,\napi,h1,0,2,UP,\n", "api", "h1")
	f.Add("# pxname,svname,qcur,scur,status\napi,h1,,\"x\n", "api", "h1")
	f.Fuzz(func(t *testing.T, text, backend, server string) {
		s, err := parseStat(strings.NewReader(text), backend, server)
		if err == nil && s.Up && s.Drained {
			t.Fatalf("%+v", s)
		}
	})
}

func FuzzParseServersState(f *testing.F) {
	f.Add("1\n# be_id be_name srv_id srv_name srv_addr srv_op_state srv_admin_state\n3 api 1 h1 "+
		"127.0.0.1 0 8\n", "api", "h1")
	f.Add("# be_name srv_admin_state srv_name\napi x", "api", "h1")
	f.Fuzz(func(t *testing.T, text, backend, server string) {
		_, _ = parseServersState(text, backend, server)
	})
}

func FuzzSetMapEntry(f *testing.F) {
	f.Add("# c\nactive blue\nx y\n", "active", "green")
	f.Add("# c\r\nactive blue\r\r\nx y\r\nend", "active", "green")
	f.Fuzz(func(t *testing.T, old, key, value string) {
		if !mapWord.MatchString(key) || !mapWord.MatchString(value) {
			return
		}
		once := setMapEntry([]byte(old), key, value)
		if !strings.Contains(string(once), key+" "+value+"\n") {
			t.Fatalf("%q", once)
		}
		if twice := setMapEntry(once, key, value); !bytes.Equal(once, twice) {
			t.Fatalf("%q then %q", once, twice)
		}
		// Every other line stays as it is.
		for line := range strings.Lines(old) {
			if w := strings.Fields(line); (len(w) == 0 || w[0] != key) && !strings.Contains(string(once), line) {
				t.Fatalf("%q lost %q", once, line)
			}
		}
	})
}
