package bundle

import (
	"crypto"
	"crypto/md5"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"hash"
	"io"
	"reflect"
)

const (
	acceptedPrivate = "an unencrypted RSA private key in PEM is accepted, PKCS#1 (BEGIN RSA PRIVATE " +
		"KEY) or PKCS#8 (BEGIN PRIVATE KEY)"
	acceptedPublic = "an RSA public key in PEM is accepted, PKIX (BEGIN PUBLIC KEY) or PKCS#1 " +
		"(BEGIN RSA PUBLIC KEY)"
)

// ParsePrivateKey reads an RSA key for [Options.Signer] in PEM form, as PKCS#1 or PKCS#8. The key
// must not be encrypted. Errors match [ErrKey] and hold no part of the key.
func ParsePrivateKey(data []byte) (*rsa.PrivateKey, error) {
	fail := func(format string, a ...any) (*rsa.PrivateKey, error) {
		return nil, keyError("read private key", fmt.Sprintf(format, a...), acceptedPrivate)
	}
	block, _ := pem.Decode(data)
	switch {
	case block == nil:
		return fail("no PEM block")
	case block.Type == "ENCRYPTED PRIVATE KEY" || block.Headers["DEK-Info"] != "":
		return fail("the key is encrypted; decrypt it with: openssl pkey -in KEY")
	case block.Type == "RSA PRIVATE KEY":
		key, err := x509.ParsePKCS1PrivateKey(block.Bytes)
		if err != nil {
			return fail("broken PKCS#1: %v", err)
		}
		return key, nil
	case block.Type == "PRIVATE KEY":
		any, err := x509.ParsePKCS8PrivateKey(block.Bytes)
		if err != nil {
			return fail("broken PKCS#8: %v", err)
		}
		if key, ok := any.(*rsa.PrivateKey); ok {
			return key, nil
		}
		return fail("it is a %T, not an RSA key", any)
	}
	return fail("the PEM block is %q", block.Type)
}

// ParsePublicKey reads an RSA key for [VerifyOptions.Key] in PEM form, as PKIX or PKCS#1. Errors
// match [ErrKey].
func ParsePublicKey(data []byte) (*rsa.PublicKey, error) {
	fail := func(format string, a ...any) (*rsa.PublicKey, error) {
		return nil, keyError("read public key", fmt.Sprintf(format, a...), acceptedPublic)
	}
	block, _ := pem.Decode(data)
	switch {
	case block == nil:
		return fail("no PEM block")
	case block.Type == "RSA PUBLIC KEY":
		key, err := x509.ParsePKCS1PublicKey(block.Bytes)
		if err != nil {
			return fail("broken PKCS#1: %v", err)
		}
		return key, nil
	case block.Type == "PUBLIC KEY":
		any, err := x509.ParsePKIXPublicKey(block.Bytes)
		if err != nil {
			return fail("broken PKIX: %v", err)
		}
		if key, ok := any.(*rsa.PublicKey); ok {
			return key, nil
		}
		return fail("it is a %T, not an RSA key", any)
	case block.Type == "CERTIFICATE":
		return fail("it is a certificate; take its key with: openssl x509 -pubkey -noout -in CERT")
	}
	return fail("the PEM block is %q", block.Type)
}

func keyError(op, problem, accepted string) error {
	return &Error{Op: op, Err: fmt.Errorf("%w: %s", ErrKey, problem), Next: accepted}
}

// sums digests the files of a bundle in list order: MD5 for the checksum and,
// if a signature is made or checked, SHA-256.
type sums struct {
	md5, sha256 hash.Hash
	io.Writer
}

func newSums(signed bool) *sums {
	s := &sums{md5: md5.New(), sha256: sha256.New()}
	s.Writer = s.md5
	if signed {
		s.Writer = io.MultiWriter(s.md5, s.sha256)
	}
	return s
}

func (s *sums) checksum() string { return hex.EncodeToString(s.md5.Sum(nil)) }

// checkSigner refuses keys that gateways cannot check, before anything is written.
func checkSigner(signer crypto.Signer) (*rsa.PublicKey, error) {
	const op = "sign bundle"
	// A nil key in the interface is not a nil interface: its methods would panic.
	if v := reflect.ValueOf(signer); v.Kind() == reflect.Pointer && v.IsNil() {
		return nil, keyError(op, fmt.Sprintf("the signer is a nil %T", signer), acceptedPrivate)
	}
	key, ok := signer.Public().(*rsa.PublicKey)
	if !ok {
		return nil, keyError(op, fmt.Sprintf("gateways check RSA signatures only, this is a %T",
			signer.Public()), acceptedPrivate)
	}
	return key, checkKey(op, key)
}

// minKeyBits is the smallest size that Go's RSA accepts from 1.24 on.
const minKeyBits = 1024

func checkKey(op string, key *rsa.PublicKey) error {
	switch {
	case key == nil || key.N == nil:
		return keyError(op, "the RSA key is empty", "use a key of 2048 bits or more")
	case key.N.BitLen() < minKeyBits:
		return keyError(op, fmt.Sprintf("an RSA key of %d bits is too short to be safe, %d are the least",
			key.N.BitLen(), minKeyBits), "make one of 2048 bits or more")
	}
	return nil
}

func (s *sums) sign(signer crypto.Signer, public *rsa.PublicKey) (string, error) {
	return signDigest(signer, public, s.sha256.Sum(nil))
}

// check compares the sums with what the manifest says. A nil key leaves the
// signature unchecked, as a gateway without public_key_path does.
func (s *sums) check(m *Manifest, key *rsa.PublicKey) error {
	if got := s.checksum(); got != m.Checksum {
		return fmt.Errorf("%w: they have %s, the manifest says %q", ErrChecksum, got, m.Checksum)
	}
	if key == nil {
		return nil
	}
	signature, err := base64.StdEncoding.DecodeString(m.Signature)
	if err == nil {
		err = rsa.VerifyPKCS1v15(key, crypto.SHA256, s.sha256.Sum(nil), signature)
	}
	if err != nil {
		return ErrSignature
	}
	return nil
}
