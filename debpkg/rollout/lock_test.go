package rollout

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Somebody removed the lock of a running process and took it: it is left to
// them, and named.
func TestUnlockNotOurs(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "lock")
	unlock, _, err := lock(path, self(""), false)
	if err != nil {
		t.Fatal(err)
	}
	data, err := json.Marshal(Owner{User: "eve", Host: "other", PID: 7})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := unlock(); err == nil || !strings.Contains(err.Error(),
		"it belongs to eve@other (process 7") {
		t.Errorf("unlocked: %v", err)
	}
	if _, err := os.Stat(path); err != nil {
		t.Error(err)
	}
}

// A record that must be on disk is synced: a pipe takes the write, and refuses the sync.
func TestJournalIsSynced(t *testing.T) {
	t.Parallel()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _, _ = r.Close(), w.Close() }()
	j := newJournal(Options{Journal: "pipe"})
	j.f = w
	if err := j.add(Record{Kind: KindInfo, Text: "x"}); err != nil {
		t.Errorf("a record that need not be synced: %v", err)
	}
	if err := j.add(Record{Kind: KindStart}); err == nil || j.broken() == nil {
		t.Error("a record that must be on disk was not synced")
	}
}
