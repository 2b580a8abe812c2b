package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"

	"example.com/tykupgrade/debpkg"
	"example.com/tykupgrade/debpkg/rollout"
	"example.com/tykupgrade/examples/internal/fleet"
	"example.com/tykupgrade/examples/internal/term"
)

// planned is what will happen to one host.
type planned struct {
	Wave  string       `json:"wave"`
	Host  string       `json:"host"`
	Steps []string     `json:"steps"`
	Plan  *debpkg.Plan `json:"plan,omitempty"`
	Error string       `json:"error,omitempty"`
}

// plan asks every host what an upgrade would do there.
func (c *command) plan(inv *fleet.Inventory) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	waves, err := c.waves(inv, nil)
	if err != nil {
		return c.fail(err)
	}
	hosts := map[string]fleet.Host{}
	for _, h := range inv.Hosts {
		hosts[h.Name] = h
	}
	var rows []planned
	for _, w := range waves {
		for _, t := range w.Targets {
			p := planned{Wave: w.Name, Host: t.Name}
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
	code := exitOK
	for _, r := range rows {
		if r.Error != "" {
			code = exitFailed
		}
	}
	if c.json {
		return c.print(rows, code)
	}
	out := term.New(c.stdout)
	table := [][]string{{"WAVE", "HOST", "PACKAGE", "STEPS"}}
	for _, r := range rows {
		table = append(table, []string{r.Wave, r.Host, actions(r), strings.Join(r.Steps, " → ")})
	}
	out.Printf("%s\n%s", out.Table(table), stops(inv, waves))
	for _, r := range rows {
		if r.Error != "" {
			out.Printf("%s %s: %s\n", out.Paint(term.Bad, "cannot:"), r.Host, r.Error)
		}
	}
	return code
}

func actions(r planned) string {
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

// stops says when the run ends early.
func stops(inv *fleet.Inventory, waves []rollout.Wave) string {
	n := 0
	for _, w := range waves {
		n += len(w.Targets)
	}
	budget := rollout.Share(inv.Budget).Of(n)
	parallel := inv.Parallel
	if parallel == (fleet.Share{}) {
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

func (c *command) print(v any, code int) int {
	enc := json.NewEncoder(c.stdout)
	enc.SetIndent("", "  ")
	if err := enc.Encode(v); err != nil {
		return c.fail(err)
	}
	return code
}
