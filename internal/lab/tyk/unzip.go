package tyk

import (
	"archive/zip"
	"bytes"
	"crypto"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"io"
	"os"
	"path/filepath"

	"example.com/tykupgrade/bundle"
)

// unzip extracts flat bundles, as gateways do: without making directories.
func unzip(data []byte, dir string) error {
	z, err := zip.NewReader(bytes.NewReader(data), int64(len(data)))
	if err != nil {
		return err
	}
	for _, f := range z.File {
		in, err := f.Open()
		if err != nil {
			return err
		}
		content, err := io.ReadAll(in)
		_ = in.Close()
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, filepath.Base(f.Name)), content, 0o600); err != nil {
			return err
		}
	}
	return nil
}

func verifySignature(key *rsa.PublicKey, m *bundle.Manifest, dir string) error {
	h := sha256.New()
	for _, f := range m.FileList {
		data, err := os.ReadFile(filepath.Join(dir, f))
		if err != nil {
			return err
		}
		_, _ = h.Write(data)
	}
	signed, err := base64.StdEncoding.DecodeString(m.Signature)
	if err != nil {
		return err
	}
	return rsa.VerifyPKCS1v15(key, crypto.SHA256, h.Sum(nil), signed)
}
