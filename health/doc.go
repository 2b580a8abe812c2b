// Package health asks Tyk's gateway, dashboard and pump whether an upgrade
// succeeded, and does not believe them too early.
//
// A gateway answers "pass" before it has checked anything, answers HTTP 200
// when it fails, and repeats an answer until its next own check ten seconds
// later; a pump always says "ok". [Gateway] therefore demands details that
// carry a time, compares the version, and asks /ready where the release has
// it. [Wait] counts only answers whose details are newer than the last ones.
// [Dashboard] and [Pump] can show no more than liveness, and their results say
// so; a [Check] of the caller (package version, unit state) can add to them.
// No health endpoint tells whether a plugin was loaded: [Plugin] sends an API
// request that shows it.
//
// The rules are those of gateway 3.0.0 to 5.14.0. Redirects are not followed,
// bodies are read up to [MaxBody] bytes, and every try has a time limit.
// HTTP proxies of the environment are not used: a probe asks the host itself.
// All functions may be called by several goroutines at a time.
package health
