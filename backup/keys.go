package backup

import (
	"bytes"
	"crypto"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"filippo.io/age"
	"golang.org/x/crypto/ssh"

	"example.com/tykupgrade/backup/internal/step"
)

// ReadSigner reads an OpenSSH private key for [Options].Signer and [Set.Sign]: Ed25519, ECDSA or
// RSA, without a passphrase. If others may read the file, the error matches [ErrUnsafe]. No error
// contains any part of the key.
func ReadSigner(path string) (crypto.Signer, error) {
	fail := func(kind, err error, next string) (crypto.Signer, error) {
		return nil, &Error{Op: "read the key", Object: path, Kind: kind, Err: err, Next: next}
	}
	data, info, err := readKeys(path)
	if errors.Is(err, errOthers) {
		return fail(ErrUnsafe, err, "use another key")
	}
	if err != nil {
		return fail(nil, err, "")
	}
	if info.Mode().Perm()&0o077 != 0 {
		return fail(ErrUnsafe, errors.New("others may read it"), "chmod 600 "+path)
	}
	key, err := ssh.ParseRawPrivateKey(data)
	var locked *ssh.PassphraseMissingError
	switch k := key.(type) {
	case *ed25519.PrivateKey: // its pointer is what the library returns
		return *k, nil
	case crypto.Signer:
		return k, nil
	}
	if errors.As(err, &locked) {
		return fail(nil, errors.New("it has a passphrase"), "sign the set afterwards with ssh-keygen "+
			"-Y sign, which asks for it, or use a key without one")
	}
	return fail(nil, errors.New("it is not a private key of OpenSSH: Ed25519, ECDSA or RSA"),
		"make one with ssh-keygen -t ed25519")
}

// ReadPublicKeys reads keys for [RestoreOptions].RequireSignature. Lines have the format of
// id_ed25519.pub, of authorized_keys or of ssh-keygen's allowed signers. Blank lines and comments
// are ignored. Any other line is an error, and so is a file without a key.
func ReadPublicKeys(path string) ([]crypto.PublicKey, error) {
	fail := func(err error) ([]crypto.PublicKey, error) {
		e := &Error{Op: "read the keys", Object: path, Err: err,
			Next: "use the .pub file of the key that signs sets"}
		if errors.Is(err, errOthers) {
			e.Kind, e.Next = ErrUnsafe, "check its keys, then move it where only you can write"
		}
		return nil, e
	}
	data, _, err := readKeys(path)
	if err != nil {
		return fail(err)
	}
	var keys []crypto.PublicKey
	n := 0
	for line := range bytes.Lines(data) {
		n++
		line = bytes.TrimSpace(line)
		if len(line) == 0 || line[0] == '#' {
			continue
		}
		key, _, before, _, err := ssh.ParseAuthorizedKey(line)
		// A line of allowed signers begins with the owner of the key, which parses like
		// options.
		if err != nil || slices.ContainsFunc(before, func(s string) bool {
			return s == "cert-authority" || strings.Contains(s, "=")
		}) {
			return fail(fmt.Errorf("line %d is not a public key of OpenSSH without options", n))
		}
		keys = append(keys, key)
	}
	if len(keys) == 0 {
		return fail(errors.New("it contains no key"))
	}
	return keys, nil
}

// ReadIdentities reads age identities, as age-keygen writes them, for
// [ImportOptions].Identities. No error contains an identity.
func ReadIdentities(path string) ([]age.Identity, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, &Error{Op: "read the identity", Object: path, Err: err}
	}
	defer f.Close()
	all, err := age.ParseIdentities(f)
	if err != nil {
		return nil, &Error{Op: "read the identity", Object: path,
			Err: errors.New("it is not an identity of age"), Next: "make one with age-keygen"}
	}
	return all, nil
}

// ParseRecipients parses age recipients, such as age1…, for [ExportOptions].Recipients. The error
// quotes an invalid recipient, but never an identity, which is secret.
func ParseRecipients(list ...string) ([]age.Recipient, error) {
	var all []age.Recipient
	for _, s := range list {
		if strings.HasPrefix(strings.ToUpper(strings.TrimSpace(s)), "AGE-SECRET-KEY-") {
			return nil, errors.New("recipient: it is an identity, which is secret (want age1…)")
		}
		r, err := age.ParseX25519Recipient(s)
		if err != nil {
			return nil, fmt.Errorf("recipient %q: %w", s, err)
		}
		all = append(all, r)
	}
	return all, nil
}

// readKeys reads a file of trusted keys. Nobody else may be able to write it.
func readKeys(path string) ([]byte, fs.FileInfo, error) {
	abs, err := filepath.Abs(path)
	if err == nil {
		abs, err = filepath.EvalSymlinks(abs)
	}
	if err != nil {
		return nil, nil, err
	}
	f, err := step.OpenRegular(abs)
	if err != nil {
		return nil, nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err == nil {
		err = errors.Join(ownAlone(abs, info, false), ownAbove(abs))
	}
	if err != nil {
		return nil, nil, err
	}
	const limit = 1 << 20
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && len(data) > limit {
		err = errors.New("it is too large for keys")
	}
	return data, info, err
}
