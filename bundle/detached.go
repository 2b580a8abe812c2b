package bundle

import (
	"context"
	"crypto"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"io"
	"io/fs"
	"os"
	"strings"

	"example.com/tykupgrade/internal/atomicfile"
)

// SignDetached returns a signature over the whole zip: base64 of RSA PKCS#1 v1.5 over SHA-256 of
// its bytes. Gateways ignore it. It covers what the signature in the manifest leaves out: names,
// hooks and the boundaries between files. After decoding, openssl dgst -sha256 -verify checks it.
//
// A signer without an RSA key of at least 1024 bits is an error of kind [ErrKey].
func SignDetached(zip io.Reader, signer crypto.Signer) (string, error) {
	public, err := checkSigner(signer)
	if err != nil {
		return "", err
	}
	h := sha256.New()
	if _, err := io.Copy(h, zip); err != nil {
		return "", &Error{Op: "sign bundle", Err: err, Retry: true}
	}
	return signDigest(signer, public, h.Sum(nil))
}

// VerifyDetached checks a signature of [SignDetached]. A wrong signature is an error of kind
// [ErrSignature], an empty one of kind [ErrUnsigned].
func VerifyDetached(zip io.Reader, signature string, key *rsa.PublicKey) error {
	const op = "verify detached signature"
	if err := checkKey(op, key); err != nil {
		return err
	}
	signature = strings.TrimSpace(signature)
	if signature == "" {
		return &Error{Op: op, Kind: ErrUnsigned, Next: "sign it with SignDetached"}
	}
	h := sha256.New()
	if _, err := io.Copy(h, zip); err != nil {
		return &Error{Op: op, Err: err, Retry: true}
	}
	return verifyDigest(h.Sum(nil), signature, key)
}

func verifyDigest(digest []byte, signature string, key *rsa.PublicKey) error {
	raw, err := base64.StdEncoding.DecodeString(signature)
	if err == nil {
		err = rsa.VerifyPKCS1v15(key, crypto.SHA256, digest, raw)
	}
	if err != nil {
		return &Error{Op: "verify detached signature", Kind: ErrSignature,
			Next: "check that the key is the signer's; if it is, do not use the bundle"}
	}
	return nil
}

// SignatureSuffix follows the name of a zip in the name of its signature's file.
const SignatureSuffix = ".sig"

// maxSignature bounds the file of a detached signature: RSA of 16384 bits has 2,732 characters.
const maxSignature = 4 << 10

// SignFile signs the zip at path with [SignDetached]. It writes the signature to the file path +
// [SignatureSuffix] with mode 0644. After an error or a kill, an earlier signature is unchanged.
func SignFile(ctx context.Context, path string, signer crypto.Signer) error {
	f, err := os.Open(path)
	if err != nil {
		return &Error{Op: "sign bundle", Object: path, Err: err}
	}
	defer f.Close()
	signature, err := SignDetached(f, signer)
	if err != nil {
		return err
	}
	o := atomicfile.Options{Mode: 0o644, NoDigest: true}
	if _, err = atomicfile.Write(ctx, path+SignatureSuffix, o, func(w io.Writer) error {
		_, err := io.WriteString(w, signature+"\n")
		return err
	}); err != nil {
		return &Error{Op: "sign bundle", Object: path + SignatureSuffix, Err: err, Retry: true}
	}
	return nil
}

// VerifyFile checks the zip at path against the signature that [SignFile] wrote next to it. A
// missing signature is an error of kind [ErrUnsigned], a wrong one of kind [ErrSignature].
func VerifyFile(path string, key *rsa.PublicKey) error {
	digest, err := DigestFile(path)
	if err != nil {
		return &Error{Op: "verify detached signature", Object: path, Err: err}
	}
	return verifyBeside(path, digest, key)
}

// verifyBeside checks a digest of the file at path against the signature next to it. It does not
// read the file again, because the file may have changed.
func verifyBeside(path string, digest Digest, key *rsa.PublicKey) error {
	const op = "verify detached signature"
	if err := checkKey(op, key); err != nil {
		return err
	}
	path += SignatureSuffix
	f, err := os.Open(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return &Error{Op: op, Object: path, Kind: ErrUnsigned, Next: "sign it with SignFile"}
	case err != nil:
		return &Error{Op: op, Object: path, Err: err}
	}
	defer f.Close()
	signature, err := io.ReadAll(io.LimitReader(f, maxSignature))
	if err != nil {
		return &Error{Op: op, Object: path, Err: err, Retry: true}
	}
	sum, err := hex.DecodeString(digest.SHA256)
	if err != nil {
		return &Error{Op: op, Object: path, Err: err}
	}
	return verifyDigest(sum, strings.TrimSpace(string(signature)), key)
}
