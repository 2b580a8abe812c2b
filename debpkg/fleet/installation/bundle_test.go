package installation

import (
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"example.com/tykupgrade/bundle"
	"example.com/tykupgrade/debpkg/rollout"
)

// undo takes back one part of an upgrade.
func undo(t *testing.T, u *Upgrade, target string) error {
	t.Helper()
	waves, err := u.Waves()
	if err != nil {
		t.Fatal(err)
	}
	if waves, err = rollout.Select(waves, target, ""); err != nil {
		t.Fatal(err)
	}
	_, err = rollout.Undo(t.Context(), waves, rollout.Options{Journal: filepath.Join(u.dir,
		target+".journal")})
	return err
}

// The bundle is published under the name that the APIs have. The old file is kept, a
// revert puts it back, and accepting removes it.
func TestPublish(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ name, keys string }{
		{"by a command", `publish: [cp, "{file}", "DIR/served/{name}"]`},
		{"into a served directory", `serve: served`},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			srv := httptest.NewServer(nil)
			defer srv.Close()
			file := write(t, "")
			dir := filepath.Dir(file)
			srv.Config.Handler = http.FileServer(http.Dir(filepath.Join(dir, "served")))
			keys := strings.ReplaceAll(c.keys, "DIR", dir) + `, url: "` + srv.URL + `"`
			if err := os.WriteFile(file, []byte(strings.Replace(withPlugin, "key: key.pem", "key: key.pem, "+
				keys, 1)), 0o600); err != nil {
				t.Fatal(err)
			}
			served := filepath.Join(dir, "served", "foobar.zip")
			if err := errors.Join(os.Mkdir(filepath.Dir(served), 0o755), os.WriteFile(served,
				[]byte("the old bundle"), 0o644)); err != nil {
				t.Fatal(err)
			}
			is := func(want string) {
				t.Helper()
				if data, err := os.ReadFile(served); err != nil ||
					(string(data) == "the old bundle") != (want == "old") {
					t.Errorf("served: %v, %d bytes, want the %s bundle", err, len(data), want)
				}
			}
			u := prepared(t, file, nil, CheckPreflight)
			_, err := step(t, u, TargetPlugin)
			var rep *rollout.Report
			if err != nil {
				t.Fatal(err)
			}
			is("old") // nothing is published while something can still refuse
			if rep, err = step(t, u, TargetBundle); err != nil {
				t.Fatal(err)
			}
			is("new")
			var note publishNote
			if err := json.Unmarshal(rep.Saved(TargetBundle, "publish"), &note); err != nil ||
				note.URL != srv.URL+"/foobar.zip" {
				t.Errorf("%+v, %v", note, err)
			}
			if err := undo(t, u, TargetBundle); err != nil {
				t.Fatal(err)
			}
			is("old")
			if _, err = step(t, u, TargetBundle); err != nil {
				t.Fatal(err)
			}
			is("new")
			if err := u.acceptBundle(t.Context(), u.bundles()[0]); err != nil {
				t.Fatal(err)
			}
			for _, pattern := range []string{"served/.*", "bundles/*.before-upgrade"} {
				if left, _ := filepath.Glob(filepath.Join(dir, pattern)); len(left) > 0 &&
					!strings.HasSuffix(left[0], ".lock") {
					t.Errorf("left after accepting: %v", left)
				}
			}
		})
	}
}

