package backup_test

import (
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"errors"
	"testing"

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
