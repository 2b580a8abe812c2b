package rollout

import (
	"fmt"
	"slices"
)

// StandardOrder is the order in which the components of a Tyk stack are
// upgraded.
func StandardOrder() []string { return []string{"dashboard", "gateway", "pump"} }

// MDCBOrder is the order for a stack with MDCB: the control plane first, then
// the data planes.
func MDCBOrder() []string {
	return []string{"mdcb", "pump", "dashboard", "gateway", "data-plane-pump", "data-plane-gateway"}
}

// InOrder strings together the waves of components in an order such as
// [StandardOrder]. A component that the order does not name is an error; one
// without waves is left out.
func InOrder(order []string, waves map[string][]Wave) ([]Wave, error) {
	for name := range waves {
		if !slices.Contains(order, name) {
			return nil, fmt.Errorf("order waves: component %q has no place in %q", name, order)
		}
	}
	var all []Wave
	for _, name := range order {
		all = append(all, waves[name]...)
	}
	return all, nil
}

// Select keeps one target, and of it one step if step is not empty: what a team
// with an engine of its own (Ansible, Temporal, Nomad, a CI system) calls per
// host.
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
