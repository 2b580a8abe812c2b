package debs_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"example.com/tykupgrade/internal/lab"
	"example.com/tykupgrade/internal/lab/debs"
)

// The real apt installs, upgrades and downgrades a stub from the signed
// repository in a private root.
func TestPrivateRoot(t *testing.T) {
	t.Parallel()
	for prog, deb := range map[string]string{"apt-get": "apt", "apt-ftparchive": "apt-utils",
		"gpg": "gnupg", "dpkg-deb": "dpkg"} {
		lab.Program(t, prog, deb)
	}
	// apt writes some of these characters otherwise.
	repo, err := debs.NewRepo(filepath.Join(t.TempDir(), "the=repo_1+2~"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := repo.Close(); err != nil {
			t.Error(err)
		}
	})
	if _, err := repo.Add(debs.Tyk("tyk-gateway", "4.0.8", debs.TykOptions{}), debs.Tyk("tyk-gateway",
		"5.2.5", debs.TykOptions{})); err != nil {
		t.Fatal(err)
	}
	root, err := debs.NewRoot(filepath.Join(t.TempDir(), "root"), repo)
	if err != nil {
		t.Fatal(err)
	}
	apt := func(args ...string) string {
		t.Helper()
		cmd := exec.Command("apt-get", append([]string{"-q", "-y"}, args...)...)
		cmd.Env = append(os.Environ(), "APT_CONFIG="+root.AptConfig, "LC_ALL=C")
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %v\n%s", cmd.Args, err, out)
		}
		return string(out)
	}
	if out := apt("update", "-o", "APT::Update::Error-Mode=any"); strings.Contains(out, "W:") {
		t.Errorf("update warns:\n%s", out)
	}
	// What Update leaves is what apt does.
	lists := func(r *debs.Root) string {
		t.Helper()
		out, err := exec.Command("sh", "-ec", `cd "$1"; for f in *_.*; do echo "$f $(readlink "$f")"; cat "$f"; done`,
			"lists", r.Dir+"/var/lib/apt/lists").CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		return string(out)
	}
	twin, err := debs.NewRoot(filepath.Join(t.TempDir(), "twin"), repo)
	if err != nil {
		t.Fatal(err)
	}
	if err := twin.Update(); err != nil {
		t.Fatal(err)
	}
	if got, want := lists(twin), lists(root); got != want || !strings.Contains(got, "BEGIN PGP") {
		t.Errorf("Update leaves\n%s\napt\n%s", got, want)
	}
	// A copy works in its own directory, and finds what it has copied.
	apt("install", "tyk-gateway=4.0.8")
	first := root
	if root, err = first.Copy(filepath.Join(t.TempDir(), "copy")); err != nil {
		t.Fatal(err)
	}
	if apt("remove", "tyk-gateway"); len(installed(t, first)) == 0 || len(installed(t, root)) > 0 {
		t.Errorf("installed %q, in the copy %q", installed(t, first), installed(t, root))
	}
	for _, v := range []string{"4.0.8", "5.2.5", "4.0.8"} {
		apt("install", "--allow-downgrades", "tyk-gateway="+v)
		out, err := exec.Command("dpkg-query", "--admindir="+root.Dir+"/var/lib/dpkg", "-W", "-f",
			"${Version} ${db:Status-Status}", "tyk-gateway").Output()
		if err != nil || string(out) != v+" installed" {
			t.Errorf("after installing %s: %q, %v", v, out, err)
		}
		policies, err := os.ReadFile(root.Dir + "/opt/tyk-gateway/policies/policies.json")
		if err != nil || !strings.Contains(string(policies), v) {
			t.Errorf("policies %q, %v", policies, err)
		}
	}
}

// installed lists the files of tyk-gateway in the root.
func installed(t *testing.T, r *debs.Root) []string {
	t.Helper()
	list, err := filepath.Glob(r.Dir + "/opt/tyk-gateway/tyk")
	if err != nil {
		t.Fatal(err)
	}
	return list
}
