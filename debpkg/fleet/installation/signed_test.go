package installation

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"

	"example.com/tykupgrade/backup"
)

// A set is signed, and one without the signature that the file demands is neither used nor
// restored.
func TestSignedSets(t *testing.T) {
	t.Parallel()
	file := write(t, "")
	dir := filepath.Dir(file)
	d := &data{file: file, conf: filepath.Join(dir, "tyk.conf")}
	d.write(t, d.conf, "before")
	pair := func(name string) {
		t.Helper()
		public, private, err1 := ed25519.GenerateKey(rand.Reader)
		block, err2 := ssh.MarshalPrivateKey(private, "")
		key, err3 := ssh.NewPublicKey(public)
		if err := errors.Join(err1, err2, err3); err != nil {
			t.Fatal(err)
		}
		d.write(t, filepath.Join(dir, name), string(pem.EncodeToMemory(block)))
		d.write(t, filepath.Join(dir, name+".pub"), string(ssh.MarshalAuthorizedKey(key)))
	}
	pair("ours")
	pair("theirs")
	section := func(text string) {
		d.write(t, file, "versions: {gateway: 5.2.5}\nhosts: [{name: g1, address: local, "+
			"component: gateway, "+
			"package: tykupgrade-no-such-package}]\nbackup: {dir: sets, paths: ["+d.conf+"]"+text+"}\n")
	}
	section("")
	plain, err := d.take(t, nil)
	if err != nil {
		t.Fatal(err)
	}
	forget := func() {
		t.Helper()
		if err := os.Remove(filepath.Join(dir, TargetBackup+".journal")); err != nil {
			t.Fatal(err)
		}
	}
	forget()
	for text, want := range map[string]string{
		", require_signature: ours.pub":                         "a new set needs backup.sign",
		", sign: ours.pub":                                      "not a private key",
		", sign: theirs, require_signature: ours.pub":           "signed it",
		", set: latest, require_signature: none":                "none: no such file",
		", set: " + plain.Dir + ", require_signature: ours.pub": "the set is not signed",
	} {
		section(text)
		if _, err := d.take(t, nil); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", text, err)
		}
	}
	section(", sign: ours, require_signature: ours.pub")
	note, err := d.take(t, nil)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := d.take(t, nil); err != nil || again.Dir != note.Dir {
		t.Errorf("a signed set is not trusted: %+v %v", again, err)
	}
	d.write(t, d.conf, "after")
	u := prepared(t, file, nil)
	if _, err := restore(t, u, plain, "config"); !errors.Is(err, backup.ErrUnsafe) {
		t.Errorf("a set that nobody signed: %v", err)
	}
	if text, _ := os.ReadFile(d.conf); string(text) != "after" {
		t.Errorf("restored: %s", text)
	}
	if _, err := restore(t, u, note, "config"); err != nil {
		t.Error(err)
	}
	if text, _ := os.ReadFile(d.conf); string(text) != "before" {
		t.Errorf("not restored: %s", text)
	}
	// The set of the run loses its signature: it is not restored, and another is taken.
	if err := os.Remove(filepath.Join(note.Dir, "manifest.json.sig")); err != nil {
		t.Fatal(err)
	}
	u.Journal = filepath.Join(dir, TargetBackup+".journal")
	if _, _, err := u.Restorable(t.Context(), []string{"config"}); !errors.Is(err, ErrRefused) ||
		!errors.Is(err, backup.ErrUnsafe) {
		t.Errorf("restorable without its signature: %v", err)
	}
	if again, err := d.take(t, nil); err != nil || again.Dir == note.Dir {
		t.Errorf("a set without its signature is trusted: %+v %v", again, err)
	}
}
