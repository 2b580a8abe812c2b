package bundle_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"testing"

	"example.com/tykupgrade/internal/lab"
)

const peakLimit = 32 << 10 // KiB

// TestPeakMemory writes a plugin of 80 MB in a process of its own and reads
// that process's peak. The process is compiled without the race detector, which
// would multiply it. VmHWM is used as ru_maxrss starts at the size of the parent
// where Go starts a process.
func TestPeakMemory(t *testing.T) {
	if testing.Short() {
		t.Skip("skipped: writes 80 MB")
	}
	t.Parallel()
	if _, err := os.Stat("/proc/self/status"); err != nil {
		lab.Missing(t, "/proc (Linux)")
	}
	program := filepath.Join(t.TempDir(), "peak")
	if out, err := exec.Command("go", "build", "-ldflags=-s -w", "-o", program,
		"./testdata/peak").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	cmd := exec.Command(program)
	cmd.Env = append(os.Environ(), "GOMAXPROCS=16") // more cores must not mean more memory
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	match := regexp.MustCompile(`VmHWM:\s+(\d+) kB`).FindSubmatch(out)
	if match == nil {
		t.Fatalf("no peak in %s", out)
	}
	peak, err := strconv.Atoi(string(match[1]))
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("peak: %.1f MiB", float64(peak)/1024)
	if peak > peakLimit {
		t.Errorf("peak %d KiB, at most %d", peak, peakLimit)
	}
}
