// Package fleet upgrades the hosts of a Tyk installation. It joins three packages. Package debpkg
// changes the packages of a host, health checks whether the host serves, and rollout runs the steps
// on all hosts in waves.
//
// An [Inventory] describes hosts, versions and load balancers. It comes from a YAML or JSON file,
// or from a program that fills in the struct and calls [Inventory.Check]. [Inventory.Waves] turns
// it into waves for rollout.Run, and [Inventory.Plans] plans the upgrade of every host. A team with
// an inventory of its own needs only [Package], the rollout step that installs one package on one
// host.
//
//	inv, err := fleet.Load("fleet.yaml", nil)
//	…
//	waves, err := inv.Waves(fleet.Options{})
//	…
//	report, err := rollout.Run(ctx, waves, inv.RunOptions())
//
// # Limits
//
// A host has one component. Two components on one machine are two hosts with one address. A revert
// needs what its step saved in the journal, so keep the journal until the run is accepted.
package fleet
