package fleet

import (
	"context"
	"errors"
	"slices"

	"example.com/tykupgrade/debpkg/rollout"
)

// The checks of a [Preview], as [Inventory.Preview] takes their names.
const (
	CheckPlan     = "plan"     // every host can be upgraded
	CheckBalancer = "balancer" // no host is restarted under traffic
	CheckFindings = "findings" // versions, licences and configuration go together
)

// Checks returns the names that [Inventory.Preview] takes.
func Checks() []string { return []string{CheckPlan, CheckBalancer, CheckFindings} }

// Preview has the plans for the hosts of some waves, and the problems that were found.
type Preview struct {
	Hosts    []Planned `json:"hosts"`
	Findings []Finding `json:"findings,omitempty"`
	Problems []Problem `json:"problems,omitempty"` // beyond those of Hosts
}

// Problem is a check that failed.
type Problem struct {
	Check string `json:"check"` // one of the Check constants
	Text  string `json:"text"`
}

// Preview plans the upgrade of every host and runs all checks. It changes nothing. It skips the
// checks that without names.
func (inv *Inventory) Preview(ctx context.Context, waves []rollout.Wave,
	without ...string) Preview {
	var p Preview
	problem := func(check string, err error) {
		if err != nil && !slices.Contains(without, check) {
			p.Problems = append(p.Problems, Problem{check, err.Error()})
		}
	}
	problem(CheckBalancer, inv.Unbalanced())
	if !slices.Contains(without, CheckPlan) {
		p.Hosts = inv.Plans(ctx, waves)
	}
	var err error
	p.Findings, err = inv.Findings(ctx, inv.HostsOf(waves))
	if Refused(p.Hosts) == nil { // otherwise a host that cannot be asked is reported already
		problem(CheckFindings, err)
	}
	for _, f := range p.Findings {
		if f.Refuse {
			problem(CheckFindings, errors.New(f.String()))
		}
	}
	return p
}

// OK reports whether the preview found no problem.
func (p Preview) OK() bool { return len(p.Problems) == 0 && Refused(p.Hosts) == nil }
