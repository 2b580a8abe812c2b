// Package backends makes the sources and restorers of a whole installation from one plain [Config]:
// configuration files of hosts, Redis, MongoDB and PostgreSQL. Each of them is optional.
//
// [Open] checks a Config and makes the clients, and [Backends.Close] closes them.
// [Backends.Sources] is for [backup.Take], [Backends.Provers] for [backup.Set.Verify], and
// [Backends.Restorers] for [backup.Set.Restore], Undo and Accept. [Flags] are the same settings as
// flags of a command.
//
// Limits: the package links the drivers of all databases. A program that needs one backend
// imports that backend's package instead, which also has more settings. Other hosts than this one
// need a [backup.Runner] of the caller.
package backends