// A bundle is published only with the detached signature of the key that the file names. Without a
// private key here somebody else signs it.
func TestPublishNeedsASignature(t *testing.T) {
	t.Parallel()
	for name, keys := range map[string]string{
		"by a command":            `publish: [cp, "{file}", "DIR/served/{name}"]`,
		"into a served directory": "serve: served",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			file := write(t, "")
			dir := filepath.Dir(file)
			keys := strings.ReplaceAll(keys, "DIR", dir)
			text := strings.Replace(withPlugin, "key: key.pem", "verify_key: pub.pem, "+keys, 1)
			key, err := privateKey(filepath.Join(dir, "key.pem"))
			if err != nil {
				t.Fatal(err)
			}
			public, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
			if err != nil {
				t.Fatal(err)
			}
			served := filepath.Join(dir, "served", "foobar.zip")
			if err := errors.Join(os.WriteFile(file, []byte(text), 0o600), os.Mkdir(filepath.Dir(served),
				0o755), os.WriteFile(served, []byte("old"), 0o644), os.WriteFile(filepath.Join(dir,
				"pub.pem"), pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: public}),
				0o600)); err != nil {
				t.Fatal(err)
			}
			u := prepared(t, file, nil, CheckPreflight, CheckPublish)
			if _, err := step(t, u, TargetPlugin); err != nil {
				t.Fatal(err)
			}
			zip := filepath.Join(dir, "bundles", "foobar.zip")
			refused := func(want string) {
				t.Helper()
				_, err := step(t, u, TargetBundle)
				if data, rerr := os.ReadFile(served); err == nil || !strings.Contains(err.Error(), want) ||
					string(data) != "old" || rerr != nil {
					t.Errorf("%v, and %q is served, %v", err, data, rerr)
				}
			}
			refused("openssl dgst -sha256 -sign KEY " + zip)
			other, err := otherKey()
			if err != nil {
				t.Fatal(err)
			}
			if err := bundle.SignFile(t.Context(), zip, other); err != nil {
				t.Fatal(err)
			}
			refused("check that the key is the signer's")
			if err := bundle.SignFile(t.Context(), zip, key); err != nil {
				t.Fatal(err)
			}
			if _, err := step(t, u, TargetBundle); err != nil {
				t.Fatal(err)
			}
			if data, err := os.ReadFile(served); err != nil || string(data) == "old" {
				t.Errorf("a signed bundle is not published: %v", err)
			}
		})
	}
}

// A bundle server that has something else refuses before the first host.
func TestPublishedByHand(t *testing.T) {
	t.Parallel()
	srv := httptest.NewServer(http.NotFoundHandler())
	defer srv.Close()
	u := prepared(t, write(t, strings.Replace(withPlugin, "key: key.pem", `key: key.pem, url: "`+
		srv.URL+`"`, 1)), nil, CheckPreflight)
	if _, err := step(t, u, TargetPlugin); err != nil {
		t.Fatal(err)
	}
	_, err := step(t, u, TargetBundle)
	if err == nil || !strings.Contains(err.Error(), "under the name foobar.zip, keep the old "+
		"file, and resume") {
		t.Errorf("error %v", err)
	}
}

// A build that changes, or another hook, makes another bundle.
func TestBundleFollowsThePlugin(t *testing.T) {
	t.Parallel()
	file := write(t, withPlugin)
	u := prepared(t, file, nil, CheckPreflight)
	sum := func() string {
		t.Helper()
		rep, err := step(t, u, TargetPlugin)
		if err != nil {
			t.Fatal(err)
		}
		var note bundleNote
		if err := json.Unmarshal(rep.Saved(TargetPlugin, "bundle"), &note); err != nil || !note.Signed {
			t.Fatal(err)
		}
		if s := bundleStatus(rep, TargetPlugin); !s.OK {
			t.Error(s.Error)
		}
		return note.SHA256
	}
	first := sum()
	if again := sum(); again != first {
		t.Error("the same builds made another bundle")
	}
	if err := os.WriteFile(filepath.Join(filepath.Dir(file), "plugin_v5.2.5_linux_amd64.so"),
		object("changed"), 0o600); err != nil {
		t.Fatal(err)
	}
	second := sum()
	u.Plugin.Function.Hook = "pre" // whoever corrects the file and resumes gets what it says now
	if third := sum(); first == second || second == third {
		t.Errorf("bundles %s, %s, %s", first, second, third)
	}
}
