// Package healthtest has fakes of a gateway, a dashboard and a pump for unit tests of code that
// probes them.
//
// A [Program] answers over time as the real one does. A gateway answers "pass" without details
// until its first check, repeats its answer between checks, and answers 200 or 503 by its
// release. The rules come from the sources of gateway 3.0.0 to 5.14.0 and were compared with a
// running 5.14.0. The dashboard is closed source, so its answer follows its documentation.
//
// Serve a Program with net/http/httptest, or pass [Program.Client] to health.Policy. The
// client opens no port. Inside testing/synctest a wait of minutes takes milliseconds.
//
// Limits: one API, no configuration files, no control over the order of concurrent requests.
package healthtest
