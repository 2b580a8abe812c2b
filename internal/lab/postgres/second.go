package postgres

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"

	"example.com/tykupgrade/internal/lab"
)

// others are major versions that this machine need not have: the release of Debian, and
// the packages with all that its programs need of that release.
var others = map[int][]string{
	13: {"bullseye", "libicu67", "libssl1.1", "libldap-2.4-2"},
	17: {"trixie", "libicu76", "libssl3t64", "libldap2", "libxml2", "libpq5", "libstdc++6", "libgcc-s1",
		"libc6"},
}

// Major returns the programs of PostgreSQL 13 or 17, from the packages of Debian 11 or 13,
// unpacked in a directory of the test. It installs nothing. The test is a long one, as it
// needs Debian's archive, and skips where that does not have them.
func Major(t testing.TB, version int) string {
	t.Helper()
	lab.Long(t)
	if runtime.GOARCH != "amd64" {
		t.Skip("the libraries of other releases of Debian are looked for on amd64 only")
	}
	dir := t.TempDir()
	// The server runs as nobody.
	for d := dir; d != os.TempDir() && len(d) > 1; d = filepath.Dir(d) {
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	// The archive is the one that this machine's own apt uses. Each program is started by the
	// dynamic linker of its release, where a newer C library is among the packages.
	cmd := exec.Command("sh", append([]string{"-euc", `version=$1 release=$2; shift 2
		mkdir -p lists/partial archives/partial root
		archive=$(apt-get indextargets --format '$(REPO_URI)' 'Origin: Debian' | head -n 1)
		[ -n "$archive" ] || { echo "apt knows no archive of Debian: run apt-get update" >&2; exit 1; }
		echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $archive $release main" >sources
		apt() { apt-get -q -o Dir::Etc::sourcelist="$PWD/sources" -o Dir::Etc::sourceparts=/dev/null -o Dir::State::lists="$PWD/lists" \
			-o Dir::State::status=/dev/null -o Dir::Cache="$PWD" -o APT::Sandbox::User=root "$@"; }
		apt update
		apt download "postgresql-$version" "postgresql-client-$version" "$@"
		for d in *.deb; do dpkg-deb -x "$d" root; done
		libs=$PWD/root/usr/lib/x86_64-linux-gnu linker=/lib64/ld-linux-x86-64.so.2
		[ ! -e "$libs/ld-linux-x86-64.so.2" ] || linker=$libs/ld-linux-x86-64.so.2
		cd "root/usr/lib/postgresql/$version"
		mv bin programs; mkdir bin
		for p in programs/*; do
			printf '#!/bin/sh\nexec %s --library-path %s --argv0 "$0" %s "$@"\n' "$linker" "$libs" "$PWD/$p" >"bin/${p##*/}"
			chmod +x "bin/${p##*/}"
		done`, "sh", fmt.Sprint(version)}, others[version]...)...)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Skipf("PostgreSQL %d is not to be had from Debian's archive: %v\n%s", version, err, out)
	}
	return filepath.Join(dir, fmt.Sprintf("root/usr/lib/postgresql/%d/bin", version))
}
