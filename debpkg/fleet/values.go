package fleet

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"example.com/tykupgrade/debpkg/rollout"
)

// wrong returns an error that the decoder collects with those of other lines.
func wrong(n *yaml.Node, format string, a ...any) error {
	return &yaml.TypeError{Errors: []string{fmt.Sprintf("line %d: ", n.Line) + fmt.Sprintf(format,
		a...)}}
}

// Duration is a time span such as "90s" or "5m".
type Duration time.Duration

// UnmarshalYAML reads a Go duration.
func (d *Duration) UnmarshalYAML(n *yaml.Node) error {
	v, err := time.ParseDuration(n.Value)
	if err != nil || v < 0 {
		return wrong(n, "invalid duration %q: want a duration such as 90s or 5m", n.Value)
	}
	*d = Duration(v)
	return nil
}

func (d Duration) String() string { return time.Duration(d).String() }

// Amount is a count or a percentage: "3" or "25%".
type Amount rollout.CountOrPercent

// UnmarshalYAML reads a count or a percentage.
func (a *Amount) UnmarshalYAML(n *yaml.Node) error {
	t := n.Value
	if p, ok := strings.CutSuffix(t, "%"); ok {
		v, err := strconv.ParseFloat(strings.TrimSpace(p), 64)
		if err != nil || !(v >= 0 && v <= 100) {
			return wrong(n, "invalid percentage %q: want one from 0%% to 100%%", t)
		}
		a.Percent = v
		return nil
	}
	v, err := strconv.Atoi(t)
	if err != nil || v < 0 {
		return wrong(n, "invalid amount %q: want a count such as 3 or a percentage such as 25%%", t)
	}
	a.Count = v
	return nil
}

func (a Amount) String() string {
	if a.Percent > 0 {
		return strconv.FormatFloat(a.Percent, 'g', -1, 64) + "%"
	}
	return strconv.Itoa(a.Count)
}

// Order is the order of components.
type Order []string

// UnmarshalYAML reads standard or mdcb.
func (o *Order) UnmarshalYAML(n *yaml.Node) error {
	switch n.Value {
	case "standard":
		*o = StandardOrder()
	case "mdcb":
		*o = MDCBOrder()
	default:
		return wrong(n, "unknown order %q (want standard or mdcb)", n.Value)
	}
	return nil
}

// OnBudgetExceeded is what happens if more hosts fail than the budget allows.
type OnBudgetExceeded rollout.BudgetAction

// UnmarshalYAML reads hold or rollback.
func (b *OnBudgetExceeded) UnmarshalYAML(n *yaml.Node) error {
	switch n.Value {
	case "hold":
		*b = OnBudgetExceeded(rollout.Hold)
	case "rollback":
		*b = OnBudgetExceeded(rollout.Rollback)
	default:
		return wrong(n, "unknown on_budget_exceeded %q (want hold or rollback)", n.Value)
	}
	return nil
}
