package rollout

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Step is one named action on a target. See the package comment for what Do, Undo and Done
// promise.
type Step struct {
	Name string
	Do   func(context.Context) error
	Undo func(context.Context) error         // nil: there is nothing to undo
	Done func(context.Context) (bool, error) // nil: Do runs whenever the step is reached

	// Ask checks whether Do can succeed and changes nothing. Run and Resume call it for every
	// target that has not begun, 16 at a time, before they change the first one. After an error
	// nothing starts. [Saved] returns nothing in it. Nil: nothing is checked.
	Ask func(context.Context) error

	// Check runs after Do, or after Done returned true. If it fails, the step has failed. A
	// resumed run calls it again for targets that are done. Nil: nothing is checked.
	Check func(context.Context) error

	// Accept removes what Undo would need. The function [Accept] calls it. Nil: there is
	// nothing to remove.
	Accept func(context.Context) error

	Timeout time.Duration // of one attempt; 0: Options.StepTimeout
	Retry   Retry
}

// Retry sets how often a failing step is tried. An error with a method Retryable() bool that
// returns false is not tried again.
type Retry struct {
	Attempts int           // tries in all; 0: one
	Wait     time.Duration // before the second try, doubled before each later one
	MaxWait  time.Duration // 0: no cap
}

// Target is what steps act on, usually one host. Its name is unique in a run.
type Target struct {
	Name  string
	Steps []Step

	out func(context.Context) bool // it serves nobody now; nil: unknown
}

// Wave is a group of targets that begins when the wave before it has ended.
type Wave struct {
	Name           string
	Targets        []Target
	MaxUnavailable CountOrPercent // targets worked on at a time; zero: one
	Canary         Canary         // the first targets, alone
}

// Canary selects the first targets of a wave. The rest of the wave begins once they have passed. If
// a canary fails, the run stops, regardless of the failure budget.
type Canary struct {
	Count int           // targets of the wave that go first; 0: none
	Soak  time.Duration // how long they run before the rest of the wave begins

	// Watch is called once when the soak begins. Its context ends with the soak. If it returns
	// an error, the canary has failed. Nil: the soak only waits.
	Watch func(context.Context) error
}

// CountOrPercent is a number of targets: a count, or a percentage of all those concerned. Set at
// most one of the two.
type CountOrPercent struct {
	Count   int
	Percent float64
}

// Of returns the number for n targets. It rounds a percentage down.
func (c CountOrPercent) Of(n int) int {
	if c.Count > 0 {
		return min(c.Count, n)
	}
	return int(float64(n) * c.Percent / 100)
}

func (c CountOrPercent) validate(what string) error {
	if c.Count < 0 || !(c.Percent >= 0 && c.Percent <= 100) || c.Count > 0 && c.Percent > 0 {
		return fmt.Errorf("invalid %s of %d targets and %g %%: want a count from 0 or a "+
			"percentage from 0 to 100, not both", what, c.Count, c.Percent)
	}
	return nil
}

// maxName keeps records short.
const maxName = 255

// validate reports everything that is wrong with the waves at once.
func validate(waves []Wave) error {
	v := &validator{}
	waveNames, targetNames := map[string]bool{}, map[string]bool{}
	for _, w := range waves {
		v.name("", "wave", w.Name, waveNames)
		if err := w.MaxUnavailable.validate("MaxUnavailable of wave " + w.Name); err != nil {
			v.errs = append(v.errs, err)
		}
		if w.Canary.Count < 0 || w.Canary.Soak < 0 {
			v.bad("wave %q: invalid canary count %d or soak %v: want 0 or more",
				w.Name, w.Canary.Count, w.Canary.Soak)
		}
		for _, t := range w.Targets {
			v.name("", "target", t.Name, targetNames)
			v.steps(t)
		}
	}
	if len(targetNames) == 0 {
		v.bad("no targets given")
	}
	return errors.Join(v.errs...)
}

type validator struct{ errs []error }

func (v *validator) bad(format string, a ...any) {
	v.errs = append(v.errs, fmt.Errorf(format,
		a...))
}

func (v *validator) name(where, what, name string, seen map[string]bool) {
	switch {
	case name == "":
		v.bad("%s%s without a name", where, what)
	case seen[name]:
		v.bad("%sduplicate %s name %q", where, what, name)
	case len(name) > maxName:
		v.bad("%s%s %.20q… has a name of %d bytes: the limit is %d", where, what, name, len(name),
			maxName)
	}
	seen[name] = true
}

func (v *validator) steps(t Target) {
	if len(t.Steps) == 0 {
		v.bad("target %q has no steps", t.Name)
	}
	names := map[string]bool{}
	for _, s := range t.Steps {
		v.name(fmt.Sprintf("target %q: ", t.Name), "step", s.Name, names)
		if s.Do == nil {
			v.bad("target %q: step %q has no Do", t.Name, s.Name)
		}
		if s.Timeout < 0 || s.Retry.Attempts < 0 || s.Retry.Wait < 0 || s.Retry.MaxWait < 0 {
			v.bad("target %q: step %q: invalid timeout or retry: want 0 or more", t.Name, s.Name)
		}
	}
}

// Select returns the waves with only the named target, and only the named step of it unless step is
// empty. It is for other engines, such as Ansible, Nomad or a CI system, that run one host at a
// time.
func Select(waves []Wave, target, step string) ([]Wave, error) {
	var all []string
	for _, w := range waves {
		for _, t := range w.Targets {
			all = append(all, t.Name)
		}
		i := slices.IndexFunc(w.Targets, func(t Target) bool { return t.Name == target })
		if i < 0 {
			continue
		}
		t := w.Targets[i]
		if step != "" {
			j := slices.IndexFunc(t.Steps, func(s Step) bool { return s.Name == step })
			if j < 0 {
				var names []string
				for _, s := range t.Steps {
					names = append(names, s.Name)
				}
				return nil, fmt.Errorf("select step: unknown step %q of target %s (want %s)", step, target,
					strings.Join(names, ", "))
			}
			t.Steps = t.Steps[j : j+1]
		}
		return []Wave{{Name: w.Name, Targets: []Target{t}}}, nil
	}
	if len(all) > 10 {
		all = append(all[:10], "…")
	}
	return nil, fmt.Errorf("select target: unknown target %q (want %s)", target, strings.Join(all, ", "))
}
