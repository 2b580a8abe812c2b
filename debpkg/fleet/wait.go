package fleet

import (
	"context"
	"fmt"
	"time"

	"example.com/tykupgrade/debpkg"
	"example.com/tykupgrade/debpkg/rollout"
	"example.com/tykupgrade/health"
)

// machine is one host with its wanted version.
type machine struct {
	Host
	deb     *debpkg.Host
	want    debpkg.Version
	version string
	health  Health
	log     health.LogReader // of a gateway that loads plugins; nil: not read
}

func (inv *Inventory) machine(h Host, progress func(host, text string)) *machine {
	m := &machine{Host: h, version: inv.Versions[h.Component], health: inv.Health, deb: inv.host(h,
		progress)}
	m.want, _ = debpkg.ParseVersion(m.version) // Check has looked
	return m
}

func (m *machine) request() debpkg.Request {
	return debpkg.Request{Package: m.Package, Version: m.want}
}

// healthy waits until the new version serves.
func (m *machine) healthy(ctx context.Context) error { return m.wait(ctx, m.version) }

// asInstalled waits until the installed version serves.
func (m *machine) asInstalled(ctx context.Context) error {
	now, err := mustHave(ctx, m.deb, m.Package)
	if err != nil {
		return err
	}
	return m.wait(ctx, now.String())
}

// restored waits for the version that was there before.
func (m *machine) restored(ctx context.Context) error {
	var r record
	if _, err := rollout.Saved(ctx, &r); err != nil || r.Plan == nil {
		return err
	}
	before := r.before(m.Package)
	if len(r.Plan.Actions) == 0 { // the bundle alone was replaced
		before = m.want
	}
	if before.IsZero() {
		return nil
	}
	return m.wait(ctx, before.String())
}

// wait polls the host's probes, and the package's version with each of them.
func (m *machine) wait(ctx context.Context, version string) error {
	probes, err := m.Probes(version)
	if err != nil {
		return err
	}
	if m.log != nil {
		probes[0].Checks = append(probes[0].Checks, health.PluginsLoaded(m.log))
	}
	for i := range probes {
		probes[i].Checks = append(probes[i].Checks, health.Check{Name: "package",
			Run: func(ctx context.Context) (health.Finding, error) {
				now, err := mustHave(ctx, m.deb, m.Package)
				if err != nil {
					return health.Finding{}, err
				}
				return health.Finding{Version: now.String()}, nil
			}})
	}
	_, err = health.Wait(ctx, m.health.policy(), probes...)
	return err
}

func (h Health) policy() health.Policy {
	// An attempt also runs dpkg over SSH, which takes long on a busy host.
	return health.Policy{SuccessThreshold: h.SuccessThreshold, Deadline: time.Duration(h.Deadline),
		TryTimeout: 15 * time.Second}
}

// watch polls hosts and gates while hosts soak, until one fails three times in a row or the context
// ends.
func (inv *Inventory) watch(machines []*machine) func(context.Context) error {
	return func(ctx context.Context) error {
		var probes []health.Probe
		for _, m := range machines {
			p, err := m.Probes(m.version)
			if err != nil {
				return err
			}
			probes = append(probes, p...)
		}
		return watchProbes(ctx, append(probes, inv.gateProbes()...))
	}
}

func watchProbes(ctx context.Context, probes []health.Probe) error {
	if len(probes) == 0 {
		return nil
	}
	failures := make([]int, len(probes))
	for {
		rep, err := health.Once(ctx, health.Policy{}, probes...)
		if err != nil {
			return err
		}
		for i, p := range rep.Probes {
			if p.Status != health.Fail {
				failures[i] = 0
			} else if failures[i]++; failures[i] == 3 {
				return &Error{Op: "watch", Object: p.Probe, Kind: ErrUnhealthy,
					Err: fmt.Errorf("three failures in a row: %s", p.Error)}
			}
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(2 * time.Second):
		}
	}
}
