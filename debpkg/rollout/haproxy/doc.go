// Package haproxy drives HAProxy for package rollout. [Balancer] takes servers out of and into
// backends, and [Switch] moves the traffic of a blue-green pair, both through the Runtime API
// ("stats socket … level admin").
//
// # Limits
//
// Seen with HAProxy 2.6. States that are set here live in the memory of one HAProxy process: a
// reload without a server state file forgets them, and package rollout then sets them again.
// Only a master socket shows what a process from before a reload still serves. Without one, a
// server on the same machine counts as busy while such a process runs, and one elsewhere cannot
// be known about.
package haproxy
