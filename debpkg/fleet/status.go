package fleet

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"example.com/tykupgrade/health"
)

// Status is the present state of a host.
type Status struct {
	Host      string        `json:"host"`
	Component string        `json:"component"`
	Installed string        `json:"installed,omitempty"` // empty: the package is not installed
	Wanted    string        `json:"wanted"`
	Unit      string        `json:"unit,omitempty"` // systemd's word: active, failed
	Health    health.Status `json:"health,omitempty"`
	Error     string        `json:"error,omitempty"`
}

// OK reports whether the host is in the state that the inventory describes.
func (s Status) OK() bool {
	return s.Error == "" && s.Installed == s.Wanted && (s.Health == health.Pass ||
		s.Health == health.Warn)
}

// Statuses returns the present state of hosts. It changes nothing and may be called during a run.
func (inv *Inventory) Statuses(ctx context.Context, hosts []Host) []Status {
	all := make([]Status, len(hosts))
	_ = Each(hosts, func(i int, h Host) error {
		all[i] = Status{Host: h.Name, Component: h.Component, Wanted: inv.Versions[h.Component]}
		if err := all[i].ask(ctx, inv, h); err != nil {
			all[i].Error = err.Error()
		}
		return nil
	})
	return all
}

func (s *Status) ask(ctx context.Context, inv *Inventory, h Host) error {
	now, err := inv.Installed(ctx, h)
	if err != nil || now.IsZero() {
		return err
	}
	s.Installed = now.String()
	units, err := inv.host(h, nil).Units(ctx, h.Unit())
	if err != nil {
		return err
	}
	for _, u := range units {
		s.Unit = u.ActiveState
	}
	probes, err := h.Probes(s.Installed)
	if err != nil {
		return err
	}
	rep, err := health.Once(ctx, health.Policy{TryTimeout: 10 * time.Second}, probes...)
	s.Health = rep.Status
	for _, p := range rep.Probes {
		if p.Error != "" && err == nil {
			s.Error = p.Error
		}
	}
	return err
}

// Baseline waits until hosts are healthy with their installed versions. Call it before a run, to
// find faults that the run did not cause. It leaves out hosts without their package.
func (inv *Inventory) Baseline(ctx context.Context, hosts []Host) error {
	byHost := make([][]health.Probe, len(hosts))
	err := Each(hosts, func(i int, h Host) error {
		now, err := inv.Installed(ctx, h)
		if err != nil || now.IsZero() {
			return err
		}
		byHost[i], err = h.Probes(now.String())
		return err
	})
	probes := slices.Concat(byHost...)
	if err != nil || len(probes) == 0 {
		return err
	}
	policy := inv.Health.policy()
	policy.SuccessThreshold = 1
	if _, err = health.Wait(ctx, policy, probes...); err != nil {
		return &Error{Op: "check hosts", Kind: ErrUnhealthy, Err: err, Retry: true}
	}
	return nil
}

// Each calls f for every host, eight at a time. It joins the errors with the names of their hosts.
// If several hosts have the same error, it appears once.
func Each(hosts []Host, f func(i int, h Host) error) error {
	errs := make([]error, len(hosts))
	slots := make(chan struct{}, 8)
	var wg sync.WaitGroup
	for i, h := range hosts {
		wg.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			errs[i] = f(i, h)
		})
	}
	wg.Wait()
	var order []string
	names, causes := map[string]string{}, map[string]error{}
	for i, err := range errs {
		if err == nil {
			continue
		}
		text := err.Error()
		if names[text] == "" {
			order, causes[text], names[text] = append(order, text), err, hosts[i].Name
		} else {
			names[text] += ", " + hosts[i].Name
		}
	}
	var all []error
	for _, text := range order {
		all = append(all, fmt.Errorf("%s: %w", names[text], causes[text]))
	}
	return errors.Join(all...)
}

// Update updates the package lists of hosts and then plans the upgrade of each. It returns how many
// hosts have which package, and the errors of hosts that cannot be upgraded. expect may be nil.
// Otherwise it checks what is installed on a host, and its error refuses the host.
func (inv *Inventory) Update(ctx context.Context, hosts []Host, progress func(host, text string),
	expect func(Host, string) error) (map[string]int, error) {
	found := make([]string, len(hosts))
	err := Each(hosts, func(i int, h Host) error {
		now, err := inv.Installed(ctx, h)
		if err != nil {
			return err
		}
		found[i] = "no " + h.Package
		if !now.IsZero() {
			found[i] = h.Package + " " + now.String()
			if expect != nil {
				if err := expect(h, now.String()); err != nil {
					return err
				}
			}
		}
		if progress != nil {
			progress(h.Name, "apt-get update")
		}
		if err := inv.host(h, progress).Update(ctx); err != nil {
			return err
		}
		plan, err := inv.Plan(ctx, h)
		return errors.Join(err, plan.Refused())
	})
	counts := map[string]int{}
	for _, text := range found {
		if text != "" {
			counts[text]++
		}
	}
	return counts, err
}
