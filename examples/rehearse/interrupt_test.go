package main

import (
	"bytes"
	"net"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"example.com/tykupgrade/examples/internal/cli"
	"example.com/tykupgrade/internal/lab"
)

// Ctrl-C leaves nothing behind: when everything runs, and at any other moment with make test-long.
func TestInterrupt(t *testing.T) {
	t.Parallel()
	needs(t)
	moments := []string{"services"}
	if lab.IsLong() {
		moments = append(moments, "components", "mongodb", "apt update, plan", "revert packages")
	}
	for _, after := range moments {
		t.Run(after, func(t *testing.T) {
			t.Parallel()
			cmd, _, stderr, left := run(t, noCompiler, "-fail", "gateway", "-v")
			cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
			seen := &watch{text: "ok      " + after, found: make(chan struct{})}
			cmd.Stdout = seen
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			ended := make(chan struct{})
			go func() { _ = cmd.Wait(); close(ended) }()
			select {
			case <-seen.found:
			case <-ended:
				t.Fatalf("it ended before: %s\n%s", seen.all(), stderr)
			}
			// To the whole group, as a terminal does.
			if err := syscall.Kill(-cmd.Process.Pid, syscall.SIGINT); err != nil {
				t.Fatal(err)
			}
			<-ended
			left()
			if code := cmd.ProcessState.ExitCode(); code != cli.Interrupted ||
				!strings.Contains(stderr.String(), "interrupted") {
				t.Errorf("exit code %d\n%s", code, stderr)
			}
			text := seen.all()
			if after == "services" && (!strings.Contains(text, "| go mod tidy") || !strings.Contains(text,
				"gateway try 1")) {
				t.Errorf("-v does not show commands and events:\n%s", text)
			}
			if !strings.Contains(text, "interrupted: ending what is under way") || !strings.Contains(text,
				"directory removed") {
				t.Errorf("no clean end:\n%s", text)
			}
			for _, addr := range regexp.MustCompile(`127\.0\.0\.1:\d+`).FindAllString(text, -1) {
				if conn, err := net.DialTimeout("tcp", addr, time.Second); err == nil {
					_ = conn.Close()
					t.Errorf("something still listens on %s", addr)
				}
			}
			if err := syscall.Kill(-cmd.Process.Pid, 0); err == nil {
				t.Error("processes of the rehearsal's group are left")
			}
		})
	}
}

// watch is an output that tells when it has held a text.
type watch struct {
	mu    sync.Mutex
	buf   bytes.Buffer
	text  string
	found chan struct{}
	once  sync.Once
}

func (w *watch) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.buf.Write(p)
	if strings.Contains(w.buf.String(), w.text) {
		w.once.Do(func() { close(w.found) })
	}
	return len(p), nil
}

func (w *watch) all() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.buf.String()
}
