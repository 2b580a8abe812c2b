// Package preflight predicts whether a compiled Go plugin loads in a gateway binary.
// It reads both files. It loads and executes nothing, and needs neither Docker nor a
// Go toolchain.
//
//	plugin, err := preflight.Inspect("plugin_v5.2.5_linux_amd64.so")
//	gateway, err := preflight.Inspect("/opt/tyk-gateway/tyk")
//	if r := preflight.Compare(plugin, gateway); r.Verdict != preflight.Loads {
//		fmt.Println(r.Findings)
//	}
//
// [Inspect] reads a file. [InspectFile] also reads one inside an image's tar or a Debian
// package, and [InspectPlugins] those of bundles. [CompareAll] compares several plugins
// with a gateway.
//
// The verdict rests on what plugin.Open itself compares: the hash of every package that
// the plugin and its host both link. The Go linker leaves the hashes in the dynamic
// symbol tables, also of stripped files. Build information only explains a difference:
// the module, flag or Go version that causes it, and what to change.
//
// # Limits
//
// The verdict predicts whether a plugin loads, not whether it works. A plugin's init
// functions may still panic, and the gateway's configuration may name another file. The
// hashes do not cover changes inside the gateway that other packages cannot see.
//
// Only Linux, ELF, 64-bit and little-endian: gateways for s390x cannot be checked. The
// package does not look at the libraries of a host. It assumes those that every Debian
// and Ubuntu has. A plugin that needs another one, which the gateway does not need, is
// [Unknown].
//
// Plugins of Go 1.19 and older (gateways before 5.3) have no build information. Their Go
// version comes from debug information, their modules from the names of source files,
// and their flags are unknown. Builds in GOPATH mode (gateways before 5.1) have no module
// versions, so that a difference has no explanation. Signatures of hooks come from debug
// information too. They are unknown in stripped files, and if that information is too
// large to read within bounds.
package preflight
