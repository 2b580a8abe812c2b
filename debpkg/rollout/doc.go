// Package rollout runs named steps on many targets in waves. A canary goes first, a limit sets how
// many targets change at a time, and a budget how many may fail. A journal records the run, so that
// it can be undone, or resumed after a crash.
//
//	lb := haproxy.Balancer{Network: "unix", Address: "/run/haproxy/admin.sock",
//		Backends: []string{"gateways"}}
//	wave, err := rollout.Rolling("gateways", hosts, rollout.RollingOptions{Balancer: lb})
//	…
//	report, err := rollout.Run(ctx, []rollout.Wave{wave}, rollout.Options{Journal: "gateways.journal"})
//
// A step is a function: the package knows nothing of apt or HTTP. [Rolling] and [BlueGreen] build
// the waves of two strategies. A [Balancer] takes hosts out of a load balancer and back into it.
// Package haproxy has the Balancer for HAProxy. [Exec] runs commands. [NewChecked] is for load
// balancers that only follow health checks, and [None] is for hosts without one. Package
// rollouttest has a fake for unit tests.
//
// A [Prober] shows what a run does to requests, and a [Hook] can veto it. [Watch] polls gates while
// a canary soaks. [ExportAudit] makes an audit log of a journal.
//
// # What a step promises
//
// Do is idempotent, because a run calls it again after a crash. Undo is idempotent too, and also
// works after a Do or an Undo that ended half-way. It restores the state of the target before Do.
// Done looks at the target itself and reports whether Do's effect is there. A run skips a step that
// is done. A resumed run trusts the journal only if Done confirms it. Accept removes what Undo
// needs.
//
// # Who may write a journal
//
// A journal decides what happens on every host. It must belong to this user or root. Nobody else
// may be able to write it, or to replace it in its directory. Options.Shared relaxes this for a
// group. Each record has the digest of the record before it, so that readers detect a changed
// record. A user who may write the file can still write a whole new chain. If that matters, keep
// [ExportAudit]'s output elsewhere.
//
// # Limits
//
// A step that ignores its context cannot be stopped. Its timeout takes effect only when it returns.
// The journal and the lock belong on a local file system. Operators on different machines exclude
// each other only if they share the directory of the journal.
package rollout
