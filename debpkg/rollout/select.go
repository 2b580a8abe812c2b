package rollout

import (
	"fmt"
	"slices"
)

// Select keeps one target, and of it one step if step is not empty. A team with an engine of its
// own (Ansible, Temporal, Nomad, a CI system) calls it for each host.
func Select(waves []Wave, target, step string) ([]Wave, error) {
	for _, w := range waves {
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
				return nil, fmt.Errorf("select step: target %s has no step %q; it has %q", target, step, names)
			}
			t.Steps = t.Steps[j : j+1]
		}
		return []Wave{{Name: w.Name, Targets: []Target{t}}}, nil
	}
	return nil, fmt.Errorf("select target: no target is named %q", target)
}
