// Package preflight predicts whether a compiled Go plugin loads in a gateway binary. It reads
// both files, but executes neither. It needs no Docker and no Go toolchain.
//
//	plugin, err := preflight.Inspect("plugin_v5.2.5_linux_amd64.so")
//	gateway, err := preflight.Inspect("/opt/tyk-gateway/tyk")
//	if r := preflight.Compare(plugin, gateway); r.Verdict != preflight.Loads {
//		fmt.Println(r.Findings)
//	}
//
// [Inspect] reads a file. [InspectFile] also reads one inside an image's tar or a Debian
// package. [InspectPlugins] also reads bundles. [CompareAll] compares several plugins with a
// gateway.
//
// The verdict depends on the data that plugin.Open compares: the hash of every package that
// both plugin and gateway link. The Go linker writes the hashes to the dynamic symbol table,
// which stripped files keep. Build information only explains a difference: the module, flag or
// Go version that causes it, and what to change.
//
// # Limits
//
// The verdict predicts whether a plugin loads, not whether it works. A plugin's init
// functions may still panic, and the gateway's configuration may name another file. The
// hashes do not cover changes inside the gateway that other packages cannot see.
//
// Only 64-bit little-endian ELF files of Linux are supported, so not gateways for s390x. The
// package does not read the libraries of a host. It assumes those of every Debian and Ubuntu.
// If a plugin needs a library that neither these nor the gateway have, the verdict is [Unknown].
//
// Plugins of Go 1.19 and older (gateways before 5.3) have no build information. Their Go version
// comes from debug information and their modules from the names of source files. Their flags are
// unknown. Builds in GOPATH mode (gateways before 5.1) have no module versions, so a difference
// has no explanation. Signatures of hooks come from debug information. They are unknown in
// stripped files, or if the debug information is too large.
package preflight
