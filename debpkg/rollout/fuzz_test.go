package rollout

import (
	"bytes"
	"encoding/json"
	"testing"
)

func FuzzReadJournal(f *testing.F) {
	j := newJournal(Options{})
	var seed bytes.Buffer
	j.event = func(rec Record) {
		line, err := json.Marshal(rec)
		if err != nil {
			f.Fatal(err)
		}
		j.head = hash(line)
		seed.Write(append(line, '\n'))
	}
	for _, rec := range []Record{
		{Kind: KindRun, Mode: ModeRun}, {Kind: KindPlan, Wave: "w", Names: []string{"a"}},
		{Kind: KindTarget, Target: "a"}, {Kind: KindStart, Target: "a", Step: "s", Attempt: 1},
		{Kind: KindStep, Target: "a", Step: "s", OK: true}, {Kind: KindProbe, Probes: &ProbeCount{
			Sent: 1}},
	} {
		if err := j.add(rec); err != nil {
			f.Fatal(err)
		}
	}
	if recs, err := ReadJournal(bytes.NewReader(seed.Bytes())); err != nil || len(recs) != 6 {
		f.Fatal(len(recs), err)
	}
	f.Add(seed.Bytes())
	f.Add([]byte("{}\n"))
	f.Add([]byte("\n\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		var recs []Record
		end, err := scanJournal(bytes.NewReader(data), func(rec Record) { recs = append(recs, rec) })
		size := end.size
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
		again, err := ReadJournal(bytes.NewReader(data[:size]))
		if err != nil || len(again) != len(recs) {
			t.Fatalf("%d records, then %d: %v", len(recs), len(again), err)
		}
	})
}
