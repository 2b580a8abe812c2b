package rollout_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"example.com/tykupgrade/debpkg/rollout"
)

// Every target is asked before the first is touched. What a target refuses begins no run: no
// target is touched, and the journal is as it was.
func TestEveryTargetIsAskedFirst(t *testing.T) {
	t.Parallel()
	var asked, done atomic.Int32
	var refusal error
	var fails error
	step := func(name string) rollout.Step {
		return rollout.Step{
			Name: "install",
			Ask: func(context.Context) error {
				asked.Add(1)
				if done.Load() > 0 {
					t.Error("a target is asked after one was touched")
				}
				if name == "c" {
					return refusal
				}
				return nil
			},
			Do: func(context.Context) error {
				done.Add(1)
				if name == "b" {
					return fails
				}
				return nil
			},
		}
	}
	var w rollout.Wave
	w.Name = "w"
	for _, name := range []string{"a", "b", "c"} {
		w.Targets = append(w.Targets, rollout.Target{Name: name, Steps: []rollout.Step{step(name)}})
	}
	waves := []rollout.Wave{w}
	o := rollout.Options{Journal: filepath.Join(t.TempDir(), "journal"), Secrets: []string{"hunter2"}}

	refusal = errors.New("no such version, hunter2")
	_, err := rollout.Run(t.Context(), waves, o)
	if !errors.Is(err, rollout.ErrRefused) || !strings.Contains(err.Error(),
		"c: install: no such version") || strings.Contains(err.Error(), "hunter2") {
		t.Errorf("error %v", err)
	}
	if asked.Load() != 3 || done.Load() != 0 {
		t.Errorf("%d asked, %d done", asked.Load(), done.Load())
	}
	if _, err := os.Stat(o.Journal); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a journal was begun: %v", err)
	}
	// A journal of a finished run stays in its place.
	refusal = nil
	if _, err := rollout.Run(t.Context(), waves, o); err != nil {
		t.Fatal(err)
	}
	before, _ := os.ReadFile(o.Journal)
	refusal = errors.New("no space")
	done.Store(0)
	if _, err := rollout.Run(t.Context(), waves, o); !errors.Is(err, rollout.ErrRefused) ||
		done.Load() != 0 {
		t.Errorf("%v, %d done", err, done.Load())
	}
	if now, _ := os.ReadFile(o.Journal); string(now) != string(before) {
		t.Error("the journal of the finished run was changed")
	}
	// A resumed run asks those that it has not begun.
	refusal, fails = nil, errors.New("disk is full")
	o.Journal += "2"
	if _, err := rollout.Run(t.Context(), waves, o); !errors.Is(err, rollout.ErrFailed) {
		t.Fatal(err)
	}
	asked.Store(0)
	done.Store(0)
	fails = nil
	if _, err := rollout.Resume(t.Context(), waves, o); err != nil || asked.Load() != 1 {
		t.Errorf("%v, %d asked", err, asked.Load())
	}
	// Without a journal it is the same.
	refusal = errors.New("no space")
	done.Store(0)
	if _, err := rollout.Run(t.Context(), waves, rollout.Options{}); !errors.Is(err,
		rollout.ErrRefused) || done.Load() != 0 {
		t.Errorf("%v, %d done", err, done.Load())
	}
}
