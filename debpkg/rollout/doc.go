// Package rollout runs named steps on many targets in waves: some at a time, a
// canary first, within a failure budget, journalled so that a crash can be
// resumed and everything done can be undone.
//
// It knows neither apt nor HTTP: a step is a function. [Rolling] and
// [BlueGreen] build the waves of the two strategies that Tyk's documentation
// describes from functions that the caller gives; [HAProxy], [Exec] and
// [Marker] take hosts out of and into a load balancer.
//
// # What a step promises
//
// Do is idempotent: after a crash it may be called again. So is Undo, which may
// be called when Do, or an earlier Undo, ended half-way; it takes the target
// back to what it was before Do. Done, where given, looks at the target itself
// and says whether Do's effect holds; it lets a run skip what is done already,
// and a resumed run trust what the journal says.
//
// # Limits
//
// A step that ignores its context cannot be stopped; its deadline then passes
// without effect until it returns. The journal and the lock belong on a local
// file system. Two operators on different machines exclude each other only if
// they share the directory of the journal.
package rollout
