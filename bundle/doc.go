// Package bundle builds, verifies and reads Tyk plugin bundles: the zip of
// plugin files and manifest.json that a gateway downloads for an API.
//
// [Write] and [WriteFile] build what "tyk bundle build" builds, several times
// as fast and in constant memory. [Verify] and [Extract] check a bundle as a
// suspicious gateway would. [Resolve] answers which file a gateway version
// loads, and [ForUpgrade] arranges the current and the newly compiled plugin in
// one bundle so that both gateway versions load their own.
//
// Gateways keep a bundle by its name and never fetch the same name twice:
// publish changed content under a new one, such as [Result.Name] gives.
//
// The rules are those of Tyk 3.0.0 to 5.14.0. The package runs no commands and
// uses no network. Its functions may be called by several goroutines, as long
// as nobody changes a [Manifest] meanwhile. Those that leave files behind take
// a context; the others run until their reader or writer ends.
package bundle
