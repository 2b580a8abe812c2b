// Package health probes Tyk's gateway, dashboard and pump after an upgrade, and
// waits until they really serve:
//
//	report, err := health.Wait(ctx, health.Policy{},
//		health.Gateway("http://gw1:8080", semver.MustParse("5.2.5")),
//		health.Plugin("http://gw1:8080/my-api/get", health.Expect{Status: 200}))
//
// A gateway answers "pass" before its first own check, and HTTP 200 even when it fails. It
// repeats an answer until its next own check, ten seconds later. So [Gateway] demands details
// with a time, compares the version, and requests /ready if the release has it. [Wait] counts
// only answers whose details are newer than the last ones.
//
// [Dashboard] and [Pump] show only that the program is alive, and their results say so. Add a
// [Check], such as of a package's version or a unit's state. No health endpoint shows whether
// a plugin is loaded: [Plugin] sends an API request for that.
//
// # Limits
//
// The rules are those of gateway 3.0.0 to 5.14.0. A probe does not follow redirects and uses no
// HTTP proxy. It reads up to [MaxBody] bytes of a body. Each try has a time limit. Several
// goroutines may call all functions.
package health
