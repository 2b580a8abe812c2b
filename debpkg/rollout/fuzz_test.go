package rollout

import (
	"bytes"
	"strings"
	"testing"
)

func FuzzReadJournal(f *testing.F) {
	f.Add([]byte(`{"v":1,"seq":1,"time":"2026-01-01T00:00:00Z","kind":"run","mode":"run"}` + "\n" +
		`{"v":1,"seq":2,"time":"2026-01-01T00:00:01Z","kind":"plan","wave":"w","names":["a"]}` + "\n" +
		`{"v":1,"seq":3,"time":"2026-01-01T00:00:01Z","kind":"target","target":"a"}` + "\n" +
		`{"v":1,"seq":4,"time":"2026-01-01T00:00:01Z","kind":"start","target":"a","step":"s","attempt":1}` + "\n" +
		`{"v":1,"seq":5,"time":"2026-01-01T00:00:02Z","kind":"step","target":"a","step":"s","ok":true}` + "\n"))
	f.Add([]byte("{}\n"))
	f.Add([]byte("\n\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		recs, size, err := readJournal(bytes.NewReader(data))
		if err != nil {
			return
		}
		if size > int64(len(data)) {
			t.Fatalf("%d of %d bytes", size, len(data))
		}
		rep := BuildReport(recs)
		if err := rep.WriteText(&bytes.Buffer{}); err != nil {
			t.Fatal(err)
		}
		if err := rep.WriteHTML(&bytes.Buffer{}); err != nil {
			t.Fatal(err)
		}
		// What was read is what a resumed run would read again.
		again, _, err := readJournal(bytes.NewReader(data[:size]))
		if err != nil || len(again) != len(recs) {
			t.Fatalf("%d records, then %d: %v", len(recs), len(again), err)
		}
	})
}

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

func FuzzParseAdmin(f *testing.F) {
	f.Add("1\n# be_id be_name srv_id srv_name srv_addr srv_op_state srv_admin_state\n3 api 1 h1 127.0.0.1 0 8\n", "api", "h1")
	f.Add("# be_name srv_admin_state srv_name\napi x", "api", "h1")
	f.Fuzz(func(t *testing.T, text, backend, server string) {
		_, _ = parseAdmin(text, backend, server)
	})
}

func FuzzSetMapEntry(f *testing.F) {
	f.Add("# c\nactive blue\nx y\n", "active", "green")
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
	})
}
