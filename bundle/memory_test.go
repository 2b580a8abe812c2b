package bundle_test

import (
	"bytes"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"testing"
	"time"

	"example.com/tykupgrade/bundle"
	"example.com/tykupgrade/internal/lab"
)

const (
	peakEnv   = "TYKUPGRADE_TEST_PEAK"
	peakSize  = 160 << 20
	peakLimit = 32 << 10 // KiB
)

// TestPeakMemory writes a plugin of 160 MB in a process of its own and reads
// that process's peak. The process is this test compiled without the race
// detector, which would multiply it. VmHWM is used as ru_maxrss starts at the
// size of the parent where Go starts a process.
func TestPeakMemory(t *testing.T) {
	if os.Getenv(peakEnv) != "" {
		writePeak(t)
		return
	}
	if testing.Short() {
		t.Skip("skipped: writes 160 MB")
	}
	t.Parallel()
	if _, err := os.Stat("/proc/self/status"); err != nil {
		lab.Missing(t, "/proc (Linux)")
	}
	program := filepath.Join(t.TempDir(), "bundle.test")
	if out, err := exec.Command("go", "test", "-c", "-o", program, ".").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	cmd := exec.Command(program, "-test.run=^TestPeakMemory$", "-test.v")
	// More cores must not mean more memory.
	cmd.Env = append(os.Environ(), peakEnv+"=1", "GOMAXPROCS=16")
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

func writePeak(t *testing.T) {
	self, err := os.Open(os.Args[0])
	if err != nil {
		t.Fatal(err)
	}
	defer self.Close()
	result, err := bundle.Write(io.Discard, large{self}, goManifest("plugin.so"), bundle.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if result.Size < peakSize/10 {
		t.Errorf("only %d bytes", result.Size)
	}
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	for line := range bytes.Lines(status) {
		if bytes.HasPrefix(line, []byte("VmHWM:")) {
			fmt.Printf("%s", line)
		}
	}
}

// endless does not shrink, which takes a third of the time.
var endless = rand.NewChaCha8([32]byte{})

// large serves a shared object of 160 MB: a quarter of it repeats content, which
// takes the most memory.
type large struct{ content *os.File }

func (l large) Open(string) (fs.File, error) {
	return &largeFile{head: sharedObject(""), content: l.content, left: peakSize}, nil
}

type largeFile struct {
	head    []byte
	content *os.File
	at      int64
	left    int64
}

func (f *largeFile) Read(p []byte) (n int, err error) {
	if f.left == 0 {
		return 0, io.EOF
	}
	p = p[:min(int64(len(p)), f.left)]
	if len(f.head) > 0 {
		n = copy(p, f.head)
		f.head = f.head[n:]
	} else if f.left < peakSize*3/4 {
		n, _ = endless.Read(p)
	} else {
		n, err = f.content.ReadAt(p, f.at)
		if f.at += int64(n); err == io.EOF {
			f.at, err = 0, nil
		}
	}
	f.left -= int64(n)
	return n, err
}

func (f *largeFile) Stat() (fs.FileInfo, error) { return f, nil }
func (f *largeFile) Close() error               { return nil }
func (f *largeFile) Name() string               { return "plugin.so" }
func (f *largeFile) Size() int64                { return peakSize }
func (f *largeFile) Mode() fs.FileMode          { return 0o644 }
func (f *largeFile) ModTime() time.Time         { return time.Time{} }
func (f *largeFile) IsDir() bool                { return false }
func (f *largeFile) Sys() any                   { return nil }
