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
	if err := unlock(); err == nil || !strings.Contains(err.Error(), "it belongs to eve@other (process 7") {
		t.Errorf("unlocked: %v", err)
	}
	if _, err := os.Stat(path); err != nil {
		t.Error(err)
	}
}
