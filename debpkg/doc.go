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
// apt's exit code is not taken for an answer: Tyk's packages restart their
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
// configuration as it was, and the output of each run; [Host.Forget] removes
// them.
//
// # Limits
//
// Tested with apt 2.6 and dpkg 1.21 on Debian 12, packages being stand-ins with
// the conffiles and maintainer scripts of Tyk's; its parsers on the output of
// apt 2.0 to 3.0 (Debian 11 to 13, Ubuntu 20.04 to 24.04). Not tested: Tyk's own
// packages and repositories, hosts with cgroup v2, a full disk in the middle of
// dpkg's work, foreign architectures. Packages pinned to a foreign architecture
// (name:arch) cannot be requested. A repacked .deb (the last resort where the
// installed version cannot be had any more) holds the files as they are on the
// host. The host's time zone is not known, so the times in apt's history are
// given as UTC.
package debpkg
