package rollout

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Step is one named action on a target. See the package comment for what Do,
// Undo and Done promise.
type Step struct {
	Name string
	Do   func(context.Context) error
	Undo func(context.Context) error         // nil: there is nothing to undo
	Done func(context.Context) (bool, error) // nil: Do runs whenever the step is reached

	// Check, where given, must succeed after Do, or after Done said true, for
	// the step to count. A resumed run asks it again of targets that are done.
	Check func(context.Context) error

	Timeout time.Duration // of one attempt; 0: Options.StepTimeout
	Retry   Retry
}

// Retry says how often a failing step is tried. An error that has a method
// Retryable() bool answering false is not tried again.
type Retry struct {
	Attempts int           // tries in all; 0: one
	Wait     time.Duration // before the second try, doubled before each later one
	MaxWait  time.Duration // 0: no cap
}

// Target is what steps act on, usually one host. Its name is unique in a run.
type Target struct {
	Name  string
	Steps []Step
}

// Wave is a group of targets that begins when the wave before it has ended.
type Wave struct {
	Name     string
	Targets  []Target
	Parallel Share  // how many targets are worked on at a time; zero: one
	Canary   Canary // the first targets, alone
}

// Canary holds a wave back until its first targets have proved themselves. A
// canary that fails stops the run whatever the failure budget.
type Canary struct {
	Count int                         // targets of the wave that go first; 0: none
	Soak  time.Duration               // how long they are left running before the rest begins
	Watch func(context.Context) error // called once when the soak begins with a context that ends with it; an error fails the canary
}

// Share is a number of targets: a count or a percentage of those in question.
// Set at most one.
type Share struct {
	Count   int
	Percent float64
}

// Of returns the share of n targets. A percentage is rounded down.
func (s Share) Of(n int) int {
	if s.Count > 0 {
		return min(s.Count, n)
	}
	return int(float64(n) * s.Percent / 100)
}

func (s Share) validate(what string) error {
	if s.Count < 0 || !(s.Percent >= 0 && s.Percent <= 100) || (s.Count > 0 && s.Percent > 0) {
		return fmt.Errorf("%s is %d targets and %g %%: give one of them, a count from 0 or a percentage from 0 to 100", what, s.Count, s.Percent)
	}
	return nil
}

// Batches splits targets into waves of the given sizes, each wave worked on at
// once; the last size serves for all that remain. The names are
// "<name> 1", "<name> 2" and so on.
func Batches(name string, targets []Target, sizes ...int) ([]Wave, error) {
	if len(sizes) == 0 {
		return nil, fmt.Errorf("batches of %s: no size given", name)
	}
	var waves []Wave
	for i := 0; len(targets) > 0; i++ {
		size := sizes[min(i, len(sizes)-1)]
		if size < 1 {
			return nil, fmt.Errorf("batches of %s: size %d: give sizes from 1", name, size)
		}
		size = min(size, len(targets))
		waves = append(waves, Wave{Name: fmt.Sprintf("%s %d", name, i+1), Targets: targets[:size], Parallel: Share{Count: size}})
		targets = targets[size:]
	}
	return waves, nil
}

// validate reports everything that is wrong with the waves at once.
func validate(waves []Wave) error {
	var errs []error
	bad := func(format string, a ...any) { errs = append(errs, fmt.Errorf(format, a...)) }
	named := func(what, name string) {
		if len(name) > 255 {
			bad("%s %.20q… has a name of %d bytes: 255 may be", what, name, len(name))
		}
	}
	seenWave, seenTarget := map[string]bool{}, map[string]bool{}
	for _, w := range waves {
		if w.Name == "" || seenWave[w.Name] {
			bad("wave %q: the name is empty or stands twice", w.Name)
		}
		seenWave[w.Name] = true
		named("wave", w.Name)
		if err := w.Parallel.validate("parallelism of wave " + w.Name); err != nil {
			errs = append(errs, err)
		}
		if w.Canary.Count < 0 || w.Canary.Soak < 0 {
			bad("wave %q: canary count %d and soak %v must not be negative", w.Name, w.Canary.Count, w.Canary.Soak)
		}
		for _, t := range w.Targets {
			if t.Name == "" || seenTarget[t.Name] {
				bad("target %q in wave %q: the name is empty or stands twice", t.Name, w.Name)
			}
			seenTarget[t.Name] = true
			named("target", t.Name)
			if len(t.Steps) == 0 {
				bad("target %q: no steps", t.Name)
			}
			seenStep := map[string]bool{}
			for _, s := range t.Steps {
				if s.Name == "" || seenStep[s.Name] {
					bad("target %q: step %q: the name is empty or stands twice", t.Name, s.Name)
				}
				seenStep[s.Name] = true
				named("step", s.Name)
				if s.Do == nil {
					bad("target %q: step %q has no Do", t.Name, s.Name)
				}
				if s.Timeout < 0 || s.Retry.Attempts < 0 || s.Retry.Wait < 0 || s.Retry.MaxWait < 0 {
					bad("target %q: step %q: timeout and retry must not be negative", t.Name, s.Name)
				}
			}
		}
	}
	if len(seenTarget) == 0 {
		bad("no targets given")
	}
	return errors.Join(errs...)
}
