// Package debpkg upgrades and reverts Debian packages on one Debian or Ubuntu
// host.
package debpkg
