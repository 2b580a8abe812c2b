// Package pluginbuild prepares a Go plugin for another release of the Tyk gateway. It knows the
// demands of each release on a plugin module, checks the module and prepares it. Package compiler
// compiles the module in the release's official image.
//
//	release, err := pluginbuild.Lookup(semver.MustParse("5.2.5"))
//	plan, err := pluginbuild.NewPlan(os.DirFS(dir), release, pluginbuild.PlanOptions{})
//	if !plan.Blocked() {
//		done, err := pluginbuild.Prepare(ctx, dir, release, pluginbuild.PrepareOptions{})
//	}
//
// The commands depend only on the target release. The current release matters only for the
// content of a bundle.
//
// # Limits
//
// The release table covers the general releases 3.0.0 to 5.14.0. Other releases come from
// [ReadTable], or from [ResolveCommit] and [Derive]. The patch level of a compiler's Go is not
// recorded anywhere, so the checks use its minor version and the release's go.mod. [CheckModule]
// reads source without type information. It reports a hook as uncertain if a parameter has a type
// of another package that may be an alias. [Prepare] needs a go command of version 1.21 or newer,
// and a file system with locks. Linux only.
package pluginbuild
