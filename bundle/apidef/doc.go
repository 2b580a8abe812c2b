// Package apidef finds out which APIs of a gateway use which plugin or bundle, and
// changes the bundle that they name.
//
// A [Store] holds API definitions: a [Dashboard], a [Gateway] or a [Directory].
// [List] reads an [Inventory] of a store. [NewPlan] plans a change of a bundle's
// name, [Apply] carries it out, and [Revert] takes it back:
//
//	store := apidef.Directory{Path: "/opt/tyk-gateway/apps"}
//	plan, err := apidef.NewPlan(ctx, store, apidef.Change{From: "a.zip", To: "b.zip", Switch: s})
//	…
//	err = apidef.Apply(ctx, store, plan, "/var/lib/tykupgrade/apis.journal")
//
// Most upgrades need no change of a name: see bundle.SameName.
//
// An edit replaces one value in the bytes that the store holds. Unknown fields,
// numbers, escapes and the order of keys stay unchanged. A write replaces the
// document that was read. If the store holds another one, nothing is written.
//
// # Limits
//
// The package knows classic and OAS definitions of Tyk 3.0.0 to 5.14.0, and those of
// the sources of 5.15. Dashboard follows the public API reference. It is not tested
// with a real dashboard: none was available.
package apidef
