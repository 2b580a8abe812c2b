// Package debpkg upgrades and reverts the packages of one Debian or Ubuntu host, on this machine or
// over SSH.
//
//	host := debpkg.New(debpkg.Sudo(debpkg.SSH("ops@gw1", debpkg.SSHOptions{})), debpkg.Options{})
//	plan, err := host.Plan(ctx, debpkg.Request{Package: "tyk-gateway", Version: version})
//	change, err := host.Apply(ctx, plan)
//	err = host.Revert(ctx, change, debpkg.RevertOptions{})
//
// A [Host] runs commands through a [Runner]: [Local], [SSH], or either of them in [Sudo].
// [Host.Facts] describes the host. A [Plan] can be printed for approval, and stored as JSON.
// [Host.Apply] carries it out and returns a [Change]. With only that Change, [Host.Revert] restores
// the previous state. [Host.Update] fetches the package lists, and fails if apt could not.
//
// apt runs detached on the host, so that a lost connection or a killed program does not stop it
// half-way. Repeat the call to get its result.
//
// The package does not rely on apt's exit code. Tyk's packages restart their service during their
// installation and hide a failed restart. apt exits with 100 if an unrelated package is broken. The
// package checks the state that dpkg records, and that the units stay up.
//
// One plan is one run of apt, which chooses the order of its packages. If the order
// counts (dashboard, gateway, pump: [Components]), make one plan for each.
//
// # On the host
//
// The host needs the essential packages of Debian (apt, dpkg, a POSIX shell, coreutils,
// util-linux), and root. The package keeps the replaced .deb files, the previous configuration and
// the output of each run below /var/lib/tykupgrade, readable by root only. Only [Host.Forget] and
// [Host.Prune] remove them. Only root may be able to write to a StateDir of your own.
//
// # Limits
//
// Tested with the real apt and dpkg of Debian 11, 12, 13 and Ubuntu 20.04, 22.04 and 24.04 (apt 2.0
// to 3.0). Tested through SSH on hosts with Debian 11 and 12 and Ubuntu 22.04 (systemd 247 to 252).
// The packages were fakes with the conffiles and maintainer scripts of Tyk's. Not tested: Tyk's own
// packages and repositories. Packages of a foreign architecture (name:arch) cannot be requested. If
// no source has the installed version, its files on the host are repacked into a .deb, with all
// edits. apt's history does not state the host's time zone, so its times are given as UTC.
package debpkg
