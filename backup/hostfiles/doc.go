// Package hostfiles backs up and restores the configuration files of one host,
// this one or another through a Runner.
//
//	set, err := backup.Take(ctx, dir, backup.Options{}, &hostfiles.Source{Component: "config"})
//	…
//	report, err := set.Restore(ctx, backup.RestoreOptions{}, &hostfiles.Restore{Component: "config"})
//
// [Source] backs up content, mode, owner, time, links and directories. [Restore] restores them and
// follows no path that another user can change. [Databases] and [Source.Needs] list the databases
// that the configuration names.
//
// # Limits
//
// ACLs, extended attributes and hard links are not kept. A host that is reached through a Runner
// needs GNU find and tar, xargs and perl-base, which every Debian has.
package hostfiles
