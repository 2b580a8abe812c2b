package preflight_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// A gateway is read in memory that does not grow with its symbols: at most a third of
// what reading them all takes, with the same overhead of the race detector.
func TestGatewayMemory(t *testing.T) {
	t.Parallel()
	f := forgedGateway()
	for i := len(f.packages); i < 500; i++ {
		f.packages[fmt.Sprintf("github.com/some/module%d/package/of/it", i)] = fmt.Sprintf("%08d", i)
	}
	f.fill = 150_000
	path := filepath.Join(t.TempDir(), "tyk")
	if err := os.WriteFile(path, f.bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, 40_000_000); err != nil {
		t.Fatal(err)
	}
	peak := func(reader string) int {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), os.Args[0])
		cmd.Env = append(os.Environ(), childEnv+"="+reader+" "+path, "GORACE=atexit_sleep_ms=0")
		cmd.Stderr = os.Stderr
		out, err := cmd.Output()
		if err != nil {
			t.Fatal(err)
		}
		kib, err := strconv.Atoi(strings.TrimSpace(string(out)))
		if err != nil {
			t.Fatal(err)
		}
		return kib / 1024
	}
	ours, all := peak("preflight"), peak("debug-elf")
	if ours*3 > all {
		t.Errorf("%d MiB, and %d MiB where every symbol is loaded", ours, all)
	}
	t.Logf("%d MiB, and %d MiB where every symbol is loaded", ours, all)
}
