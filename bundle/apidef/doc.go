// Package apidef finds out which APIs of a gateway use which plugin or bundle,
// and changes the bundle that they name.
//
// A [Store] holds API definitions: [Dashboard], [Gateway] or [Directory].
// [List] reads an [Inventory]. [NewPlan] plans a change of the bundle's name,
// [Apply] carries it out and [Revert] takes it back.
//
// Definitions are edited as the bytes that the store holds, at one path. Unknown
// fields, numbers, escapes and the order of keys stay as they are. A write
// replaces the document that was read; if the store holds another one, nothing
// is written.
//
// Most upgrades need no change of a name: see bundle.SameName. The package knows
// classic and OAS definitions as of Tyk 3.0.0 to 5.14.0 and the sources of 5.15.
// The dashboard's API is used as its public reference describes it; no dashboard
// was available for a test.
package apidef
