package backup_test

import (
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"example.com/tykupgrade/backup"
)

// A summary is the manifest without files, and the set keeps them.
func TestSummary(t *testing.T) {
	t.Parallel()
	set := takePlain(t, t.TempDir(), text("a", "x"))
	data, err := json.Marshal(set.Summary())
	var got map[string]any
	if err = errors.Join(err, json.Unmarshal(data, &got)); err != nil {
		t.Fatal(err)
	}
	if got["dir"] != set.Dir || got["id"] != set.ID || got["files"] != nil || len(set.Files) == 0 ||
		len(got["components"].([]any)) != 1 {
		t.Errorf("%s", data)
	}
}

func TestUntouched(t *testing.T) {
	t.Parallel()
	for state, want := range map[backup.State]bool{backup.StatePlanned: true,
		backup.StateNotRequested: true, backup.StateFailed: false, backup.StateRestored: false,
		backup.StateVerified: false, backup.StateUndone: false} {
		r := backup.Report{Components: []backup.ComponentReport{{State: backup.StatePlanned},
			{State: state}}}
		if r.Untouched() != want {
			t.Errorf("%s: untouched is %v", state, !want)
		}
	}
	if !(backup.Report{}).Untouched() {
		t.Error("a restore that was refused at once")
	}
}

// Verify with keys refuses a set of somebody else before it reads it.
func TestVerifyRequiresSignature(t *testing.T) {
	t.Parallel()
	ours, key, err1 := ed25519.GenerateKey(rand.Reader)
	theirs, _, err2 := ed25519.GenerateKey(rand.Reader)
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	signed, unsigned := signedSet(t, key), takePlain(t, t.TempDir(), text("a", "x"))
	with := func(keys ...crypto.PublicKey) backup.VerifyOptions {
		return backup.VerifyOptions{RequireSignature: keys}
	}
	if err := signed.Verify(t.Context(), with(theirs, ours)); err != nil {
		t.Error(err)
	}
	if err := signed.Verify(t.Context(), with(theirs)); !errors.Is(err, backup.ErrUnsafe) {
		t.Error(err)
	}
	if err := unsigned.Verify(t.Context(), with(ours)); !errors.Is(err, backup.ErrUnsafe) {
		t.Error(err)
	}
	if err := unsigned.Verify(t.Context(), with()); err != nil {
		t.Error(err)
	}
}

// What a set and a restore say to people.
func TestText(t *testing.T) {
	t.Parallel()
	start := time.Date(2026, 1, 2, 3, 4, 5, 0, time.Local)
	set := backup.Summary{Dir: "/sets/a", Manifest: backup.Manifest{Start: start, Label: "before 5.3.0",
		Components: []backup.Component{
			{Name: "redis", Server: "redis 7.0.15", Method: "psync", Consistency: "snapshot", Items: 12,
				Bytes: 3 << 20, Warnings: []string{"old data"}},
			{Name: "config", Items: 2, Bytes: 900}}}}
	if want := `/sets/a
COMPONENT  SERVER        METHOD  CONSISTENCY  ITEMS  SIZE
redis      redis 7.0.15  psync   snapshot     12     3.0 MiB
config                                        2      900 B
note: old data
`; set.String() != want {
		t.Errorf("got\n%s\nwant\n%s", set, want)
	}
	if got, want := backup.ListRows([]backup.Summary{set})[1], []string{"a", "2026-01-02 03:04:05",
		"redis config", "3.0 MiB", "before 5.3.0"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	r := backup.Report{DryRun: true, Components: []backup.ComponentReport{
		{Name: "mongo", State: backup.StatePlanned, Items: []backup.Item{
			{Name: "a.b", Action: backup.ActionReplace, Count: 7, Bytes: 2048, Detail: "swapped"},
			{Name: "a.c", Action: backup.ActionKeep}}},
		{Name: "config", State: backup.StateNotRequested}}}
	if want := `mongo: planned
ACTION   ITEM  COUNT  SIZE
replace  a.b   7      2.0 KiB  swapped
keep     a.c          0 B
config: not requested
dry run: nothing was changed
`; r.String() != want {
		t.Errorf("got\n%s\nwant\n%s", r, want)
	}
	if !r.Components[0].Keeps() || r.Components[1].Keeps() {
		t.Error("Keeps is wrong")
	}
	if (backup.Report{DryRun: true}).String() != "" {
		t.Error("a report of nothing has text")
	}
	if none := backup.Summaries(nil); none == nil || len(none) > 0 {
		t.Errorf("Summaries returns %#v", none)
	}
}

// The consistency is a token in JSON and words in the table. Older sets have the words in JSON.
func TestConsistencyToken(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]backup.Consistency{"per node": backup.ConsistencyPerNode,
		"per_node": backup.ConsistencyPerNode, "per item": backup.ConsistencyPerItem,
		"snapshot": backup.ConsistencySnapshot, "": ""} {
		var c backup.Component
		if err := json.Unmarshal([]byte(`{"consistency":"`+text+`"}`), &c); err != nil ||
			c.Consistency != want {
			t.Errorf("%q became %q, %v", text, c.Consistency, err)
		}
	}
	c := backup.Component{Name: "redis", Consistency: backup.ConsistencyPerNode}
	data, err := json.Marshal(c)
	if err != nil || !strings.Contains(string(data), `"consistency":"per_node"`) {
		t.Errorf("%s %v", data, err)
	}
	table := backup.Summary{Manifest: backup.Manifest{Components: []backup.Component{c}}}.String()
	if !strings.Contains(table, "per node") {
		t.Error(table)
	}
}
