package backup_test

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"filippo.io/age"
	"golang.org/x/crypto/ssh"

	"example.com/tykupgrade/backup"
	"example.com/tykupgrade/internal/lab"
)

// Keys are read from the files that ssh-keygen writes: of each kind the private one signs,
// and the public one is that which is required.
func TestReadKeys(t *testing.T) {
	t.Parallel()
	keygen := lab.Program(t, "ssh-keygen", "openssh-client")
	dir := t.TempDir()
	for _, kind := range []string{"ed25519", "ecdsa", "rsa"} {
		path := filepath.Join(dir, kind)
		bits := map[string]string{"ed25519": "256", "ecdsa": "256", "rsa": "2048"}[kind]
		if out, err := exec.CommandContext(t.Context(), keygen, "-q", "-t", kind, "-b", bits, "-N", "",
			"-f", path).CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		key, err := backup.ReadSigner(path)
		if err != nil {
			t.Errorf("%s: %v", kind, err)
			continue
		}
		public, err := os.ReadFile(path + ".pub")
		if err != nil {
			t.Fatal(err)
		}
		set := signedSet(t, key)
		for form, text := range map[string]string{"a .pub file": string(public),
			"allowed signers": "# ours\n\nme@example.com " + string(public)} {
			file := filepath.Join(dir, "keys")
			if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
			keys, err := backup.ReadPublicKeys(file)
			if err == nil {
				err = set.VerifySignature(keys...)
			}
			if err != nil {
				t.Errorf("%s, %s: %v", kind, form, err)
			}
		}
	}
}

// A key that others know, or a list of keys that others could change, is refused, and no
// error holds a key.
func TestBadKeys(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	keygen := lab.Program(t, "ssh-keygen", "openssh-client")
	text := map[string]string{} // of the files
	for name, passphrase := range map[string]string{"open": "", "locked": "sesame"} {
		path := filepath.Join(dir, name)
		if out, err := exec.CommandContext(t.Context(), keygen, "-q", "-t", "ed25519", "-a", "1", "-N",
			passphrase, "-f", path).CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		for _, file := range []string{name, name + ".pub"} {
			data, err := os.ReadFile(filepath.Join(dir, file))
			if err != nil {
				t.Fatal(err)
			}
			text[file] = string(data)
		}
	}
	private, line := text["open"], text["open.pub"]
	secret := strings.Split(private, "\n")[2]
	signer := func(path string) error { _, err := backup.ReadSigner(path); return err }
	list := func(path string) error { _, err := backup.ReadPublicKeys(path); return err }
	for name, c := range map[string]struct {
		read   func(string) error
		text   string
		mode   os.FileMode
		want   string
		unsafe bool
	}{
		"readable":          {signer, private, 0o640, "others may read it", true},
		"writable":          {signer, private, 0o602, "others could change it", true},
		"a passphrase":      {signer, text["locked"], 0o600, "ssh-keygen -Y sign", false},
		"a public key":      {signer, line, 0o600, "not a private key of OpenSSH", false},
		"cut":               {signer, private[:len(private)/2], 0o600, "not a private key of OpenSSH", false},
		"empty":             {list, "\n# none\n", 0o644, "it contains no key", false},
		"a private key":     {list, private, 0o644, "line 1 is not a public key", false},
		"one line is wrong": {list, line + "ssh-ed25519 AAAA\n", 0o644, "line 2", false},
		"an authority":      {list, "cert-authority " + line, 0o644, "line 1", false},
		"options":           {list, "namespaces=\"file\" " + line, 0o644, "line 1", false},
		"writable list":     {list, line, 0o666, "others could change it", true},
	} {
		path := filepath.Join(t.TempDir(), "key")
		if err := errors.Join(os.WriteFile(path, []byte(c.text), 0o600),
			os.Chmod(path, c.mode)); err != nil {
			t.Fatal(err)
		}
		err := c.read(path)
		if err == nil || !strings.Contains(err.Error(), c.want) || errors.Is(err,
			backup.ErrUnsafe) != c.unsafe || strings.Contains(err.Error(), secret) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := list(filepath.Join(dir, "none")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
}

// Keys that somebody else could exchange trust nobody: neither the file nor a directory above it
// may be another user's.
func TestKeysOfOthers(t *testing.T) {
	t.Parallel()
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	block, err := ssh.MarshalPrivateKey(private, "")
	if err != nil {
		t.Fatal(err)
	}
	public, err := ssh.NewPublicKey(private.Public())
	if err != nil {
		t.Fatal(err)
	}
	up := filepath.Dir
	for name, spoil := range map[string]func(path string) error{
		"":                        func(string) error { return nil },
		"somebody else's":         func(path string) error { return os.Chown(path, 65534, 0) },
		"somebody else's above":   func(path string) error { return os.Chown(up(path), 65534, 0) },
		"writable above":          func(path string) error { return os.Chmod(up(path), 0o777) },
		"writable further above":  func(path string) error { return os.Chmod(up(up(path)), 0o777) },
		"writable behind a link":  linked(0o777),
		"protected behind a link": linked(0o755),
	} {
		if os.Geteuid() != 0 && strings.HasPrefix(name, "somebody") {
			continue
		}
		good := name == "" || strings.HasPrefix(name, "protected")
		dir := filepath.Join(t.TempDir(), "a")
		path := filepath.Join(dir, "key")
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		for _, c := range []struct {
			text []byte
			read func() error
		}{
			{pem.EncodeToMemory(block), func() error { _, err := backup.ReadSigner(path); return err }},
			{ssh.MarshalAuthorizedKey(public), func() error {
				_, err := backup.ReadPublicKeys(path)
				return err
			}},
		} {
			if err := errors.Join(os.WriteFile(path, c.text, 0o600), spoil(path)); err != nil {
				t.Fatal(err)
			}
			if err := c.read(); (err == nil) != good || !good && !errors.Is(err, backup.ErrUnsafe) {
				t.Errorf("%q: %v", name, err)
			}
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// linked puts a link in the place of a file, which it moves to a directory with this mode.
func linked(mode os.FileMode) func(string) error {
	return func(path string) error {
		dir := filepath.Join(filepath.Dir(filepath.Dir(path)), fmt.Sprintf("b%o", mode))
		real := filepath.Join(dir, "key")
		return errors.Join(os.MkdirAll(dir, 0o755), os.Chmod(dir, mode), os.Rename(path, real),
			os.Symlink(real, path))
	}
}

func TestParseRecipients(t *testing.T) {
	t.Parallel()
	key, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	to := key.Recipient().String()
	if got, err := backup.ParseRecipients(to, to); err != nil || len(got) != 2 {
		t.Errorf("%v, %v", got, err)
	}
	if got, err := backup.ParseRecipients(); err != nil || got != nil {
		t.Errorf("%v, %v", got, err)
	}
	for _, bad := range []string{"", "x", to[1:]} {
		if got, err := backup.ParseRecipients(to, bad); err == nil || got != nil ||
			!strings.HasPrefix(err.Error(), fmt.Sprintf("recipient %q: ", bad)) {
			t.Errorf("%q: %v, %v", bad, got, err)
		}
	}
	// A pasted identity is secret.
	for _, secret := range []string{key.String(), " " + strings.ToLower(key.String())} {
		if _, err := backup.ParseRecipients(secret); err == nil || strings.Contains(
			strings.ToUpper(err.Error()), "AGE-SECRET") {
			t.Error(err)
		}
	}
}
