package installation

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strings"

	"example.com/tykupgrade/bundle/apidef"
	"example.com/tykupgrade/debpkg"
	"example.com/tykupgrade/debpkg/fleet"
	"example.com/tykupgrade/debpkg/rollout/haproxy"
	"example.com/tykupgrade/internal/tykversion"
)

// DiscoverOptions set where [Discover] looks. It guesses nothing.
type DiscoverOptions struct {
	Hosts   []string     // host or user@host for SSH; "local" is this machine
	SSH     fleet.SSH    // how to reach them
	HAProxy []string     // stats sockets: a path, or host:port
	APIs    apidef.Store // nil: not asked

	// Connect replaces the connection to a host, as fleet.Inventory.Connect does. Nil: SSH.
	Connect func(fleet.Host) debpkg.Runner
}

// Found is the result of [Discover]. It contains no secret.
type Found struct {
	SSH      fleet.SSH
	Hosts    []FoundHost
	HAProxy  []fleet.HAProxy
	Bundles  map[string][]string // APIs by the bundle that they name
	OnDisk   map[string][]string // places in APIs by the plugin that they load from the gateway's disk
	Problems []string            // systems that did not answer, and unclear results
}

// FoundHost is a component on a host, with its version.
type FoundHost struct {
	fleet.Host
	Version string
}

// components maps packages to components, in the order of an upgrade.
var components = []struct{ pkg, component string }{
	{"tyk-dashboard", fleet.Dashboard}, {"tyk-gateway", fleet.Gateway}, {"tyk-pump", fleet.Pump},
	{"tyk-sink", fleet.MDCB},
}

// Discover finds the Tyk packages on hosts, the servers of HAProxy, and the bundles of the APIs. It
// changes nothing. If a system does not answer, Found.Problems says so. Discover fails only if it
// finds no Tyk component at all.
func Discover(ctx context.Context, o DiscoverOptions) (*Found, error) {
	f := &Found{SSH: o.SSH}
	inv := &fleet.Inventory{SSH: o.SSH, Connect: o.Connect}
	machines := make([]fleet.Host, len(o.Hosts))
	for i, at := range o.Hosts {
		machines[i] = fleet.Host{Name: plainName(at), Address: at}
	}
	found := make([][]FoundHost, len(machines))
	f.problem(fleet.Each(machines, func(i int, h fleet.Host) error {
		packages, err := debpkg.New(inv.Runner(h), debpkg.Options{}).Packages(ctx, "tyk-*")
		if err != nil {
			return err
		}
		for _, c := range components {
			for _, p := range packages {
				base := strings.TrimSuffix(strings.TrimSuffix(p.Name, debpkg.Edition(p.Name)), "-")
				if base != c.pkg || !p.Installed() {
					continue
				}
				one := FoundHost{Host: h, Version: p.Version.String()}
				one.Component = c.component
				if p.Name != c.pkg {
					one.Package = p.Name
				}
				found[i] = append(found[i], one)
			}
		}
		if len(found[i]) == 0 {
			return fmt.Errorf("no Tyk package is installed there")
		}
		return nil
	}))
	for _, all := range found {
		for _, h := range all {
			if len(all) > 1 { // several components on one machine
				h.Name += "-" + h.Component
			}
			f.Hosts = append(f.Hosts, h)
		}
	}
	for _, at := range o.HAProxy {
		f.balancer(ctx, at)
	}
	if o.APIs != nil {
		f.apis(ctx, o.APIs)
	}
	if err := ctx.Err(); err != nil {
		return nil, context.Cause(ctx)
	}
	if len(f.Hosts) == 0 {
		return nil, &Error{Op: "discover", Object: "installation",
			Err:  fmt.Errorf("no Tyk component was found: %s", strings.Join(f.Problems, "; ")),
			Next: "name reachable hosts that have Tyk's packages"}
	}
	return f, nil
}

func (f *Found) problem(err error) {
	if err != nil {
		f.Problems = append(f.Problems, strings.Split(err.Error(), "\n")...)
	}
}

// plainName returns a host's name without user and domain.
func plainName(address string) string {
	name := address[strings.LastIndexByte(address, '@')+1:]
	if net.ParseIP(name) != nil {
		return name
	}
	name, _, _ = strings.Cut(name, ".")
	return name
}

// balancer finds the hosts among the servers of an HAProxy, by address or name.
func (f *Found) balancer(ctx context.Context, at string) {
	p := fleet.HAProxy{Address: at, Backends: map[string][]string{}}
	if !strings.HasPrefix(at, "/") {
		p.Network = "tcp"
	}
	network := p.Network
	if network == "" {
		network = "unix"
	}
	servers, err := haproxy.Balancer{Network: network, Address: at}.Servers(ctx)
	if err != nil {
		f.problem(err)
		return
	}
	for _, s := range servers {
		matched := false
		for i := range f.Hosts {
			h := &f.Hosts[i]
			if !h.is(s) {
				continue
			}
			matched = true
			if h.Server == "" {
				h.Server = s.Name
			}
			if h.Server != s.Name {
				f.Problems = append(f.Problems, fmt.Sprintf("host %s is server %s and server %s; give it "+
					"one name", h.Name, h.Server, s.Name))
			} else if !slices.Contains(p.Backends[h.Component], s.Backend) {
				p.Backends[h.Component] = append(p.Backends[h.Component], s.Backend)
			}
		}
		if !matched {
			f.Problems = append(f.Problems, fmt.Sprintf("HAProxy %s: server %s/%s (%s) is not one "+
				"of the hosts", at, s.Backend, s.Name, s.Address))
		}
	}
	f.HAProxy = append(f.HAProxy, p)
}

// is reports whether a server is the host. A pump is never behind a balancer.
func (h FoundHost) is(s haproxy.Server) bool {
	if h.Component == fleet.Pump || h.Component == fleet.MDCB {
		return false
	}
	at := h.Address[strings.LastIndexByte(h.Address, '@')+1:]
	if s.Address != "" && s.Address == at || s.Name == plainName(h.Address) {
		return true
	}
	return at == "local" && (s.Address == "127.0.0.1" || s.Address == "::1")
}

// apis reads which bundles the APIs name.
func (f *Found) apis(ctx context.Context, s apidef.Store) {
	v, err := tykversion.Parse(f.versions()[fleet.Gateway])
	if err != nil {
		f.Problems = append(f.Problems, "the APIs were not read: no gateway was found")
		return
	}
	inv, err := apidef.List(ctx, s, v)
	if err != nil {
		f.problem(err)
		return
	}
	f.Bundles, f.OnDisk = inv.Bundles(), inv.OnDisk()
}

// versions returns the installed version of the first host of each component.
func (f *Found) versions() map[string]string {
	all := map[string]string{}
	for _, h := range f.Hosts {
		if all[h.Component] == "" {
			all[h.Component] = h.Version
		}
	}
	return all
}
