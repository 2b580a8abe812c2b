// Package debpkg upgrades and reverts the Debian packages of one host, Debian
// or Ubuntu, here or over SSH.
//
// A [Host] works by running commands through a [Runner]: [Local], [SSH], and
// either of them in [Sudo]. It tells the [Facts] of the host, makes a [Plan]
// that a person can approve and a machine can store, carries it out with
// [Host.Apply], and goes back with [Host.Revert], which needs nothing but the
// [Change] that Apply returned. [Host.Update] fetches the package lists and
// knows when that failed. apt itself runs detached on the host, so that a lost
// connection or a killed program does not stop it half-way, and the same call
// finds its result.
//
// The package does not rely on apt's exit code: Tyk's packages restart their
// service while they are installed and hide it when that fails, and apt exits
// with 100 when a package that has nothing to do with the change is broken.
// What counts is the state that dpkg records and whether the units stay up.
//
// One plan is one run of apt, which installs its packages in an order of its
// own. Where the order counts (dashboard, gateway, pump: [Components]) make one
// plan for each.
//
// # On the host
//
// Needed are the essential packages of Debian (apt, dpkg, a POSIX shell,
// coreutils, util-linux), and root. Kept below /var/lib/tykupgrade, readable by
// root only, are the .deb files of the versions that were replaced, the
// configuration as it was, and the output of each run; only [Host.Forget] and
// [Host.Prune] remove them. A directory of your own (StateDir) must be writable by that user alone.
//
// # Limits
//
// Tested with the real apt and dpkg of Debian 11, 12, 13 and Ubuntu 20.04,
// 22.04 and 24.04 (apt 2.0 to 3.0), and through SSH on Debian 11 and 12 and
// Ubuntu 22.04 hosts (systemd 247 to 252); the packages being fakes with
// the conffiles and maintainer scripts of Tyk's. Not tested: Tyk's own packages
// and repositories, packages of a foreign architecture (name:arch, which cannot
// be requested). A repacked .deb, the last resort where the installed version
// cannot be had any more, holds the files as they are on the host. The log of
// apt's history does not state the host's time zone, so its times are given as
// UTC.
package debpkg
