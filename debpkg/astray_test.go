package debpkg_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"example.com/tykupgrade/debpkg"
	"example.com/tykupgrade/internal/lab"
)

// reachable returns an upgradable root that a service user, whom root plays, can reach.
func reachable(t *testing.T) *fixture {
	t.Helper()
	if os.Geteuid() != 0 {
		lab.Missing(t, "root, to play the service user")
	}
	lab.Program(t, "setpriv", "util-linux")
	f := upgradable(t)
	for d := f.root.Dir; d != os.TempDir() && d != "/"; d = filepath.Dir(d) {
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return f
}

// A link of a service user's leads to a file of root's. Neither is its content
// kept as configuration, nor is anything written behind it, as root follows
// nothing that the user can put there.
func TestConffileLedAstray(t *testing.T) {
	t.Parallel()
	f := reachable(t)
	tree := f.root.Dir + "/opt/tyk-gateway"
	if err := filepath.WalkDir(tree, func(path string, _ os.DirEntry, err error) error {
		return errors.Join(err, os.Lchown(path, 65534, 65534))
	}); err != nil {
		t.Fatal(err)
	}
	f.write("/etc/shadow", "root's secret")
	if err := os.Chmod(f.root.Dir+"/etc/shadow", 0o600); err != nil {
		t.Fatal(err)
	}
	conf := tree + "/tyk.conf"
	if err := errors.Join(os.Remove(conf), os.Symlink(f.root.Dir+"/etc/shadow", conf)); err != nil {
		t.Fatal(err)
	}
	h := f.host()
	p := f.plan(h, f.request("tyk-gateway", "5.2.5"))
	c, err := h.Apply(t.Context(), p)
	if err != nil {
		t.Fatal(err)
	}
	archives, err := filepath.Glob(c.Dir + "/files*.tar.gz")
	if err != nil || len(archives) == 0 {
		t.Fatalf("archives %v, %v", archives, err)
	}
	for _, a := range archives {
		out, err := f.try("tar", "-x", "-z", "-O", "-f", a)
		if err != nil || strings.Contains(out, "secret") {
			t.Errorf("%s holds %q, %v", a, out, err)
		}
	}
	if slices.Contains(c.Looked, "/etc/shadow") {
		t.Errorf("looked at %v", c.Looked)
	}
	// Meanwhile the directory becomes a link to one of root's.
	f.write("/etc/profile.d/tyk.conf", "root's")
	f.write("/etc/profile.d/policies/policies.json", "root's")
	if err := errors.Join(os.Rename(tree, tree+".away"), os.Symlink(f.root.Dir+"/etc/profile.d", tree),
		os.Lchown(tree, 65534, 65534), os.Chown(f.root.Dir+"/opt", 65534, 65534)); err != nil {
		t.Fatal(err)
	}
	_ = h.Revert(t.Context(), c, debpkg.RevertOptions{Files: true}) // dpkg itself follows
	info, err := os.Lstat(f.root.Dir + "/etc/profile.d/tyk.conf")
	if err != nil || info.Mode()&os.ModeSymlink != 0 {
		t.Errorf("the user's link was put into root's directory: %v, %v", info, err)
	}
	if got := f.file("/etc/shadow"); got != "root's secret" {
		t.Errorf("root's file is %q", got)
	}

	// A change that names files elsewhere is not carried out.
	forged := roundTrip(t, c)
	forged.Saved[0].Path = "/tmp/evil.deb"
	wantError(t, h.Revert(t.Context(), forged, debpkg.RevertOptions{}), debpkg.ErrRefused,
		"outside of")
	forged = roundTrip(t, c)
	forged.Dir = "/tmp/evil"
	wantError(t, h.Revert(t.Context(), forged, debpkg.RevertOptions{}), debpkg.ErrRefused,
		"outside of")
}

// exchange plays the service user in his directory: it exchanges what is there for links to
// secret, and back, without end. Each state lasts a millisecond, so that no moment of a revert is
// left out and the rest of the machine can work.
func exchange(secret string) {
	for {
		for _, step := range []func() error{
			func() error { return os.Rename("policies", "kept") },
			func() error { return os.Symlink(secret, "policies") },
			func() error { return os.Rename("tyk.conf", "tyk.kept") },
			func() error { return os.Symlink(secret+"/tyk.conf", "tyk.conf") },
			func() error { return errors.Join(os.Remove("policies"), os.Remove("tyk.conf")) },
			func() error { return os.Rename("kept", "policies") },
			func() error { return os.Rename("tyk.kept", "tyk.conf") },
		} {
			_ = step() // fails when root was quicker
			time.Sleep(time.Millisecond)
		}
	}
}

// While root brings files back, the service user exchanges his directory, a
// directory below it and the file itself for links to root's. Nothing of root's
// is read, written, or changed in owner or mode. make test-long has the most rounds.
func TestRevertRaces(t *testing.T) {
	t.Parallel()
	f := reachable(t)
	f.write("/opt/tyk-gateway/policies/policies.json", "edited")
	f.write("/etc/default/tyk-gateway", "X=1\n") // root's, so that there are two archives
	if err := filepath.WalkDir(f.root.Dir+"/opt/tyk-gateway", func(path string, _ os.DirEntry,
		err error) error {
		return errors.Join(err, os.Lchown(path, 65534, 65534))
	}); err != nil {
		t.Fatal(err)
	}
	c := f.apply(f.host(), f.request("tyk-gateway", "5.2.5"))
	secret := f.root.Dir + "/root-only"
	for _, name := range []string{"tyk.conf", "policies.json", "sub/policies.json"} {
		f.write("/root-only/"+name, "root's")
		if err := os.Chmod(secret+"/"+name, 0o640); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(secret, 0o755); err != nil {
		t.Fatal(err)
	}
	// By this link, as the user may not enter the directory of the test's program.
	attack := exec.Command("/proc/self/exe")
	attack.Dir = f.root.Dir + "/opt/tyk-gateway"
	attack.Env = append(os.Environ(), "DEBPKG_ATTACK="+secret)
	attack.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	if err := attack.Start(); err != nil {
		t.Fatal(err)
	}
	stop := sync.OnceFunc(func() {
		_ = attack.Process.Kill()
		_ = attack.Wait()
	})
	defer stop()
	h, rounds := f.host(), 0
	for want := lab.Kills(8); rounds < want; rounds++ {
		_ = h.RevertFiles(t.Context(), c) // it fails as often as the user is quick
	}
	stop()
	for _, name := range []string{"tyk.conf", "policies.json", "sub/policies.json"} {
		info, err := os.Lstat(secret + "/" + name)
		if err != nil {
			t.Fatal(err)
		}
		st := info.Sys().(*syscall.Stat_t)
		if got := f.file("/root-only/" + name); got != "root's" || info.Mode().Perm() != 0o640 ||
			st.Uid != 0 {
			t.Errorf("%s of root's holds %q, mode %v, owner %d", name, got, info.Mode(), st.Uid)
		}
	}
	entries, err := os.ReadDir(secret)
	if err != nil || len(entries) != 3 {
		t.Errorf("root's directory holds %v, %v", entries, err)
	}
	archives, err := filepath.Glob(c.Dir + "/files-replaced.*.tar.gz")
	if err != nil || len(archives) == 0 {
		t.Fatalf("archives %v, %v", archives, err)
	}
	out, err := f.try("sh", "-c",
		`for a in "$1"/files-replaced.*; do tar -x -z -O -f "$a"; done 2>/dev/null | grep -c "root's"`,
		"look", c.Dir)
	if strings.TrimSpace(out) != "0" {
		t.Errorf("root's words are in the archives: %s, %v", out, err)
	}

	// Left alone, the files of root and of the user go back.
	for name, kept := range map[string]string{"policies": "kept", "tyk.conf": "tyk.kept"} {
		name, kept = attack.Dir+"/"+name, attack.Dir+"/"+kept
		if _, err := os.Lstat(kept); err == nil {
			if err := errors.Join(os.RemoveAll(name), os.Rename(kept, name)); err != nil {
				t.Fatal(err)
			}
		}
	}
	f.write("/etc/default/tyk-gateway", "X=2\n")
	if err := h.Revert(t.Context(), c, debpkg.RevertOptions{Files: true}); err != nil {
		t.Fatal(err)
	}
	f.want("tyk-gateway", "4.0.8", "install installed")
	for name, want := range map[string]string{"/etc/default/tyk-gateway": "X=1\n",
		"/opt/tyk-gateway/policies/policies.json": "edited", "/opt/tyk-gateway/tyk.conf": conf1} {
		if got := f.file(name); got != want {
			t.Errorf("%s is %q, was %q", name, got, want)
		}
	}
}

// In a service user's directory dpkg leaves a copy that only root can read, if the conffile is
// missing. The revert removes it, and needs no copy of what the package has.
func TestRevertCopyOfRoot(t *testing.T) {
	t.Parallel()
	f := reachable(t)
	tree := f.root.Dir + "/opt/tyk-gateway"
	if err := errors.Join(os.Chown(tree, 65534, 65534), os.Remove(tree+"/tyk.conf")); err != nil {
		t.Fatal(err)
	}
	h := f.host()
	c := f.apply(h, f.request("tyk-gateway", "5.2.5"))
	left := tree + "/tyk.conf.dpkg-dist"
	if err := os.Chmod(left, 0o600); err != nil { // Tyk's packages differ in the modes of their files
		t.Fatal(err)
	}
	// What the package does not have is not removed without a copy.
	f.write("/opt/tyk-gateway/tyk.conf.dpkg-old", "edited")
	edited := tree + "/tyk.conf.dpkg-old"
	if err := os.Chmod(edited, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := h.RevertFiles(t.Context(), c); err == nil || !strings.Contains(err.Error(), edited[len(
		f.root.Dir):]) || f.file("/opt/tyk-gateway/tyk.conf.dpkg-old") != "edited" {
		t.Errorf("with a file that cannot be saved: %v", err)
	}
	if err := os.Remove(edited); err != nil {
		t.Fatal(err)
	}
	if err := h.Revert(t.Context(), c, debpkg.RevertOptions{Files: true}); err != nil {
		t.Fatal(err)
	}
	f.want("tyk-gateway", "4.0.8", "install installed")
	for _, name := range []string{left, tree + "/tyk.conf"} {
		if _, err := os.Lstat(name); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s is there: %v", name, err)
		}
	}
}
