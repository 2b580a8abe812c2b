// Package haproxy drives HAProxy for package rollout. [Balancer] takes servers out of backends and
// back into them. [Switch] moves the traffic of a blue-green pair. Both use the Runtime API ("stats
// socket … level admin"):
//
//	lb := haproxy.Balancer{Network: "unix", Address: "/run/haproxy/admin.sock",
//		Backends: []string{"gateways"}}
//	wave, err := rollout.Rolling("gateways", hosts, rollout.RollingOptions{Balancer: lb})
//
// # Limits
//
// Tested with HAProxy 2.6. The states that this package sets live in the memory of one HAProxy
// process. A reload without a server state file forgets them, and package rollout then sets them
// again.
//
// Only a master socket shows which sessions a process from before a reload still has. Without one,
// a server counts as busy while such a process runs on this machine. Such processes on other
// machines are not seen.
package haproxy
