// Package bundle builds, verifies, publishes and reads Tyk plugin bundles: the zip
// of plugin files and manifest.json that a gateway downloads for an API.
//
// [Write] and [WriteFile] build what "tyk bundle build" builds. [Verify] and
// [Extract] check a bundle and trust nothing in it. [Resolve] answers which file a
// gateway loads when it starts. [ForUpgrade] arranges the present and the new
// build of each plugin in one bundle, so that both gateway releases load their
// own, and predicts what running gateways do. [WriteUpgrade] does it all.
//
// # Switching gateways
//
// A gateway keeps a bundle by its name and downloads no name twice. A running
// gateway that is given a new name with the same plugin refuses it: "plugin
// already loaded". Up to 5.0.0 requests then pass without the plugin; from 5.0.1
// on each is answered with 500, until a restart. /hello stays "pass".
//
// So keep the name. [Publication] serves the new bundle under it and keeps the old
// one. Gateways go on with their caches. Then take each host in its turn: drain
// it, stop the gateway, remove the directories of [CacheDir], start it. [Mode] has
// the other ways.
//
// The rules are those of Tyk 3.0.0 to 5.14.0; what 5.15 adds was read in its
// sources. Several goroutines may call the functions as long as nobody changes a
// [Manifest] meanwhile. Functions that leave files behind take a context; the
// others run until their reader or writer ends.
package bundle
