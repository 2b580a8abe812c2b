// Package rollout runs named steps on many targets in waves. A canary goes first, a limited
// number is worked on at a time, and a budget says how many may fail. A journal records the run,
// so that a crash can be resumed and everything can be undone.
//
//	lb := haproxy.Balancer{Network: "unix", Address: "/run/haproxy/admin.sock", Backends: []string{"gateways"}}
//	wave, err := rollout.Rolling("gateways", hosts, rollout.RollingOptions{Balancer: lb})
//	…
//	report, err := rollout.Run(ctx, []rollout.Wave{wave}, rollout.Options{Journal: "gateways.journal"})
//
// It knows neither apt nor HTTP: a step is a function. [Rolling] and [BlueGreen] build the waves of
// two strategies. A [Balancer] takes hosts out of and into a load balancer: HAProxy is in package
// haproxy, [Exec] runs commands, [NewChecked] is for those that find out by health checks, and
// [None] is for hosts without one. Package rollouttest has one for unit tests.
//
// A [Prober] shows what a run does to requests, a [Hook] can veto it, [Watch] polls gates while a
// canary soaks, and [ExportAudit] makes an audit log of a journal.
//
// # What a step promises
//
// Do is idempotent: after a crash it may be called again. So is Undo, which may be called when Do
// or an earlier Undo ended half-way. Undo takes the target back to what it was before Do. Done
// looks at the target itself and reports whether Do's effect holds. A run skips a step that is
// done, and a resumed run trusts the journal only if Done confirms it. Accept removes what Undo
// needs.
//
// # Who may write a journal
//
// A journal decides what happens on every host. It must belong to this user or root, must not be
// writable by others, and must be in a directory in which others cannot replace it; Options.Shared
// relaxes this for a group. Each record has the digest of the record before it, so a changed one
// is found. Whoever may write the file can still write a whole new chain: keep [ExportAudit]'s
// output elsewhere if that matters.
//
// # Limits
//
// A step that ignores its context cannot be stopped. Its timeout then passes without effect until
// it returns. The journal and the lock belong on a local file system. Operators on different
// machines exclude each other only if they share the directory of the journal.
package rollout
