package apidef

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/Masterminds/semver/v3"

	"example.com/tykupgrade/bundle"
)

// Change replaces one bundle name with another.
type Change struct {
	From string // a name that APIs have now
	To   string
	APIs []string // IDs; empty: every API that names From
	// Gateway is the running release; from 5.15 an API may name a list that contains From.
	Gateway *semver.Version

	// Switch is the plan of bundle.ForUpgrade for the new name To. Without it, or if running
	// gateways would lose a plugin, [NewPlan] refuses the change.
	Switch *bundle.SwitchPlan
	Force  bool // plan the change without this check
}

// Edit is the change of one API.
type Edit struct {
	Was  API `json:"was"`
	Next API `json:"next"`
}

// Plan is a change of several APIs. It holds their whole documents, so treat it as a secret.
type Plan struct {
	From  string `json:"from"`
	To    string `json:"to"`
	Edits []Edit `json:"edits"`
}

// String lists the APIs without their documents.
func (p *Plan) String() string {
	var ids []string
	for _, e := range p.Edits {
		ids = append(ids, e.Was.ID)
	}
	return fmt.Sprintf("%s becomes %s in %d APIs: %s", p.From, p.To, len(ids), strings.Join(ids, ", "))
}

func (p *Plan) digest() string {
	data, _ := json.Marshal(p)
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

// NewPlan reads the APIs and plans the change. It writes nothing. A change that takes a plugin out
// of service is an error of kind [ErrOutage]. If no API names the bundle, the error is of kind
// [ErrNotFound].
func NewPlan(ctx context.Context, s Store, c Change) (*Plan, error) {
	const op = "plan bundle change"
	fail := func(object string, kind, err error, next string) (*Plan, error) {
		return nil, &Error{Op: op, Object: object, Kind: kind, Err: err, Next: next}
	}
	switch {
	case c.From == "" || c.To == "" || c.From == c.To:
		return fail("", nil, fmt.Errorf("from %q to %q is not a change", c.From, c.To),
			"name two bundles")
	case strings.ContainsAny(c.To, ",\n\r") || strings.TrimSpace(c.To) != c.To:
		return fail(c.To, nil, errors.New("not the name of one bundle"), "")
	case c.Force:
	case c.Switch == nil || c.Switch.New != c.To:
		return fail(c.To, ErrOutage, errors.New("no switch plan for this name"),
			"plan it with bundle.ForUpgrade, or keep the name and publish under it")
	case c.Switch.Running.Effect != bundle.PluginRuns:
		return fail(c.To, ErrOutage, errors.New(c.Switch.Running.Text),
			"keep the name and publish under it")
	}
	apis, err := s.APIs(ctx)
	if err != nil {
		return nil, err
	}
	p := &Plan{From: c.From, To: c.To}
	missing := slices.Clone(c.APIs)
	for _, a := range apis {
		if len(c.APIs) > 0 && !slices.Contains(c.APIs, a.ID) {
			continue
		}
		missing = slices.DeleteFunc(missing, func(id string) bool { return id == a.ID })
		value, _, err := a.bundles()
		if err != nil {
			return fail(a.ID, ErrDefinition, err, "correct the definition")
		}
		next := replaced(c.Gateway, value, c.From, c.To)
		if next == value {
			if len(c.APIs) > 0 {
				return fail(a.ID, nil, fmt.Errorf("it names %q, not %s", value, c.From),
					"choose the APIs that name it")
			}
			continue
		}
		// Some stores list documents in another form than they give one.
		was, err := s.API(ctx, a.ID)
		if err != nil {
			return nil, err
		}
		changed, err := was.withBundles(next)
		if err != nil {
			return fail(a.ID, ErrDefinition, err, "correct the definition")
		}
		p.Edits = append(p.Edits, Edit{was, changed})
	}
	if len(missing) > 0 {
		return fail(strings.Join(missing, ", "), ErrNotFound, nil, "")
	}
	if len(p.Edits) == 0 {
		return fail(c.From, ErrNotFound, errors.New("no API names this bundle"), "")
	}
	return p, nil
}

// replaced replaces from with to, and keeps the rest of a list with its spaces.
func replaced(gateway *semver.Version, value, from, to string) string {
	if value == from {
		return to
	}
	if names := bundle.Names(gateway, value); len(names) < 2 {
		return value
	}
	parts := strings.Split(value, ",")
	for i, part := range parts {
		if name := strings.TrimSpace(part); name == from {
			parts[i] = strings.Replace(part, name, to, 1)
		}
	}
	return strings.Join(parts, ",")
}
