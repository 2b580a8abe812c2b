package apidef

import (
	"context"
	"crypto/rsa"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/Masterminds/semver/v3"

	"example.com/tykupgrade/bundle"
)

// Host describes the gateway on one host.
type Host struct {
	Name     string
	From, To *semver.Version
	// Key is the public key in the file that public_key_path of tyk.conf names, or nil if that is
	// not set.
	Key *rsa.PublicKey
}

// Finding is a bundle with a problem: the release refuses it, or loads it with a warning.
type Finding struct {
	Host    string   `json:"host"`
	Bundle  string   `json:"bundle"`
	APIs    []string `json:"apis"`
	Release string   `json:"release"`
	Blocks  bool     `json:"blocks"` // true: the release does not serve the APIs
	Problem string   `json:"problem"`
}

// String returns the finding as one sentence.
func (f Finding) String() string {
	what := "still loads"
	if f.Blocks {
		what = "refuses"
	}
	return fmt.Sprintf("%s: gateway %s %s bundle %s of API %s: %s", f.Host, f.Release, what, f.Bundle,
		strings.Join(f.APIs, ", "), f.Problem)
}

// Signatures checks every bundle of the inventory against the keys of the hosts, for the current
// and the new release. fetch returns the path of a bundle's zip. The findings are ordered by bundle
// and host. If a key is set, gateways from 5.0.12 and 5.3.1 on refuse an unsigned bundle: see
// bundle.Enforces.
func (inv *Inventory) Signatures(ctx context.Context, hosts []Host, fetch func(ctx context.Context,
	name string) (string, error)) ([]Finding, error) {
	const op = "check signatures"
	var all []Finding
	bundles := inv.Bundles()
	for _, name := range slices.Sorted(maps.Keys(bundles)) {
		path, err := fetch(ctx, name)
		if err != nil {
			return nil, &Error{Op: op, Object: name, Err: err,
				Next: "name the bundle's zip, or the bundle server", Retry: true}
		}
		for _, h := range hosts {
			if err := ctx.Err(); err != nil {
				return nil, err
			}
			if h.From == nil || h.To == nil {
				return nil, &Error{Op: op, Object: h.Name, Err: fmt.Errorf("no release given"),
					Next: "set From and To"}
			}
			accepted, err := bundle.AcceptFile(name, path, h.Key, h.From, h.To)
			if err != nil {
				return nil, &Error{Op: op, Object: name, Err: err, Retry: true}
			}
			for _, a := range accepted {
				if a.Problem != "" {
					all = append(all, Finding{h.Name, name, bundles[name], a.Gateway, !a.Loads, a.Problem})
				}
			}
		}
	}
	return all, nil
}
