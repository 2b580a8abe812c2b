package backup_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/pem"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"golang.org/x/crypto/ssh"

	"example.com/tykupgrade/backup"
	"example.com/tykupgrade/backup/backuptest"
	"example.com/tykupgrade/internal/lab"
)

func signers(t *testing.T) map[string]crypto.Signer {
	t.Helper()
	_, ed, err1 := ed25519.GenerateKey(rand.Reader)
	ec, err2 := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	old, err3 := rsa.GenerateKey(rand.Reader, 2048)
	if err := errors.Join(err1, err2, err3); err != nil {
		t.Fatal(err)
	}
	return map[string]crypto.Signer{"ed25519": ed, "ecdsa": ec, "rsa": old}
}

func signedSet(t *testing.T, key crypto.Signer) *backup.Set {
	t.Helper()
	set, err := backup.Take(t.Context(), t.TempDir(), backup.Options{Signer: key}, text("a", "x"))
	if err != nil {
		t.Fatal(err)
	}
	return set
}

// Only a set that a given key signed is restored, with every kind of key, and
// ssh-keygen agrees.
func TestSignature(t *testing.T) {
	t.Parallel()
	keygen := lab.Program(t, "ssh-keygen", "openssh-client")
	keys := signers(t)
	_, stranger, _ := ed25519.GenerateKey(rand.Reader)
	for name, key := range keys {
		set := signedSet(t, key)
		for what, c := range map[string]struct {
			keys []crypto.PublicKey
			ok   bool
		}{
			"the author's key":     {[]crypto.PublicKey{stranger.Public(), key.Public()}, true},
			"another key":          {[]crypto.PublicKey{stranger.Public()}, false},
			"something else":       {[]crypto.PublicKey{"a password"}, false},
			"no signature is fine": {nil, true},
		} {
			_, err := set.Restore(t.Context(), backup.RestoreOptions{RequireSignature: c.keys},
				restorer{name: "a"})
			if (err == nil) != c.ok || err != nil && !errors.Is(err, backup.ErrUnsafe) {
				t.Errorf("%s, %s: %v", name, what, err)
			}
		}
		if err := set.VerifySignature(); !errors.Is(err, backup.ErrUnsafe) {
			t.Errorf("without keys: %v", err)
		}
		allowed := filepath.Join(t.TempDir(), "allowed")
		public, err := ssh.NewPublicKey(key.Public())
		if err == nil {
			err = os.WriteFile(allowed, append([]byte("me "), ssh.MarshalAuthorizedKey(public)...), 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
		manifest, err := os.Open(filepath.Join(set.Dir, "manifest.json"))
		if err != nil {
			t.Fatal(err)
		}
		defer manifest.Close()
		cmd := exec.CommandContext(t.Context(), keygen, "-Y", "verify", "-f", allowed, "-I", "me", "-n",
			backup.SignatureNamespace, "-s", "manifest.json.sig")
		cmd.Dir, cmd.Stdin = set.Dir, manifest
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%s: ssh-keygen: %v\n%s", name, err, out)
		}
	}
}

// ssh-keygen signs a set that nobody signed.
func TestSignedByTool(t *testing.T) {
	t.Parallel()
	keygen := lab.Program(t, "ssh-keygen", "openssh-client")
	set := takePlain(t, t.TempDir(), text("a", "x"))
	_, key, _ := ed25519.GenerateKey(rand.Reader)
	if err := set.VerifySignature(key.Public()); !errors.Is(err, backup.ErrUnsafe) {
		t.Errorf("not signed: %v", err)
	}
	block, err := ssh.MarshalPrivateKey(key, "")
	file := filepath.Join(t.TempDir(), "key")
	if err == nil {
		err = os.WriteFile(file, pem.EncodeToMemory(block), 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	sign := func(namespace string) {
		t.Helper()
		_ = os.Remove(filepath.Join(set.Dir, "manifest.json.sig"))
		cmd := exec.CommandContext(t.Context(), keygen, "-Y", "sign", "-f", file, "-n", namespace,
			"manifest.json")
		cmd.Dir = set.Dir
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	}
	sign("file") // the signature of another protocol
	if err := set.VerifySignature(key.Public()); !errors.Is(err, backup.ErrUnsafe) {
		t.Errorf("another namespace: %v", err)
	}
	sign(backup.SignatureNamespace)
	if err := set.VerifySignature(key.Public()); err != nil {
		t.Error(err)
	}
	if err := set.Verify(t.Context(), backup.VerifyOptions{}); err != nil {
		t.Error(err)
	}
}

// A signature belongs to one manifest, and every change of either is found.
func TestForgedSignature(t *testing.T) {
	t.Parallel()
	_, key, _ := ed25519.GenerateKey(rand.Reader)
	set := signedSet(t, key)
	other := signedSet(t, key)
	file := filepath.Join(set.Dir, "manifest.json.sig")
	good, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	foreign, err := os.ReadFile(filepath.Join(other.Dir, "manifest.json.sig"))
	if err != nil {
		t.Fatal(err)
	}
	for i, bad := range append([][]byte{foreign, nil, good[:len(good)/2]}, flips(good)...) {
		if err := os.WriteFile(file, bad, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := set.VerifySignature(key.Public()); !errors.Is(err, backup.ErrUnsafe) {
			t.Errorf("signature %d: %v\n%s", i, err, bad)
		}
		if err := set.Verify(t.Context(), backup.VerifyOptions{}); !errors.Is(err, backup.ErrDamaged) {
			t.Errorf("signature %d passes Verify: %v", i, err)
		}
	}
	// Signing again repairs it, and a later manifest is not covered.
	if err := set.Sign(t.Context(), key); err != nil {
		t.Fatal(err)
	}
	if err := set.VerifySignature(key.Public()); err != nil {
		t.Error(err)
	}
	manifest, err := os.ReadFile(filepath.Join(set.Dir, "manifest.json"))
	if err == nil {
		err = os.WriteFile(filepath.Join(set.Dir, "manifest.json"), bytes.Replace(manifest, []byte("{"),
			[]byte("{ "), 1), 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := set.VerifySignature(key.Public()); !errors.Is(err, backup.ErrUnsafe) {
		t.Errorf("a changed manifest: %v", err)
	}
}

// flips changes one character of each part of a signature's text.
func flips(text []byte) (out [][]byte) {
	for i := 0; i < len(text); i += 7 {
		if text[i] == '\n' || text[i] == '=' {
			continue
		}
		bad := bytes.Clone(text)
		if bad[i]++; bad[i] == 'Z'+1 || bad[i] == 'z'+1 || bad[i] == ':' {
			bad[i] = 'A'
		}
		out = append(out, bad)
	}
	return out
}

// The signature travels with an export, and Import keeps it.
func TestSignatureTravels(t *testing.T) {
	t.Parallel()
	_, key, _ := ed25519.GenerateKey(rand.Reader)
	set := signedSet(t, key)
	path := filepath.Join(t.TempDir(), "set.tar.zst")
	if err := set.Export(t.Context(), path, backup.ExportOptions{}); err != nil {
		t.Fatal(err)
	}
	in, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	again, err := backup.Import(t.Context(), t.TempDir(), in,
		backup.ImportOptions{RequireSignature: []crypto.PublicKey{key.Public()}})
	if err != nil {
		t.Fatal(err)
	}
	if err := again.VerifySignature(key.Public()); err != nil {
		t.Error(err)
	}
	// One that somebody else signed is not taken, and nothing of it is left.
	_, stranger, _ := ed25519.GenerateKey(rand.Reader)
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if _, err := backup.Import(t.Context(), dir, bytes.NewReader(data),
		backup.ImportOptions{RequireSignature: []crypto.PublicKey{stranger.Public()}}); !errors.Is(err,
		backup.ErrUnsafe) {
		t.Errorf("a stranger's key: %v", err)
	}
	if left := backuptest.Leftovers(t, dir); len(left) > 0 {
		t.Errorf("left %v", left)
	}
}
