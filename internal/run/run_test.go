package run_test

import (
	"bytes"
	"context"
	"errors"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"example.com/tykupgrade/internal/run"
)

func TestLocalStreams(t *testing.T) {
	t.Parallel()
	var out, errOut bytes.Buffer
	err := run.Local(run.Options{Dir: "/", Env: []string{"RUN_TEST=yes"}})(t.Context(),
		[]string{"sh", "-c", "cat; pwd; echo $RUN_TEST >&2"}, strings.NewReader("in\n"), &out, &errOut)
	if err != nil {
		t.Fatal(err)
	}
	if got := out.String() + errOut.String(); got != "in\n/\nyes\n" {
		t.Errorf("output %q", got)
	}
}

func TestLocalExitCodeAndTail(t *testing.T) {
	t.Parallel()
	var whole bytes.Buffer
	err := run.Local(run.Options{})(t.Context(),
		[]string{"sh", "-c", "i=0; while [ $i -lt 5000 ]; do echo line $i >&2; i=$((i+1)); done; exit 7"},
		nil, nil, &whole)
	var code interface{ ExitCode() int }
	if !errors.As(err, &code) || code.ExitCode() != 7 {
		t.Fatalf("exit code not reachable in %v", err)
	}
	var e *run.Error
	if !errors.As(err, &e) || len(e.Stderr) > run.TailSize+8 || !strings.HasPrefix(e.Stderr,
		"…line ") || !strings.HasSuffix(e.Stderr, "line 4999\n") {
		t.Errorf("tail is not bounded or not at a line start: %d bytes", len(e.Stderr))
	}
	if strings.Count(whole.String(), "\n") != 5000 {
		t.Errorf("whole output has %d lines", strings.Count(whole.String(), "\n"))
	}
	if msg := err.Error(); !strings.Contains(msg, "exit status 7") || strings.Count(msg, "\n") > 6 {
		t.Errorf("message %q", msg)
	}
}

func TestLocalNotStarted(t *testing.T) {
	t.Parallel()
	err := run.Local(run.Options{})(t.Context(), []string{"no-such-program-here"}, nil, nil, nil)
	if !errors.Is(err, exec.ErrNotFound) {
		t.Errorf("got %v", err)
	}
	if err := run.Local(run.Options{})(t.Context(), nil, nil, nil, nil); err == nil {
		t.Error("empty argv was accepted")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := run.Local(run.Options{})(ctx, []string{"true"}, nil, nil, nil); !errors.Is(err,
		context.Canceled) {
		t.Errorf("got %v", err)
	}
}

// A program that ignores SIGTERM and its background child are both gone when
// the call returns.
func TestLocalStopsTheGroup(t *testing.T) {
	t.Parallel()
	cause := errors.New("operator pressed stop")
	ctx, cancel := context.WithCancelCause(t.Context())
	pids := make(chan string, 1)
	w := writerFunc(func(p []byte) (int, error) { pids <- string(p); return len(p), nil })
	done := make(chan error, 1)
	go func() {
		done <- run.Local(run.Options{Grace: 100 * time.Millisecond})(ctx,
			[]string{"sh", "-c", "trap '' TERM; sleep 300 & echo $$ $!; while :; do sleep 0.1; done"}, nil,
			w, nil)
	}()
	fields := strings.Fields(<-pids)
	cancel(cause)
	err := <-done
	if !errors.Is(err, context.Canceled) || !errors.Is(err, cause) {
		t.Errorf("got %v", err)
	}
	for _, f := range fields {
		pid, _ := strconv.Atoi(f)
		deadline := time.Now().Add(time.Minute)
		for alive(pid) {
			if time.Now().After(deadline) {
				t.Fatalf("process %d of %v still runs", pid, fields)
			}
			time.Sleep(10 * time.Millisecond)
		}
	}
}

// A daemon that keeps the output open neither blocks the caller nor turns
// success into failure.
func TestLocalDaemonKeepsOutput(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	err := run.Local(run.Options{Grace: 50 * time.Millisecond})(t.Context(), []string{"sh", "-c",
		"sleep 30 & echo $!"}, nil, &out, nil)
	if err != nil {
		t.Error(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(out.String()))
	if err != nil {
		t.Fatal(err)
	}
	_ = syscall.Kill(pid, syscall.SIGKILL)
}

// A consumer that is slower than the grace time gets everything all the same.
func TestLocalSlowConsumer(t *testing.T) {
	t.Parallel()
	var got int
	w := writerFunc(func(p []byte) (int, error) {
		if got == 0 {
			time.Sleep(300 * time.Millisecond)
		}
		got += len(p)
		return len(p), nil
	})
	// More than a pipe holds would keep the command from ending.
	err := run.Local(run.Options{Grace: 20 * time.Millisecond})(t.Context(), []string{"sh", "-c",
		"head -c 60000 /dev/zero"}, nil, w, nil)
	if err != nil || got != 60000 {
		t.Errorf("%d bytes, %v", got, err)
	}
}

// A consumer that fails ends the call, and its error is found.
func TestLocalFailingConsumer(t *testing.T) {
	t.Parallel()
	full := errors.New("disk full")
	w := writerFunc(func([]byte) (int, error) { return 0, full })
	err := run.Local(run.Options{})(t.Context(), []string{"sh", "-c", "echo x; exit 0"}, nil, w, nil)
	if !errors.Is(err, full) {
		t.Errorf("got %v", err)
	}
}

// A consumer that blocks for ever does not keep a cancelled call.
func TestLocalBlockedConsumer(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	never := make(chan struct{})
	defer close(never)
	w := writerFunc(func(p []byte) (int, error) { cancel(); <-never; return len(p), nil })
	err := run.Local(run.Options{Grace: 50 * time.Millisecond})(ctx, []string{"sh", "-c",
		"echo x; sleep 60"}, nil, w, nil)
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

// alive is false for a zombie: a killed orphan waits for init to collect it.
func alive(pid int) bool {
	if syscall.Kill(pid, 0) != nil {
		return false
	}
	stat, err := exec.Command("ps", "-o", "stat=", "-p", strconv.Itoa(pid)).Output()
	return err == nil && !strings.HasPrefix(string(stat), "Z")
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

func FuzzTail(f *testing.F) {
	f.Add([]byte("a\nb"), 3)
	f.Fuzz(func(t *testing.T, p []byte, times int) {
		var tail run.Tail
		for range times % 64 {
			if n, err := tail.Write(p); n != len(p) || err != nil {
				t.Fatal(n, err)
			}
		}
		if len(tail.String()) > run.TailSize+len("…") {
			t.Fatal("tail too long")
		}
	})
}
