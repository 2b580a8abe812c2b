package fleet

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"example.com/tykupgrade/debpkg"
	"example.com/tykupgrade/internal/lab"
)

const md5Name = "0123456789abcdef0123456789abcdef"

func local(t *testing.T, script string, all ...cached) (string, error) {
	t.Helper()
	return (&Swap{Runner: debpkg.Local(), notes: t.TempDir()}).files(t.Context(), script, all)
}

// tree makes directories and files (names that end in a letter), owned by the user nobody below
// "user/".
func tree(t *testing.T, names ...string) string {
	t.Helper()
	if os.Geteuid() != 0 {
		lab.Missing(t, "root, to play the service user")
	}
	base := t.TempDir()
	for _, name := range names {
		path := filepath.Join(base, name)
		err := os.MkdirAll(filepath.Dir(path), 0o755)
		if !strings.HasSuffix(name, "/") {
			err = errors.Join(err, os.WriteFile(path, []byte(name), 0o644))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	err := filepath.WalkDir(filepath.Join(base, "user"), func(path string, _ os.DirEntry,
		err error) error {
		return errors.Join(err, os.Lchown(path, 65534, 65534))
	})
	if err != nil {
		t.Fatal(err)
	}
	return base
}

func holds(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// The service's user owns middleware_path. Root follows no link of that user's.
func TestSwapIsNotLedAstray(t *testing.T) {
	t.Parallel()
	base := tree(t, "user/bundles/"+md5Name+"/own/f", "etc/hosts/f", "etc/hosts.before-upgrade/f",
		"etc/bundles/"+md5Name+"/f")
	links := map[string]string{
		"user/linked": base + "/etc", // .../linked/bundles/<md5>
		"user/bundles/fedcba98765432100123456789abcdef": base + "/etc", // .../<md5>/hosts
		"user/rel": "../etc",
	}
	for from, to := range links {
		if err := errors.Join(os.Symlink(to, filepath.Join(base, from)),
			os.Lchown(filepath.Join(base, from), 65534, 65534)); err != nil {
			t.Fatal(err)
		}
	}
	for _, path := range []string{"user/linked/bundles/" + md5Name, "user/rel/bundles/" + md5Name,
		"user/bundles/fedcba98765432100123456789abcdef/hosts"} {
		for script, kept := range map[string]bool{lookScript: true, clearScript: true,
			asideScript: false, backScript: false, forgetScript: true} {
			_, err := local(t, script, cached{Path: filepath.Join(base, path), Kept: kept})
			e := (*Error)(nil)
			if !errors.As(err, &e) || e.Retry || e.Next == "" ||
				!strings.Contains(err.Error(), "is a link, and not only root can change") {
				t.Errorf("%s: %v\n%s", path, err, strings.TrimPrefix(script, enterFunc))
			}
		}
	}
	for _, name := range []string{"etc/hosts/f", "etc/hosts.before-upgrade/f",
		"etc/bundles/" + md5Name + "/f"} {
		if !holds(filepath.Join(base, name)) {
			t.Errorf("%s is gone", name)
		}
	}
}

// A link of root's is followed: /opt/tyk-gateway often lies on another disk.
func TestSwapFollowsRootsLink(t *testing.T) {
	t.Parallel()
	base := tree(t, "user/bundles/"+md5Name+"/f")
	if err := os.Mkdir(base+"/opt", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("../user", base+"/opt/tyk-gateway"); err != nil {
		t.Fatal(err)
	}
	real := base + "/user/bundles/" + md5Name
	c := cached{Path: base + "/opt/tyk-gateway/bundles/" + md5Name, Kept: true}
	out, err := local(t, lookScript, c, cached{Path: c.Path + "0"})
	if err != nil || out != "true\nfalse\n" {
		t.Fatalf("%q, %v", out, err)
	}
	if _, err := local(t, asideScript, c); err != nil || holds(real) || !holds(aside(real)+"/f") {
		t.Errorf("aside: %v", err)
	}
	if _, err := local(t, backScript, c); err != nil || !holds(real+"/f") || holds(aside(real)) {
		t.Errorf("back: %v", err)
	}
	// What an earlier run left there is not what this run finds.
	if err := os.Mkdir(aside(real), 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := local(t, clearScript, c); err != nil || !holds(real+"/f") || holds(aside(real)) {
		t.Errorf("clear: %v", err)
	}
}

// Between root's look at a directory and its step into it, the user exchanges the directory for a
// link to one of root's.
func TestSwapWhileDirectoryIsExchanged(t *testing.T) {
	t.Parallel()
	const look = "exec 9<. &&"
	for _, script := range []string{asideScript, backScript, forgetScript} {
		base := tree(t, "user/bundles/"+md5Name+"/hosts/f", "etc/hosts/f", "etc/hosts.before-upgrade/f")
		link := base + "/user/bundles/link"
		if err := errors.Join(os.Symlink(base+"/etc", link), os.Lchown(link, 65534, 65534)); err != nil {
			t.Fatal(err)
		}
		attack := look + ` { [ "$name" != ` + md5Name + ` ] || { mv -T ` + md5Name + ` x; mv -T link ` +
			md5Name + "; }; } &&"
		_, err := local(t, strings.Replace(script, look, attack, 1),
			cached{Path: base + "/user/bundles/" + md5Name + "/hosts"})
		if err == nil || !strings.Contains(err.Error(), "is another directory than before") {
			t.Errorf("root follows: %v", err)
		}
		for _, name := range []string{"etc/hosts/f", "etc/hosts.before-upgrade/f",
			"user/bundles/x/hosts/f"} {
			if !holds(filepath.Join(base, name)) {
				t.Errorf("%s is gone", name)
			}
		}
	}
}
