package atomicfile_test

import (
	"io"
	"os"
	"path/filepath"
	"testing"

	"example.com/tykupgrade/internal/atomicfile"
)

// Sweep removes what a killed writer left, and nothing else.
func TestSweep(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "f")
	for _, name := range []string{".f.tmp-123", ".f.tmp-", ".f.tmp-x", ".other.tmp-123", "f.tmp-123"} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	_, err := atomicfile.Write(t.Context(), path, atomicfile.Options{}, func(w io.Writer) error {
		if err := atomicfile.Sweep(path); err != nil { // this writer is at work
			return err
		}
		_, err := io.WriteString(w, "whole")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if data, err := os.ReadFile(path); err != nil || string(data) != "whole" {
		t.Errorf("%q %v", data, err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 5 {
		t.Errorf("%v: %v", err, entries)
	}
	if _, err := os.Stat(filepath.Join(dir, ".f.tmp-123")); err == nil {
		t.Error("the file of a killed writer is left")
	}
}
