// Package tykupgrade is the root of an SDK that automates upgrading a
// self-managed Tyk API gateway with custom Go plugins on Debian and Ubuntu. It
// holds no code; each package below wraps one concern and can be used alone:
//
//   - [example.com/tykupgrade/pluginbuild]: the recipe that a gateway version
//     needs, and preparing the plugin module for it
//   - [example.com/tykupgrade/pluginbuild/compiler]: compiling it in the official
//     image
//   - [example.com/tykupgrade/pluginbuild/preflight]: will this .so load in
//     that gateway, on that distribution
//   - [example.com/tykupgrade/bundle]: manifest, zip, checksum and signature,
//     and which file a gateway will load from a bundle
//   - [example.com/tykupgrade/debpkg]: one Debian or Ubuntu host, local or over
//     SSH: facts, plan, apply, revert
//   - [example.com/tykupgrade/debpkg/rollout]: rolling and blue-green upgrades
//     over many hosts
//   - [example.com/tykupgrade/backup]: configuration files, Redis and MongoDB
//     in one verified set, and its restore
//   - [example.com/tykupgrade/health]: probes of dashboard, gateway and pump
//
// An upgrade goes through them in this order: the module is prepared and the
// plugin compiled for the new version (pluginbuild), checked (preflight) and
// bundled with the present build, so that both versions find theirs (bundle);
// configuration and databases are backed up (backup); then dashboard, gateway
// and pump are installed host by host (rollout with debpkg) and awaited
// (health). What fails is reverted; the data is restored when asked for.
//
// The commands below examples show the packages at work and are starting
// points for an in-house tool. To see a whole upgrade on this machine:
//
//	go run ./examples/rehearse
//
// examples/upgrade carries one out on real hosts, from one file.
package tykupgrade
