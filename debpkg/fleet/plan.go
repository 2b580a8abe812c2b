package fleet

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"

	"example.com/tykupgrade/debpkg"
	"example.com/tykupgrade/debpkg/rollout"
)

// Planned is the plan for one target of a wave.
type Planned struct {
	Wave  string       `json:"wave"`
	Host  string       `json:"host"`
	Steps []string     `json:"steps"`
	Plan  *debpkg.Plan `json:"plan,omitempty"` // nil: the target is not a host, or Err is set
	Error string       `json:"error,omitempty"`
	Err   error        `json:"-"` // why the host cannot be upgraded
}

// Plan plans the upgrade of a host with the package lists that it has. It changes nothing.
func (inv *Inventory) Plan(ctx context.Context, h Host) (debpkg.Plan, error) {
	m := inv.machine(h, nil)
	return debpkg.New(inv.Runner(h), debpkg.Options{NoFetch: true}).Plan(ctx, m.request())
}

// Plans plans the upgrade of every host in the waves, 16 at a time. If a host cannot be upgraded,
// its Err is set. [Refused] joins these errors.
func (inv *Inventory) Plans(ctx context.Context, waves []rollout.Wave) []Planned {
	hosts := map[string]Host{}
	for _, h := range inv.Hosts {
		hosts[h.Name] = h
	}
	var rows []Planned
	for _, w := range waves {
		for _, t := range w.Targets {
			p := Planned{Wave: w.Name, Host: t.Name}
			for _, s := range t.Steps {
				p.Steps = append(p.Steps, s.Name)
			}
			rows = append(rows, p)
		}
	}
	var wg sync.WaitGroup
	slots := make(chan struct{}, 16)
	for i := range rows {
		h, ok := hosts[rows[i].Host]
		if !ok {
			continue // the switch of a blue-green pair is not a host
		}
		wg.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			plan, err := inv.Plan(ctx, h)
			if err == nil {
				rows[i].Plan = &plan
				err = plan.Refused()
			}
			if err != nil {
				rows[i].Err, rows[i].Error = err, err.Error()
			}
		})
	}
	wg.Wait()
	return rows
}

// Refused joins the errors of hosts that cannot be upgraded, or returns nil.
func Refused(rows []Planned) error {
	var errs []error
	for _, r := range rows {
		if r.Err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", r.Host, r.Err))
		}
	}
	return errors.Join(errs...)
}

// Actions returns a short text of what will be installed.
func (r Planned) Actions() string {
	switch {
	case r.Plan == nil:
		return "-"
	case r.Plan.Empty():
		return "as wanted"
	}
	var parts []string
	for _, a := range r.Plan.Actions {
		from := a.From.String()
		if a.From.IsZero() {
			from = "nothing"
		}
		parts = append(parts, fmt.Sprintf("%s %s → %s", a.Package, from, a.To))
	}
	return strings.Join(parts, ", ")
}

// Stops returns a few sentences about when a run of the waves ends early.
func (inv *Inventory) Stops(waves []rollout.Wave) string {
	budget := rollout.CountOrPercent(inv.Budget).Of(Targets(waves))
	most := inv.MaxUnavailable
	if most == (Amount{}) {
		most.Count = 1
	}
	text := fmt.Sprintf("At a time: %s of a component. ", most)
	if inv.Canary.Count > 0 {
		text += fmt.Sprintf("First %d of each alone, for %v. ", inv.Canary.Count, inv.Canary.Soak)
	}
	text += fmt.Sprintf("A host that fails is reverted. The run ends at failure %d", budget+1)
	if rollout.BudgetAction(inv.OnBudgetExceeded) == rollout.Rollback {
		return text + " and then reverts every host that it changed."
	}
	return text + " and leaves the hosts that are done as they are."
}
