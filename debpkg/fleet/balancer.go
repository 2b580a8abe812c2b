package fleet

import (
	"example.com/tykupgrade/debpkg/rollout"
)

// proxies are the HAProxy processes in front of a component.
func (inv *Inventory) proxies(component string) []rollout.Balancer {
	var all []rollout.Balancer
	for _, p := range inv.HAProxy {
		if len(p.Backends[component]) > 0 {
			all = append(all, p.process(p.Backends[component]))
		}
	}
	return all
}

func (p HAProxy) process(backends []string) rollout.HAProxy {
	network := p.Network
	if network == "" {
		network = "unix"
	}
	return rollout.HAProxy{Network: network, Address: p.Address, Backends: backends}
}
