package fleet

import (
	"context"
	"fmt"
	"net"
	"strings"
	"time"

	"example.com/tykupgrade/debpkg"
	"example.com/tykupgrade/debpkg/rollout"
	"example.com/tykupgrade/health"
	"example.com/tykupgrade/internal/tykversion"
)

// Runner returns a function that runs commands on a host, by SSH or on this machine. With SSH.Sudo
// they run as root.
//
// The journal records each command of a step, see [rollout.Audited].
func (inv *Inventory) Runner(h Host) debpkg.Runner { return rollout.Audited(inv.reach(h)) }

func (inv *Inventory) reach(h Host) debpkg.Runner {
	if inv.Connect != nil {
		return inv.Connect(h)
	}
	r := debpkg.Local()
	if h.Address != "local" {
		r = debpkg.SSH(h.Address, debpkg.SSHOptions{
			Config: inv.SSH.Config, Port: h.Port, Identity: inv.SSH.Identity,
			KnownHosts: inv.SSH.KnownHosts, Jump: inv.SSH.Jump,
		})
	}
	if inv.SSH.Sudo {
		r = debpkg.Sudo(r)
	}
	return r
}

// host returns the debpkg.Host of a host. Events go to progress, which may be nil.
func (inv *Inventory) host(h Host, progress func(host, text string)) *debpkg.Host {
	o := debpkg.Options{Settle: time.Duration(inv.Health.Settle)}
	if progress != nil {
		o.Events = func(e debpkg.Event) { progress(h.Name, e.Text) }
	}
	return debpkg.New(inv.Runner(h), o)
}

// Installed returns the installed version of a host's package, or the zero version if the package
// is not installed.
func (inv *Inventory) Installed(ctx context.Context, h Host) (debpkg.Version, error) {
	return installed(ctx, inv.host(h, nil), h.Package)
}

func installed(ctx context.Context, host *debpkg.Host, name string) (debpkg.Version, error) {
	packages, err := host.Packages(ctx, name)
	if err != nil || len(packages) != 1 || !packages[0].Installed() {
		return debpkg.Version{}, err
	}
	return packages[0].Version, nil
}

// mustHave returns the installed version, or an [ErrNotInstalled].
func mustHave(ctx context.Context, host *debpkg.Host, name string) (debpkg.Version, error) {
	v, err := installed(ctx, host, name)
	if err == nil && v.IsZero() {
		err = &Error{Op: "look for", Object: name, Kind: ErrNotInstalled, Next: "install it on the host"}
	}
	return v, err
}

// Unit returns the systemd unit of the host's package, in every edition.
func (h Host) Unit() string { return unitOf(h.Package) }

func unitOf(name string) string {
	base := strings.TrimSuffix(strings.TrimSuffix(name, debpkg.Edition(name)), "-")
	for _, c := range debpkg.Components() {
		if c.Package == base {
			return c.Unit
		}
	}
	return name + ".service"
}

// Probes returns the probes that check whether a version serves on the host.
func (h Host) Probes(version string) ([]health.Probe, error) {
	want, err := tykversion.Parse(version)
	if err != nil {
		return nil, fmt.Errorf("host %s: %w", h.Name, err)
	}
	base := h.Health
	if base == "" {
		base = h.Address[strings.LastIndexByte(h.Address, '@')+1:]
		if base == "local" {
			base = "localhost"
		} else if net.ParseIP(base) != nil && strings.Contains(base, ":") {
			base = "[" + base + "]"
		}
	}
	var p health.Probe
	switch h.Component {
	case Dashboard:
		p = health.Dashboard(base)
	case Gateway, DataPlaneGateway:
		p = health.Gateway(base, want)
	case Pump, DataPlanePump:
		p = health.Pump(base)
	default:
		p = health.HTTP(base, health.Expect{})
	}
	p.Name = h.Name
	p.Want = want
	probes := []health.Probe{p}
	if h.Plugin != nil {
		q := health.Plugin(h.Plugin.URL, health.Expect{Status: h.Plugin.Status, Header: h.Plugin.Header})
		q.Name = h.Name + " plugin"
		probes = append(probes, q)
	}
	return probes, nil
}
