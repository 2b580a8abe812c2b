package fleet

import (
	"fmt"
	"slices"

	"example.com/tykupgrade/debpkg/rollout"
)

// The components of a Tyk installation, as an inventory names them.
const (
	Dashboard        = "dashboard"
	Gateway          = "gateway"
	Pump             = "pump"
	MDCB             = "mdcb"
	DataPlaneGateway = "data-plane-gateway"
	DataPlanePump    = "data-plane-pump"
)

// StandardOrder returns the documented order of an upgrade: dashboard, gateway, pump.
func StandardOrder() []string { return []string{Dashboard, Gateway, Pump} }

// MDCBOrder returns the order for an installation with MDCB: the control plane first, then the data
// planes.
func MDCBOrder() []string {
	return []string{MDCB, Pump, Dashboard, Gateway, DataPlanePump, DataPlaneGateway}
}

// InOrder joins the waves of components in an order such as [StandardOrder]. It leaves out
// components without waves. A component that is missing in the order is an error.
func InOrder(order []string, waves map[string][]rollout.Wave) ([]rollout.Wave, error) {
	for name := range waves {
		if !slices.Contains(order, name) {
			return nil, fmt.Errorf("order waves: unknown component %q (want %s)", name, oneOf(order))
		}
	}
	var all []rollout.Wave
	for _, name := range order {
		all = append(all, waves[name]...)
	}
	return all, nil
}

// IsGateway reports whether hosts of the component are gateways, which load plugins.
func IsGateway(component string) bool {
	return component == Gateway || component == DataPlaneGateway
}

// balanced reports whether clients reach the component, so that it needs a balancer.
func balanced(component string) bool {
	return slices.Contains([]string{Dashboard, Gateway, DataPlaneGateway}, component)
}

// packages are the Debian packages of the components.
var packages = map[string]string{
	Dashboard: "tyk-dashboard", Gateway: "tyk-gateway", Pump: "tyk-pump",
	MDCB: "tyk-sink", DataPlaneGateway: "tyk-gateway", DataPlanePump: "tyk-pump",
}
