package run_test

import (
	"os/exec"
	"path/filepath"
	"testing"

	"example.com/tykupgrade/internal/run"
)

// Programs run while other goroutines fork.
func TestWriteProgram(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for _, name := range []string{"a", "b", "c", "d"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for range 50 {
				path := filepath.Join(dir, name)
				if err := run.WriteProgram(path, []byte("#!/bin/true\n"), 0o700); err != nil {
					t.Fatal(err)
				}
				if err := exec.Command(path).Run(); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}
