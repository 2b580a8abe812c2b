package rollout

import (
	"bytes"
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
