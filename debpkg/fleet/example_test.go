package fleet_test

import (
	"fmt"
	"strings"

	"example.com/tykupgrade/debpkg/fleet"
	"example.com/tykupgrade/debpkg/rollout"
)

func ExampleInOrder() {
	waves, _ := fleet.InOrder(fleet.StandardOrder(), map[string][]rollout.Wave{
		"pump": {{Name: "pumps"}}, "dashboard": {{Name: "dashboards"}}, "gateway": {{Name: "gateways"}},
	})
	for _, w := range waves {
		fmt.Println(w.Name)
	}
	// Output:
	// dashboards
	// gateways
	// pumps
}

func ExampleMDCBOrder() {
	fmt.Println(strings.Join(fleet.MDCBOrder(), ", "))
	// Output: mdcb, pump, dashboard, gateway, data-plane-pump, data-plane-gateway
}
