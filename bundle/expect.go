package bundle

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"path"
	"path/filepath"
	"strings"

	"example.com/tykupgrade/internal/atomicfile"
)

// expected compares the whole with what the caller wants, before anything is
// unpacked.
func (o VerifyOptions) expected(op string, a *archive, r io.ReaderAt, size int64) error {
	const next = "do not use the bundle: build or fetch it again"
	if o.SHA256 != "" {
		h := sha256.New()
		if _, err := io.Copy(h, io.NewSectionReader(r, 0, size)); err != nil {
			return &Error{Op: op, Err: err, Retry: true}
		}
		if got := hex.EncodeToString(h.Sum(nil)); !strings.EqualFold(got, o.SHA256) {
			return &Error{Op: op, Kind: ErrExpected, Err: fmt.Errorf("its SHA-256 is %s, want %s", got,
				o.SHA256), Next: next}
		}
	}
	if o.Expect == nil {
		return nil
	}
	want, got := o.Expect.clone(), a.manifest.clone()
	want.Checksum, want.Signature, got.Checksum, got.Signature = "", "", "", ""
	var w, g bytes.Buffer
	_, err1 := want.WriteTo(&w)
	_, err2 := got.WriteTo(&g)
	if err := errors.Join(err1, err2); err != nil {
		return err
	}
	if !bytes.Equal(w.Bytes(), g.Bytes()) || len(a.manifest.Unknown) > 0 {
		return &Error{Op: op, Object: ManifestName, Kind: ErrExpected,
			Err: fmt.Errorf("it is %s, want %s", g.Bytes(), w.Bytes()), Next: next}
	}
	return nil
}

func signDigest(signer crypto.Signer, public *rsa.PublicKey, digest []byte) (string, error) {
	signature, err := signer.Sign(rand.Reader, digest, crypto.SHA256)
	if err != nil {
		_, local := signer.(*rsa.PrivateKey) // it fails again; a key service may be down
		return "", &Error{Op: "sign bundle", Err: err, Retry: !local}
	}
	// A key service may be set to PSS, which gateways do not check.
	if err := rsa.VerifyPKCS1v15(public, crypto.SHA256, digest, signature); err != nil {
		return "", keyError("sign bundle", "the signer did not return an RSA PKCS#1 v1.5 signature "+
			"over SHA-256", "set the key service to RSASSA_PKCS1_V1_5_SHA_256")
	}
	return base64.StdEncoding.EncodeToString(signature), nil
}

func base(name string) string { return path.Base(name) }

func syncParent(op, path string) error {
	if err := atomicfile.SyncDir(filepath.Dir(path)); err != nil {
		return &Error{Op: op, Object: path, Err: err, Retry: true}
	}
	return nil
}
