// Package health probes Tyk's gateway, dashboard and pump after an upgrade, and
// waits until they really serve:
//
//	report, err := health.Wait(ctx, health.Policy{},
//		health.Gateway("http://gw1:8080", semver.MustParse("5.2.5")),
//		health.Plugin("http://gw1:8080/my-api/get", health.Expect{Status: 200}))
//
// A gateway answers "pass" before it has checked anything, and HTTP 200 when it
// fails. It repeats an answer until its own next check ten seconds later. So
// [Gateway] demands details that carry a time, compares the version, and asks
// /ready if the release has it. [Wait] counts only answers whose details are newer
// than the last ones.
//
// [Dashboard] and [Pump] show only that the program lives, and their results say
// so. A [Check] of the caller, such as a package's version or a unit's state, can
// add to them. No health endpoint tells whether a plugin was loaded: [Plugin] sends
// an API request that shows it.
//
// # Limits
//
// The rules are those of gateway 3.0.0 to 5.14.0. A probe follows no redirect,
// reads up to [MaxBody] bytes of a body, and has a time limit for each try. It uses
// no HTTP proxy of the environment: it asks the host itself. All functions may be
// called by several goroutines at a time.
package health
