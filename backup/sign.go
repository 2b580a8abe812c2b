package backup

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rand"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"golang.org/x/crypto/ssh"

	"example.com/tykupgrade/backup/internal/step"
	"example.com/tykupgrade/internal/atomicfile"
)

// SignatureNamespace is the namespace of a set's signature, for ssh-keygen's option -n.
const SignatureNamespace = "tykupgrade.set"

// signatureName is the file to which ssh-keygen -Y sign writes the signature of the manifest.
const signatureName = step.ManifestName + ".sig"

const (
	signatureMagic = "SSHSIG" // of OpenSSH's PROTOCOL.sshsig
	signatureArmor = "SSH SIGNATURE"
)

// signatureBlob is the signature file without its armor and magic.
type signatureBlob struct {
	Version                              uint32
	Key, Namespace, Reserved, Hash, Sign string
}

// signedBlob is what the key signs, after the magic.
type signedBlob struct{ Namespace, Reserved, Hash, Digest string }

func signed(b signatureBlob, message []byte) ([]byte, error) {
	var digest []byte
	switch b.Hash {
	case "sha512":
		sum := sha512.Sum512(message)
		digest = sum[:]
	case "sha256":
		sum := sha256.Sum256(message)
		digest = sum[:]
	default:
		return nil, fmt.Errorf("unknown hash %q", b.Hash)
	}
	return append([]byte(signatureMagic), ssh.Marshal(signedBlob{b.Namespace, b.Reserved, b.Hash,
		string(digest)})...), nil
}

// Sign writes manifest.json.sig into the set. The manifest has the digest of every file, so the
// signature covers the whole set. The key is Ed25519, ECDSA or RSA. These commands write and check
// the same file:
//
//	ssh-keygen -Y sign -f KEY -n tykupgrade.set manifest.json
//	ssh-keygen -Y verify -f ALLOWED_SIGNERS -I NAME -n tykupgrade.set -s manifest.json.sig <manifest.json
//
// Sign replaces an earlier signature. It does not read the other files. Call [Set.Verify] first if
// somebody else could have changed the set.
func (s *Set) Sign(ctx context.Context, signer crypto.Signer) error {
	data, err := s.manifestBytes()
	if err == nil {
		err = writeSignature(ctx, s.Dir, signer, data)
	}
	if err != nil {
		return step.Fail("sign", s.Dir, err)
	}
	return nil
}

func writeSignature(ctx context.Context, dir string, signer crypto.Signer, manifest []byte) error {
	key, err := ssh.NewSignerFromSigner(signer)
	if err != nil {
		return err
	}
	b := signatureBlob{Version: 1, Key: string(key.PublicKey().Marshal()),
		Namespace: SignatureNamespace, Hash: "sha512"}
	message, err := signed(b, manifest)
	if err != nil {
		return err
	}
	algorithm := ""
	if key.PublicKey().Type() == ssh.KeyAlgoRSA {
		algorithm = ssh.KeyAlgoRSASHA512 // the default is SHA-1
	}
	with, ok := key.(ssh.AlgorithmSigner)
	if !ok {
		return fmt.Errorf("a key of type %s cannot sign", key.PublicKey().Type())
	}
	signature, err := with.SignWithAlgorithm(rand.Reader, message, algorithm)
	if err != nil {
		return err
	}
	b.Sign = string(ssh.Marshal(signature))
	text := pem.EncodeToMemory(&pem.Block{Type: signatureArmor, Bytes: append([]byte(signatureMagic),
		ssh.Marshal(b)...)})
	_, err = atomicfile.WriteBytes(ctx, filepath.Join(dir, signatureName), atomicfile.Options{}, text)
	return err
}

// VerifySignature checks that one of keys signed the set's manifest. A key is a public key of a
// crypto package, or an ssh.PublicKey of golang.org/x/crypto/ssh. If there is no signature, or
// another key signed, the error matches [ErrUnsafe].
func (s *Set) VerifySignature(keys ...crypto.PublicKey) error {
	refuse := func(err error) error {
		return &Error{Op: "check the signature of", Object: s.Dir, Kind: ErrUnsafe, Err: err,
			Next: "check who made the set; sign it with Set.Sign or ssh-keygen -Y sign"}
	}
	if len(keys) == 0 {
		return refuse(errors.New("no key is given"))
	}
	var trusted []ssh.PublicKey
	for _, k := range keys {
		key, ok := k.(ssh.PublicKey)
		if !ok {
			var err error
			if key, err = ssh.NewPublicKey(k); err != nil {
				return refuse(err)
			}
		}
		trusted = append(trusted, key)
	}
	by, err := s.signedBy()
	if err != nil {
		return refuse(err)
	}
	for _, key := range trusted {
		if bytes.Equal(key.Marshal(), by.Marshal()) {
			return nil
		}
	}
	return refuse(fmt.Errorf("another key signed it: %s", ssh.FingerprintSHA256(by)))
}

// signedBy returns the key that signed the manifest. The error matches fs.ErrNotExist
// if there is no signature.
func (s *Set) signedBy() (ssh.PublicKey, error) {
	text, err := readBounded(filepath.Join(s.Dir, signatureName))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("the set is not signed: %w", fs.ErrNotExist)
	}
	if err != nil {
		return nil, err
	}
	data, err := s.manifestBytes()
	if err != nil {
		return nil, err
	}
	key, err := parseSignature(text, data)
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrDamaged, signatureName, err)
	}
	return key, nil
}

// parseSignature checks a signature against the key that it names.
func parseSignature(text, message []byte) (ssh.PublicKey, error) {
	block, rest := pem.Decode(text)
	if block == nil || block.Type != signatureArmor || len(bytes.TrimSpace(rest)) > 0 {
		return nil, errors.New("it is not a signature of ssh-keygen")
	}
	raw, ok := bytes.CutPrefix(block.Bytes, []byte(signatureMagic))
	var b signatureBlob
	if err := ssh.Unmarshal(raw, &b); !ok || err != nil || b.Version != 1 {
		return nil, errors.New("it is not a signature of ssh-keygen, version 1")
	}
	if b.Namespace != SignatureNamespace {
		return nil, fmt.Errorf("its namespace is %.40q (want %q)", b.Namespace, SignatureNamespace)
	}
	key, err := ssh.ParsePublicKey([]byte(b.Key))
	if err != nil {
		return nil, err
	}
	var sig ssh.Signature
	if err := ssh.Unmarshal([]byte(b.Sign), &sig); err != nil {
		return nil, err
	}
	if sig.Format == ssh.KeyAlgoRSA {
		return nil, errors.New("it uses SHA-1")
	}
	data, err := signed(b, message)
	if err != nil {
		return nil, err
	}
	return key, key.Verify(data, &sig)
}

// manifestBytes reads the manifest again and checks that it has not changed since the set was
// opened.
func (s *Set) manifestBytes() ([]byte, error) {
	data, err := readBounded(filepath.Join(s.Dir, step.ManifestName))
	if err == nil && sha256.Sum256(data) != s.sum {
		err = fmt.Errorf("%w: %s changed since the set was opened", ErrDamaged, step.ManifestName)
	}
	return data, err
}
