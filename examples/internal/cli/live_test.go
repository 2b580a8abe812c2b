package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"testing"
	"time"

	"example.com/tykupgrade/debpkg/rollout"
)

// The live view stays short however large the fleet is.
func TestTableLines(t *testing.T) {
	t.Parallel()
	tab := NewLive(NewOut(io.Discard))
	tab.targets = 5000
	for i := range 300 {
		tab.record(rollout.Record{Kind: rollout.KindStart, Target: fmt.Sprint("h", i), Step: "install"})
	}
	tab.Note("h3", "unpacking")
	tab.record(rollout.Record{Kind: rollout.KindEnd, Target: "h0", Status: rollout.StatusDone})
	// One that was done and is undone counts once.
	tab.record(rollout.Record{Kind: rollout.KindEnd, Target: "h300", Status: rollout.StatusDone})
	tab.record(rollout.Record{Kind: rollout.KindEnd, Target: "h300", Status: rollout.StatusUndone})
	lines := tab.lines()
	if len(lines) != 22 || !strings.Contains(lines[0], "1 of 5000 done, 1 restored, 0 need") ||
		!strings.Contains(lines[len(lines)-1], "and 279 more") || !strings.Contains(strings.Join(lines,
		"\n"), "unpacking") {
		t.Errorf("%d lines:\n%s", len(lines), strings.Join(lines, "\n"))
	}
}

// heard is an output that tells when the run is told to stop.
type heard chan struct{}

func (h heard) Write(p []byte) (int, error) {
	if bytes.Contains(p, []byte("stopping after the hosts")) {
		close(h)
	}
	return len(p), nil
}

// A terminal that is gone, as when SSH to the operator's machine breaks off,
// stops a run between hosts and never within one.
func TestHangup(t *testing.T) {
	if signal.Ignored(syscall.SIGHUP) {
		t.Skip("SIGHUP is ignored, as under nohup")
	}
	// Without the run's own ear for it the signal would end the test.
	ear := make(chan os.Signal, 4)
	signal.Notify(ear, syscall.SIGHUP)
	defer signal.Stop(ear)
	out := make(heard)
	hang := rollout.Step{Name: "install", Do: func(ctx context.Context) error {
		for range 2 {
			if err := syscall.Kill(os.Getpid(), syscall.SIGHUP); err != nil {
				return err
			}
			select {
			case <-out:
			case <-time.After(2 * time.Minute):
				return errors.New("nobody stops the run")
			}
		}
		return ctx.Err()
	}}
	wave := rollout.Wave{Name: "w", Targets: []rollout.Target{{Name: "a", Steps: []rollout.Step{hang}},
		{Name: "b", Steps: []rollout.Step{hang}}}}
	rep, err := NewLive(NewOut(out)).Work(t.Context(), rollout.ModeRun, []rollout.Wave{wave},
		rollout.Options{})
	if !errors.Is(err, rollout.ErrStopped) || rep.Count(rollout.StatusDone) != 1 ||
		rep.Count(rollout.StatusPending) != 1 {
		t.Errorf("%v, %+v", err, rep)
	}
}
