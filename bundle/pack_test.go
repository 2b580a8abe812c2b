package bundle_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/Masterminds/semver/v3"

	"example.com/tykupgrade/bundle"
)

func TestWriteUpgrade(t *testing.T) {
	t.Parallel()
	key, err := bundle.ParsePrivateKey(privatePEM)
	if err != nil {
		t.Fatal(err)
	}
	src := files("old/auth.so", "new/auth.so", "old/tail.so", "new/tail_v5.2.5_linux_amd64.so",
		"users.txt")
	m := goManifest("auth.so", "tail.so")
	m.FileList = append(m.FileList, "users.txt")
	m.Middleware.Post, m.Middleware.Response = m.Middleware.Post[:1], []bundle.Hook{{Name: "R",
		Path: "tail.so"}}
	u := bundle.Upgrade{From: semver.MustParse("4.0.8"), To: semver.MustParse("5.2.5"),
		Plugins: []bundle.Plugin{
			{Current: "old/auth.so", Target: "new/auth.so"}, {Current: "old/tail.so",
				Target: "new/tail_v5.2.5_linux_amd64.so"}}}
	path := filepath.Join(t.TempDir(), "a.zip")
	r, err := bundle.WriteUpgrade(t.Context(), path, src, m, u, bundle.Options{Signer: key})
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(r.Loads["4.0.8"], " ") + " | " + strings.Join(r.Loads["5.2.5"],
		" "); got != "auth.so tail.so | auth_v5.2.5_linux_amd64.so tail_v5.2.5_linux_amd64.so" {
		t.Errorf("loads %s", got)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	// Compare the written bundle: digest, manifest and signature.
	if _, err := verify(data, bundle.VerifyOptions{Key: &key.PublicKey, SHA256: r.SHA256,
		Expect: r.Manifest}); err != nil {
		t.Error(err)
	}
	// Bad input leaves nothing and keeps an earlier bundle.
	u.Plugins[0].Target = "new/none.so"
	_, err = bundle.WriteUpgrade(t.Context(), path, src, m, u, bundle.Options{})
	if now, _ := os.ReadFile(path); err == nil || !bytes.Equal(now, data) {
		t.Errorf("a file that is not there: %v", err)
	}
	if entries, _ := os.ReadDir(filepath.Dir(path)); len(entries) != 1 {
		t.Errorf("left %v", entries)
	}
}

// Attacks that Tyk's signature does not see.
func TestExpectations(t *testing.T) {
	t.Parallel()
	key, err := bundle.ParsePrivateKey(privatePEM)
	if err != nil {
		t.Fatal(err)
	}
	write := func(m *bundle.Manifest, names ...string) []byte {
		t.Helper()
		var b bytes.Buffer
		if _, err := bundle.Write(&b, files(names...), m, bundle.Options{Signer: key}); err != nil {
			t.Fatal(err)
		}
		return b.Bytes()
	}
	m := goManifest("a.so", "b.so")
	m.Middleware.AuthCheck = bundle.Hook{Name: "Auth", Path: "a.so"}
	good := write(m, "a.so", "b.so")
	m2 := goManifest("a.so", "b.so") // without the authentication
	forged := write(m2, "a.so", "b.so")
	signature, err := bundle.SignDetached(bytes.NewReader(good), key)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := verify(forged, bundle.VerifyOptions{Key: &key.PublicKey}); err != nil {
		t.Errorf("the forged bundle has the very files, so Tyk's signature holds: %v", err)
	}
	if _, err := verify(forged, bundle.VerifyOptions{Key: &key.PublicKey, Expect: m}); !errors.Is(err,
		bundle.ErrExpected) {
		t.Errorf("manifest: %v", err)
	}
	digest := digestOf(good)
	if _, err := verify(forged, bundle.VerifyOptions{SHA256: digest}); !errors.Is(err,
		bundle.ErrExpected) {
		t.Errorf("digest: %v", err)
	}
	dir := filepath.Join(t.TempDir(), "x")
	if err := extract(t.Context(), forged, dir, bundle.VerifyOptions{Expect: m}); !errors.Is(err,
		bundle.ErrExpected) {
		t.Errorf("extract: %v", err)
	}
	if _, err := os.Stat(dir); err == nil {
		t.Error("extract made the directory")
	}
	if _, err := verify(good, bundle.VerifyOptions{Key: &key.PublicKey, Expect: m,
		SHA256: strings.ToUpper(digest)}); err != nil {
		t.Errorf("the good one: %v", err)
	}
	for name, c := range map[string]struct {
		zip       []byte
		signature string
		want      error
	}{"good": {good, signature + "\n", nil}, "forged": {forged, signature, bundle.ErrSignature},
		"none": {good, "", bundle.ErrUnsigned}, "no base64": {good, "??", bundle.ErrSignature}} {
		if err := bundle.VerifyDetached(bytes.NewReader(c.zip), c.signature,
			&key.PublicKey); c.want == nil && err != nil || !errors.Is(err, c.want) {
			t.Errorf("detached, %s: %v", name, err)
		}
	}
}
