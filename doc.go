// Package tykupgrade is the root of an SDK that automates upgrading a self-managed Tyk API gateway
// with custom Go plugins on Debian and Ubuntu. It has no code. Each package below has one concern
// and can be used alone:
//
//   - [example.com/tykupgrade/pluginbuild]: the recipe of a gateway release, and preparing the
//     plugin's module for it
//   - [example.com/tykupgrade/pluginbuild/compiler]: compiling in the official image
//   - [example.com/tykupgrade/pluginbuild/preflight]: whether a .so loads in a gateway
//   - [example.com/tykupgrade/bundle]: manifest, zip, checksum and signature; which file a gateway
//     loads; publishing
//   - [example.com/tykupgrade/bundle/apidef]: which APIs use which bundle or plugin
//   - [example.com/tykupgrade/debpkg]: one Debian or Ubuntu host, local or over SSH: facts, plan,
//     apply, revert
//   - [example.com/tykupgrade/debpkg/rollout]: rolling and blue-green upgrades of many hosts
//   - [example.com/tykupgrade/debpkg/fleet]: the hosts of a Tyk installation
//   - [example.com/tykupgrade/debpkg/fleet/installation]: a whole upgrade by one file
//   - [example.com/tykupgrade/backup]: verified sets of configuration files, Redis, MongoDB and
//     PostgreSQL, and their restore
//   - [example.com/tykupgrade/health]: probes of dashboard, gateway and pump
//
// An upgrade uses them in this order. pluginbuild prepares the module, compiler compiles the plugin
// for the new release, and preflight checks it. bundle packs it together with the present build, so
// that both releases find theirs. backup takes a set of configuration and databases. Then fleet
// installs dashboard, gateway and pump host by host, and health waits for each. A failed step is
// reverted. Data is restored only on request.
//
// The commands below examples show the packages at work and are starting points for an in-house
// tool. This shows a whole upgrade on this machine:
//
//	go run ./examples/rehearse
//
// The command examples/upgrade upgrades real hosts, from one file.
package tykupgrade
