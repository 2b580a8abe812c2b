package fleet

import (
	"context"
	"fmt"
	"strings"
	"sync"

	"example.com/tykupgrade/debpkg"
	"example.com/tykupgrade/debpkg/rollout"
	"example.com/tykupgrade/examples/internal/cli"
)

// Planned is what will happen to one target of a wave.
type Planned struct {
	Wave  string       `json:"wave"`
	Host  string       `json:"host"`
	Steps []string     `json:"steps"`
	Plan  *debpkg.Plan `json:"plan,omitempty"`
	Error string       `json:"error,omitempty"`
}

// Plans asks every host in the waves what an upgrade would do there, sixteen at
// a time.
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
			continue // the switch of a blue-green pair is no host
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
				rows[i].Error = err.Error()
			}
		})
	}
	wg.Wait()
	return rows
}

// PrintPlans prints a line for each target.
func PrintPlans(out *cli.Out, rows []Planned) {
	table := [][]string{{"WAVE", "HOST", "PACKAGE", "STEPS"}}
	for _, r := range rows {
		table = append(table, []string{r.Wave, r.Host, r.actions(), strings.Join(r.Steps, " → ")})
	}
	out.Printf("%s\n", out.Table(table))
}

// PrintProblems prints what keeps hosts from being upgraded.
func PrintProblems(out *cli.Out, rows []Planned) {
	for _, r := range rows {
		if r.Error != "" {
			out.Printf("%s %s: %s\n", out.Paint(cli.Bad, "cannot:"), r.Host, r.Error)
		}
	}
}

func (r Planned) actions() string {
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

// Targets counts the targets of waves.
func Targets(waves []rollout.Wave) int {
	n := 0
	for _, w := range waves {
		n += len(w.Targets)
	}
	return n
}

// Stops says when the run of the waves ends early.
func (inv *Inventory) Stops(waves []rollout.Wave) string {
	budget := rollout.Share(inv.Budget).Of(Targets(waves))
	parallel := inv.Parallel
	if parallel == (Share{}) {
		parallel.Count = 1
	}
	text := fmt.Sprintf("At a time: %s of a component. ", parallel)
	if inv.Canary.Count > 0 {
		text += fmt.Sprintf("First %d of each alone, for %v. ", inv.Canary.Count, inv.Canary.Soak)
	}
	text += fmt.Sprintf("A host that fails is reverted. The run ends at failure %d", budget+1)
	if rollout.Beyond(inv.Beyond) == rollout.UndoRun {
		return text + " and then reverts every host that it changed.\n"
	}
	return text + " and leaves the hosts that are done as they are.\n"
}
