// Package fleet upgrades the hosts of a Tyk installation. It joins three packages:
// debpkg changes the packages of a host, health finds out whether the host serves, and
// rollout runs the steps on all hosts in waves.
//
// An [Inventory] describes hosts, versions and load balancers. It comes from a YAML or
// JSON file, or from a program that fills in the struct and calls [Inventory.Check].
// [Inventory.Waves] turns it into waves for rollout.Run, and [Inventory.Plans] asks every
// host what would happen there. A team with an inventory of its own uses [Package] alone,
// which makes the rollout step that installs one package on one host.
//
//	inv, err := fleet.Load("fleet.yaml", nil)
//	…
//	waves, err := inv.Waves(fleet.Options{})
//	…
//	report, err := rollout.Run(ctx, waves, inv.RunOptions())
//
// # Limits
//
// A host has one component; two components on one machine are two hosts with one address.
// A revert needs the data that its step saved in the journal. Keep the journal until the run is
// accepted.
package fleet
