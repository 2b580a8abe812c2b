// Package hostfiles backs up and restores the configuration files of one host,
// this one or another through a Runner.
//
// [Source] takes content, mode, owner, time, links and directories. [Restore]
// brings them back without following a path that another user can change.
// [Databases] and [Source.Needs] list the databases that the configuration names.
//
// Limits: ACLs, extended attributes and hard links are not kept. The other host
// needs GNU find and tar, xargs and perl-base, which every Debian has.
package hostfiles
