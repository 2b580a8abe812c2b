package bundle_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"io"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/Masterminds/semver/v3"

	"example.com/tykupgrade/bundle"
	"example.com/tykupgrade/internal/lab"
)

func pemOf(kind string, der []byte, err error) []byte {
	if err != nil {
		panic(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

func TestParsePrivateKey(t *testing.T) {
	t.Parallel()
	key := rsaKey(t)
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	for name, data := range map[string][]byte{
		"PKCS#1": pemOf("RSA PRIVATE KEY", x509.MarshalPKCS1PrivateKey(key), nil),
		"PKCS#8": pemOf("PRIVATE KEY", pkcs8, err),
	} {
		if got, err := bundle.ParsePrivateKey(data); err != nil || !got.Equal(key) {
			t.Errorf("%s: %v", name, err)
		}
	}

	curve, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	sec1, err1 := x509.MarshalECPrivateKey(curve)
	ec8, err8 := x509.MarshalPKCS8PrivateKey(curve)
	_, edwards, _ := ed25519.GenerateKey(rand.Reader)
	ed8, errEd := x509.MarshalPKCS8PrivateKey(edwards)
	pkix, errPub := x509.MarshalPKIXPublicKey(&key.PublicKey)
	for name, c := range map[string]struct {
		data []byte
		says string
	}{
		"EC":               {pemOf("EC PRIVATE KEY", sec1, err1), "EC PRIVATE KEY"},
		"EC in PKCS#8":     {pemOf("PRIVATE KEY", ec8, err8), "ecdsa"},
		"Ed25519":          {pemOf("PRIVATE KEY", ed8, errEd), "ed25519"},
		"encrypted PKCS#8": {pemOf("ENCRYPTED PRIVATE KEY", pkcs8, nil), "encrypted"},
		"encrypted PKCS#1": {[]byte("-----BEGIN RSA PRIVATE KEY-----\nProc-Type: " +
			"4,ENCRYPTED\nDEK-Info: AES-128-CBC,00\n\nAAAA\n-----END RSA PRIVATE KEY-----\n"), "encrypted"},
		"public":        {pemOf("PUBLIC KEY", pkix, errPub), "PUBLIC KEY"},
		"broken PKCS#1": {pemOf("RSA PRIVATE KEY", pkcs8[:40], nil), "broken"},
		"broken PKCS#8": {pemOf("PRIVATE KEY", pkcs8[:40], nil), "broken"},
		"cut short":     {pemOf("PRIVATE KEY", pkcs8, nil)[:200], "no PEM"},
		"DER":           {pkcs8, "no PEM"},
		"nothing":       {nil, "no PEM"},
	} {
		_, err := bundle.ParsePrivateKey(c.data)
		refusedAs(t, err, bundle.ErrKey, c.says)
		if err != nil && !strings.Contains(err.Error(), "PKCS#1 (BEGIN RSA PRIVATE KEY) or PKCS#8") {
			t.Errorf("%s: %v does not say what is accepted", name, err)
		}
	}
}

func TestParsePublicKey(t *testing.T) {
	t.Parallel()
	key := rsaKey(t)
	pkix, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	for name, data := range map[string][]byte{
		"PKCS#1": pemOf("RSA PUBLIC KEY", x509.MarshalPKCS1PublicKey(&key.PublicKey), nil),
		"PKIX":   pemOf("PUBLIC KEY", pkix, err),
	} {
		if got, err := bundle.ParsePublicKey(data); err != nil || !got.Equal(&key.PublicKey) {
			t.Errorf("%s: %v", name, err)
		}
	}
	edwards, _, _ := ed25519.GenerateKey(rand.Reader)
	ed, errEd := x509.MarshalPKIXPublicKey(edwards)
	for _, c := range []struct {
		data []byte
		says string
	}{
		{pemOf("PUBLIC KEY", ed, errEd), "ed25519"},
		{pemOf("CERTIFICATE", pkix, nil), "openssl x509 -pubkey"},
		{pemOf("RSA PRIVATE KEY", x509.MarshalPKCS1PrivateKey(key), nil), "RSA PRIVATE KEY"},
		{pemOf("PUBLIC KEY", pkix[:30], nil), "broken"},
		{pemOf("RSA PUBLIC KEY", pkix[:30], nil), "broken"},
		{[]byte("hello"), "no PEM"},
	} {
		_, err := bundle.ParsePublicKey(c.data)
		refusedAs(t, err, bundle.ErrKey, c.says)
	}
}

// remote is a signer whose private key is elsewhere, as in a key service.
type remote struct {
	public crypto.PublicKey
	sign   func(digest []byte, opts crypto.SignerOpts) ([]byte, error)
}

func (r remote) Public() crypto.PublicKey { return r.public }
func (r remote) Sign(_ io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	return r.sign(digest, opts)
}

func TestSignWithRemoteKey(t *testing.T) {
	t.Parallel()
	key := rsaKey(t)
	content := append(sharedObject("plugin.so"), sharedObject("plugin_v5.2.5_linux_amd64.so")...)
	digest := sha256.Sum256(content)
	want, err := rsa.SignPKCS1v15(nil, key, crypto.SHA256, digest[:])
	if err != nil {
		t.Fatal(err)
	}
	m, err := verify(built(t, bundle.Options{Signer: remote{&key.PublicKey, func(d []byte,
		o crypto.SignerOpts) ([]byte, error) {
		if !bytes.Equal(d, digest[:]) || o.HashFunc() != crypto.SHA256 {
			t.Errorf("asked to sign %x with %v", d, o)
		}
		return key.Sign(rand.Reader, d, o)
	}}}), bundle.VerifyOptions{Key: &key.PublicKey})
	if err != nil || m.Signature != base64.StdEncoding.EncodeToString(want) {
		t.Errorf("signature %s, %v", m.Signature, err)
	}

	down := errors.New("key service is down")
	curve, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	short := shortKey(t)
	broken := *key
	broken.Primes, broken.Precomputed, broken.D = nil, rsa.PrecomputedValues{}, nil
	for name, c := range map[string]struct {
		signer crypto.Signer
		want   error
		retry  bool
	}{
		"service down": {remote{&key.PublicKey, func([]byte, crypto.SignerOpts) ([]byte,
			error) {
			return nil, down
		}}, down, true},
		"signs with PSS": {remote{&key.PublicKey, func(d []byte, _ crypto.SignerOpts) ([]byte, error) {
			return rsa.SignPSS(rand.Reader, key, crypto.SHA256, d, nil)
		}}, bundle.ErrKey, false},
		"EC":               {curve, bundle.ErrKey, false},
		"512 bits":         {short, bundle.ErrKey, false},
		"512 bits, remote": {remote{&short.PublicKey, nil}, bundle.ErrKey, false},
		"nil key":          {(*rsa.PrivateKey)(nil), bundle.ErrKey, false},
		"nil remote":       {(*remote)(nil), bundle.ErrKey, false},
		"nil public key":   {remote{(*rsa.PublicKey)(nil), nil}, bundle.ErrKey, false},
		"no public key":    {remote{nil, nil}, bundle.ErrKey, false},
		"empty key":        {&rsa.PrivateKey{}, bundle.ErrKey, false},
		"without secret":   {&broken, nil, false},
	} {
		_, err := bundle.Write(io.Discard, files("plugin.so"), goManifest("plugin.so"),
			bundle.Options{Signer: c.signer})
		var own *bundle.Error
		if c.want != nil && !errors.Is(err, c.want) || !errors.As(err, &own) ||
			own.Retryable() != c.retry {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// shortKey is one that Go neither makes nor uses.
func shortKey(t *testing.T) *rsa.PrivateKey {
	t.Helper()
	p, q := new(big.Int), new(big.Int)
	for n, s := range map[*big.Int]string{
		p: "f1a1ab8bb1dc3d5b5d5d6d4c5f5d3b2b1a6d7e8f90a1b2c3d4e5f60718293a4b",
		q: "e3c2d1b0a9f8e7d6c5b4a39281706f5e4d3c2b1a09f8e7d6c5b4a3928170615f",
	} {
		n.SetString(s, 16)
		for !n.ProbablyPrime(20) {
			n.Sub(n, big.NewInt(2))
		}
	}
	one := big.NewInt(1)
	phi := new(big.Int).Mul(new(big.Int).Sub(p, one), new(big.Int).Sub(q, one))
	return &rsa.PrivateKey{PublicKey: rsa.PublicKey{N: new(big.Int).Mul(p, q), E: 65537},
		D: new(big.Int).ModInverse(big.NewInt(65537), phi), Primes: []*big.Int{p, q}}
}

// A key that cannot be used says nothing about the bundle's signature.
func TestVerifyWithUnusableKey(t *testing.T) {
	t.Parallel()
	b := built(t, bundle.Options{Signer: rsaKey(t)})
	for _, key := range []*rsa.PublicKey{{}, &shortKey(t).PublicKey} {
		_, err := verify(b, bundle.VerifyOptions{Key: key})
		if errors.Is(err, bundle.ErrSignature) {
			t.Errorf("the signature is blamed: %v", err)
		}
		refusedAs(t, err, bundle.ErrKey, "RSA key")
	}
}

// What is missing is an error and no panic.
func TestNothingGiven(t *testing.T) {
	t.Parallel()
	p, err := bundle.ForUpgrade(bundle.Upgrade{From: semver.MustParse("4.0.8"),
		To:      semver.MustParse("5.2.5"),
		Plugins: []bundle.Plugin{{Current: "a.so", Target: "b.so"}}})
	if err != nil {
		t.Fatal(err)
	}
	_, err1 := p.Manifest(nil)
	_, err2 := bundle.Verify(nil, 100, bundle.VerifyOptions{})
	_, err3 := bundle.Extract(t.Context(), nil, 100, t.TempDir(), bundle.VerifyOptions{})
	for _, err := range []error{err1, err2, err3} {
		var own *bundle.Error
		if !errors.As(err, &own) || own.Retryable() {
			t.Errorf("error %v", err)
		}
	}
}

// openssl makes the keys and checks the signature.
func TestSignatureForOpenSSL(t *testing.T) {
	t.Parallel()
	openssl := lab.Program(t, "openssl", "openssl")
	dir := t.TempDir()
	run := func(args ...string) string {
		cmd := exec.Command(openssl, args...)
		cmd.Dir = dir
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("openssl %s: %v: %s", strings.Join(args, " "), err, out)
		}
		return string(out)
	}
	run("genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048", "-out", "key.pem")
	run("pkey", "-in", "key.pem", "-pubout", "-out", "pub.pem")
	data, err := os.ReadFile(filepath.Join(dir, "key.pem"))
	if err != nil {
		t.Fatal(err)
	}
	key, err := bundle.ParsePrivateKey(data)
	if err != nil {
		t.Fatal(err)
	}
	result, err := bundle.Write(io.Discard, files("plugin.so"), goManifest("plugin.so"),
		bundle.Options{Signer: key})
	if err != nil {
		t.Fatal(err)
	}
	signature, err := base64.StdEncoding.DecodeString(result.Manifest.Signature)
	if err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string][]byte{"sig": signature,
		"plugin.so": sharedObject("plugin.so")} {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if out := run("dgst", "-sha256", "-verify", "pub.pem", "-signature", "sig",
		"plugin.so"); !strings.Contains(out, "Verified OK") {
		t.Errorf("openssl says %s", out)
	}
}
