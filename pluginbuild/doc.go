// Package pluginbuild brings a Go plugin to another release of the Tyk gateway:
// it knows what each release needs of a plugin module, prepares the module,
// checks it, and compiles it in the release's official image.
//
// Everything depends on the target release alone; the release that is running
// now only matters for what goes into a bundle. [Lookup] finds a release,
// [NewPlan] says what would be done and what is wrong with the module,
// [Prepare] does it to the module, and a [Builder] compiles it in an engine that
// speaks the Docker Engine API.
//
// # Limits
//
// The release table covers the general releases 3.0.0 to 5.14.0; others come
// from [ReadTable], or from [ResolveCommit] and [Derive]. Patch levels of the
// compilers' Go are in no release's sources, so the checks only know the minor
// version and what the release's go.mod asks for. [CheckModule] reads source
// as it is written, without types: a hook whose parameters are aliases from
// another package is reported as uncertain. [Prepare] needs a go command of
// version 1.21 or newer, and a file system with locks. A [Builder] trusts the
// engine, whose administrator can read what is given to a build, netrc
// included. Linux only.
package pluginbuild
