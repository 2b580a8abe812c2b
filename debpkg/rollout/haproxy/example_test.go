package haproxy_test

import (
	"context"
	"fmt"

	"example.com/tykupgrade/debpkg/rollout/haproxy"
)

func ExampleBalancer() {
	lb := haproxy.Balancer{Network: "unix", Address: "/run/haproxy/admin.sock", Backends: []string{
		"gateways"}}
	err := lb.Drain(context.Background(), "gw1; disable frontend web")
	fmt.Println(err)
	// Output: check names on haproxy at /run/haproxy/admin.sock: invalid name "gw1; disable frontend web" of a backend or server; use the names in haproxy.cfg
}

func ExampleSwitch() {
	sw := haproxy.Switch{File: "/etc/haproxy/active.map"}
	_, err := sw.Active(context.Background())
	fmt.Println(err)
	// Output: check names on haproxy at /etc/haproxy/active.map: want at least one HAProxy in Instances; use the names in haproxy.cfg
}
