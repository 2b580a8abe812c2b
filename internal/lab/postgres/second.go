package postgres

import (
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"

	"example.com/tykupgrade/internal/lab"
)

// Second returns the programs of another major version: PostgreSQL 13, from the packages
// of Debian 11, unpacked in a directory of the test. It installs nothing. The test is a
// long one, as it needs Debian's archive, and skips where that does not have them.
func Second(t testing.TB) string {
	t.Helper()
	lab.Long(t)
	if runtime.GOARCH != "amd64" {
		t.Skip("the libraries of Debian 11 are looked for on amd64 only")
	}
	dir := t.TempDir()
	// The server runs as nobody.
	for d := dir; d != os.TempDir() && len(d) > 1; d = filepath.Dir(d) {
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	// The archive is the one that this machine's own apt uses.
	cmd := exec.Command("sh", "-euc", `mkdir -p lists/partial archives/partial root
		archive=$(apt-get indextargets --format '$(REPO_URI)' 'Origin: Debian' | head -n 1)
		[ -n "$archive" ] || { echo "apt knows no archive of Debian: run apt-get update" >&2; exit 1; }
		echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $archive bullseye main" >sources
		apt() { apt-get -q -o Dir::Etc::sourcelist="$PWD/sources" -o Dir::Etc::sourceparts=/dev/null -o Dir::State::lists="$PWD/lists" \
			-o Dir::State::status=/dev/null -o Dir::Cache="$PWD" -o APT::Sandbox::User=root "$@"; }
		apt update
		apt download postgresql-13 postgresql-client-13 libicu67 libssl1.1 libldap-2.4-2
		for d in *.deb; do dpkg-deb -x "$d" root; done`)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Skipf("PostgreSQL 13 of Debian 11 is not to be had: %v\n%s", err, out)
	}
	return filepath.Join(dir, "root/usr/lib/postgresql/13/bin")
}
