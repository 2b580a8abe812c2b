package fleet

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"example.com/tykupgrade/debpkg"
	"example.com/tykupgrade/internal/tykversion"
)

// Check fills in defaults. It reports all mistakes at once as an [ErrInventory]. It contacts no
// host.
func (inv *Inventory) Check() error {
	var errs []error
	bad := func(format string, a ...any) { errs = append(errs, fmt.Errorf(format, a...)) }
	if inv.Order == nil {
		inv.Order = StandardOrder()
	}
	if len(inv.Hosts) == 0 {
		bad("no hosts")
	}
	seen := map[string]bool{}
	for i := range inv.Hosts {
		inv.checkHost(i, seen, bad)
	}
	for component := range inv.Versions {
		if !slices.Contains(inv.Order, component) {
			bad("versions: unknown component %q (want %s)", component, oneOf(inv.Order))
		}
	}
	for i, p := range inv.HAProxy {
		if p.Address == "" || p.Network != "" && p.Network != "unix" && p.Network != "tcp" {
			bad("haproxy %d: want an address, and unix or tcp as network", i+1)
		}
	}
	if err := inv.checkBalancer(); err != nil {
		bad("balancer: %w", err)
	}
	gates := map[string]bool{}
	for i, g := range inv.Gates {
		if err := g.check(); err != nil {
			bad("gates: number %d: %w", i+1, err)
		} else if gates[g.Name] {
			bad("gates: duplicate name %q", g.Name)
		}
		gates[g.Name] = true
	}
	for i, h := range inv.Hooks {
		if err := h.check(); err != nil {
			bad("hooks: number %d: %w", i+1, err)
		}
	}
	if inv.Prober.Allowed < 0 {
		bad("prober: invalid allowed %d: want 0 or more", inv.Prober.Allowed)
	}
	if b := inv.BlueGreen; b != nil {
		if b.Map == "" || b.Active == "" || b.Idle == "" || b.Active == b.Idle || len(inv.HAProxy) == 0 {
			bad("bluegreen: want map, active and idle (two colours), and an haproxy")
		}
		if !slices.ContainsFunc(inv.Hosts, func(h Host) bool {
			return h.Component == b.Component &&
				h.Colour == b.Idle
		}) {
			bad("bluegreen: no host of component %q has the colour %q", b.Component, b.Idle)
		}
	}
	if err := errors.Join(errs...); err != nil {
		return &Error{Kind: ErrInventory, Err: err}
	}
	return nil
}

func (inv *Inventory) checkHost(i int, seen map[string]bool, bad func(string, ...any)) {
	h := &inv.Hosts[i]
	switch {
	case h.Name == "":
		bad("host %d: the name is missing", i+1)
	case seen[h.Name]:
		bad("host %d: duplicate host name %q", i+1, h.Name)
	case h.Name != filepath.Base(h.Name):
		bad("host %d: invalid name %q: want one without a slash", i+1, h.Name)
	}
	seen[h.Name] = true
	if h.Address == "" {
		h.Address = h.Name
	}
	if !slices.Contains(inv.Order, h.Component) {
		bad("host %s: unknown component %q (want %s)", h.Name, h.Component, oneOf(inv.Order))
		return
	}
	if h.Package == "" {
		h.Package = packages[h.Component]
	}
	if _, err := debpkg.ParseVersion(inv.Versions[h.Component]); err != nil {
		bad("host %s: versions.%s: %w", h.Name, h.Component, err)
	} else if _, err := tykversion.Parse(inv.Versions[h.Component]); err != nil {
		bad("host %s: versions.%s: %w: want the exact version, such as 5.2.5", h.Name, h.Component, err)
	}
	if b, _ := inv.balancer(h.Component); inv.server(*h) != "" && inv.BlueGreen == nil && b == nil {
		bad("host %s is server %s, but no load balancer has %s: want backends in haproxy, or balancer",
			h.Name, h.Server, h.Component)
	}
	if h.Component == MDCB && h.Health == "" {
		bad("host %s: health is missing: want the URL of its health endpoint", h.Name)
	}
	if h.Plugin != nil && h.Plugin.URL == "" {
		bad("host %s: plugin.url is missing", h.Name)
	}
}

// oneOf lists words: "a, b or c".
func oneOf(words []string) string {
	if len(words) < 2 {
		return strings.Join(words, "")
	}
	return strings.Join(words[:len(words)-1], ", ") + " or " + words[len(words)-1]
}
