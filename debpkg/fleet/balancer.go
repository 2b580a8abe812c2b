package fleet

import (
	"example.com/tykupgrade/debpkg/rollout"
	"example.com/tykupgrade/debpkg/rollout/haproxy"
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

func (p HAProxy) process(backends []string) haproxy.Balancer {
	network := p.Network
	if network == "" {
		network = "unix"
	}
	return haproxy.Balancer{Network: network, Address: p.Address, Backends: backends}
}
