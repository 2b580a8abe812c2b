package preflight

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// glibcParts are the libraries of glibc itself, which every gateway host has.
var glibcParts = []string{"libc.so.6", "libpthread.so.0", "libdl.so.2", "libm.so.6", "librt.so.1",
	"libresolv.so.2", "libutil.so.1",
	"ld-linux-x86-64.so.2", "ld-linux-aarch64.so.1", "ld64.so.2", "ld-linux-riscv64-lp64d.so.1",
	"ld-linux-loongarch-lp64d.so.1"}

// essential are libraries that every Debian and Ubuntu host has, because dpkg, apt or login need
// them.
var essential = []string{"libgcc_s.so.1", "libz.so.1", "libcrypt.so.1", "liblzma.so.5",
	"libbz2.so.1.0", "libselinux.so.1"}

// packaged maps libraries whose name changes between distributions to the distributions that have
// them and their package there.
var packaged = map[string]map[string]string{
	"libssl.so.1.0.0": openssl10, "libcrypto.so.1.0.0": openssl10,
	"libssl.so.1.1": openssl11, "libcrypto.so.1.1": openssl11,
	"libssl.so.3": openssl3, "libcrypto.so.3": openssl3,
	"libffi.so.6": {"ubuntu/16.04": "libffi6", "ubuntu/18.04": "libffi6"},
	"libffi.so.7": {"ubuntu/20.04": "libffi7", "debian/11": "libffi7"},
	"libffi.so.8": {"ubuntu/22.04": "libffi8", "ubuntu/24.04": "libffi8",
		"debian/12": "libffi8", "debian/13": "libffi8"},
	"libldap-2.4.so.2": {"ubuntu/16.04": "libldap-2.4-2", "ubuntu/18.04": "libldap-2.4-2",
		"ubuntu/20.04": "libldap-2.4-2", "debian/11": "libldap-2.4-2"},
	"libldap-2.5.so.0":   {"ubuntu/22.04": "libldap-2.5-0", "debian/12": "libldap-2.5-0"},
	"libldap.so.2":       {"ubuntu/24.04": "libldap2", "debian/13": "libldap2"},
	"libpython3.8.so.1":  {"ubuntu/20.04": "libpython3.8"},
	"libpython3.9.so.1":  {"debian/11": "libpython3.9"},
	"libpython3.10.so.1": {"ubuntu/22.04": "libpython3.10"},
	"libpython3.11.so.1": {"debian/12": "libpython3.11"},
	"libpython3.12.so.1": {"ubuntu/24.04": "libpython3.12"},
	"libpython3.13.so.1": {"debian/13": "libpython3.13"},
}

var (
	openssl10 = map[string]string{"ubuntu/16.04": "libssl1.0.0", "ubuntu/18.04": "libssl1.0.0"}
	openssl11 = map[string]string{"ubuntu/18.04": "libssl1.1", "ubuntu/20.04": "libssl1.1",
		"debian/11": "libssl1.1"}
	openssl3 = map[string]string{"ubuntu/22.04": "libssl3", "ubuntu/24.04": "libssl3t64",
		"debian/12": "libssl3", "debian/13": "libssl3t64"}
)

// cLibrary returns the C library that a file is linked with: "glibc", another one, or "".
func cLibrary(libs []string) (kind, lib string) {
	for _, lib := range libs {
		switch {
		case lib == "libc.so.6" || strings.HasPrefix(lib, "ld-linux"):
			kind = "glibc"
		case strings.HasPrefix(lib, "libc.musl-") || strings.HasPrefix(lib, "ld-musl-"):
			return "musl", lib
		case strings.HasPrefix(lib, "libuClibc-") || strings.HasPrefix(lib, "ld-uClibc") ||
			strings.HasPrefix(lib, "ld64-uClibc") ||
			lib == "libc.so.0" || lib == "libc.so.1":
			return "uClibc", lib
		case lib == "libc.so": // musl-gcc of Debian and Void Linux, and Android
			return "musl or bionic", lib
		case strings.HasPrefix(lib, "libc.so."):
			return "another system's C library", lib
		}
	}
	return kind, ""
}

// libraries checks the libraries that a plugin needs in addition to the gateway's. distro may be
// empty.
func (r *Result) libraries(p, g *Binary, distro string) {
	add := func(v Verdict, subject, detail, remedy string) {
		r.add(Finding{Verdict: v, Kind: KindLibrary, Subject: subject, Detail: detail, Remedy: remedy})
	}
	kind, lib := cLibrary(p.Libraries)
	has, _ := cLibrary(g.Libraries)
	if has == "" && distro != "" {
		has = "glibc"
	}
	switch {
	case kind == "" || has == "" || kind == has:
	case lib != "":
		add(Fails, lib, "the plugin is linked with "+kind+", but the gateway's hosts have "+has,
			"compile the plugin in the compiler image, not on a system with another C library")
	default:
		add(Fails, "libc.so.6", "the plugin is linked with glibc, but the gateway with "+has,
			"compile the plugin on the gateway's build system")
	}
	var foreign []string
	for _, l := range p.Libraries {
		switch {
		case slices.Contains(g.Libraries, l), l == lib, kind == "glibc" && slices.Contains(glibcParts, l):
		case distro != "" && slices.Contains(essential, l):
		case distro != "" && packaged[l] != nil && packaged[l][distro] == "":
			add(Fails, l, distro+" has no package with it, only "+
				strings.Join(slices.Sorted(maps.Keys(packaged[l])), ", "),
				"compile the plugin on "+distro+", or link the library statically")
		case distro != "" && packaged[l] != nil:
			add(Unknown, l, "needed by the plugin, but not by the gateway",
				fmt.Sprintf("install the package %s on every gateway host", packaged[l][distro]))
		case strings.Contains(l, "/"):
			add(Unknown, l, "the plugin needs a file at this path",
				"link the library by its name, or install it there on every gateway host")
		default:
			foreign = append(foreign, l)
		}
	}
	if len(foreign) > 0 {
		add(Unknown, strings.Join(foreign, ", "), "needed by the plugin, but not by the gateway",
			"make sure that it is installed on every gateway host")
	}
	if len(p.Undefined) > 0 {
		add(Unknown, sample(p.Undefined), "used by the plugin's C code, but not bound to a library",
			"link the library that has it")
	}
}
