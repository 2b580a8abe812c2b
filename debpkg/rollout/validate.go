package rollout

import (
	"errors"
	"fmt"
)

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
