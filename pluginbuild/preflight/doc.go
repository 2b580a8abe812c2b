// Package preflight says whether a compiled Go plugin will load in a gateway
// binary, by reading both files: nothing is loaded or executed, and neither
// Docker nor a Go toolchain is needed.
//
// [Inspect] reads a file, also out of a bundle, an image's tar or a Debian
// package; [Compare] and [CompareAll] judge what was read. The verdict rests on
// what plugin.Open itself compares: the hash of every package that the plugin
// and its host both hold, which the Go linker leaves in both dynamic symbol
// tables, stripped or not. Build information only explains a difference: which
// module, flag or Go version it comes from, and what to change.
//
// # Limits
//
// The verdict predicts whether a plugin loads, not whether it works: code of the
// gateway that changed without changing what other packages see of it loads with an
// old plugin. A plugin's init functions may still panic, and the gateway's
// configuration may name another file.
//
// Linux, ELF, 64-bit, little-endian: gateways for s390x cannot be checked.
// The libraries of a host are not looked at. Those that every Debian and Ubuntu has
// are taken as there, and those that a distribution does not have as missing. A plugin
// that needs another one, which the gateway does not need, is [Unknown].
//
// Plugins of Go 1.19 and older (gateways before 5.3) carry no build information:
// their Go version comes from debug information, their modules from the names
// of source files, and their flags are not known. Builds in GOPATH mode
// (gateways before 5.1) name no module versions at all, so that a difference is
// told but hardly explained. Signatures of hooks come from debug information as
// well; they are unknown in stripped files, and where it is too large to read
// within bounds.
package preflight
