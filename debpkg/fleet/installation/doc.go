// Package installation upgrades a whole Tyk installation as one file describes it: the Go plugins
// and their bundles, a backup, then the hosts. It joins the other packages of this module.
//
// A [File] describes the upgrade; [Load] reads it from YAML or JSON. [New] makes an [Upgrade]
// of it, and [Upgrade.Waves] the waves for package rollout:
//
//	file, err := installation.Load("upgrade.yaml", installation.LoadOptions{})
//	…
//	u, err := installation.New(file, "upgrade.yaml.journal", installation.Options{})
//	…
//	waves, err := u.Waves()
//	…
//	report, err := rollout.Run(ctx, waves, u.RunOptions(waves))
//
// The first wave, "prepare", changes no host but apt's package lists. It compiles each plugin or
// uses the given build, and checks it against the gateway of the new version. It packs both builds
// into a bundle that both versions can load. It checks every host, takes a backup, and publishes
// the bundles last. The other waves come from package fleet, with the file's gates after each
// component.
//
// A failed check stops the upgrade. [Options.Without] skips checks by name, and the journal and
// the report show that.
//
// # Limits
//
// All gateways have the same version before the upgrade and the same one after it. This package
// links the clients of Docker, Redis and MongoDB. A program that needs less can combine the other
// packages itself.
package installation
