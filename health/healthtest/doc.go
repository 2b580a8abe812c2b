// Package healthtest has programs for unit tests that wait for a gateway, a
// dashboard or a pump, or that probe one.
//
// A [Program] answers as the real one does over time. A gateway says "pass"
// without details until its first check, keeps an old answer between checks,
// and answers 200 or 503 by its release. The rules were read in the sources of
// gateway 3.0.0 to 5.14.0 and tried with 5.14.0. The dashboard is closed
// source: its answer follows its documentation.
//
// Serve it with net/http/httptest, or hand [Program.Client] to health.Policy:
// then no port is opened, and a wait of minutes takes milliseconds inside
// testing/synctest.
//
// Limits: one API, no configuration, no control over the order of concurrent
// requests.
package healthtest
