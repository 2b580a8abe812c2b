// Package bundle builds, verifies, publishes and reads Tyk plugin bundles. A bundle
// is a zip of plugin files and manifest.json. A gateway downloads it for an API.
//
// [WriteFile] builds what "tyk bundle build" builds. [Verify] and [Extract] check a
// bundle and trust nothing in it. [Resolve] returns the file that a gateway loads when it
// starts:
//
//	l := bundle.Loader{Gateway: semver.MustParse("5.2.5")}
//	r, err := bundle.Resolve("plugin.so", l, m.FileList)
//	// r.File is plugin_v5.2.5_linux_amd64.so if the bundle has it
//
// [ForUpgrade] arranges the current and the new build of each plugin in one bundle,
// so that both gateway releases load their own build. It also predicts what running
// gateways do. [WriteUpgrade] plans, writes and verifies such a bundle in one call.
//
// # Switching gateways
//
// A gateway caches a bundle under its name and never downloads a cached name again.
// If the APIs get a new name, a running gateway fetches it but cannot load the same
// plugin twice: "plugin already loaded". Depending on the release, requests then pass
// without the plugin or fail with 500: see [WithoutPlugin]. /hello stays "pass".
//
// So keep the name. [Publication] serves the new bundle under the old name and keeps
// the old file. Running gateways continue with their caches. Then handle one host at
// a time: drain it, stop the gateway, remove the directories of [CacheDirs], and
// start the gateway. [Mode] lists the other methods.
//
// # Limits
//
// The rules come from the sources of Tyk 3.0.0 to 5.14.0, and of 5.15 before its release.
// The package predicts whether a plugin loads, not whether it works. It reads zips within
// the limits of [VerifyOptions].
//
// The functions are safe for concurrent use if no goroutine changes a [Manifest].
// Functions that write files take a context. The others run until their reader or
// writer ends.
package bundle
