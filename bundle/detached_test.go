package bundle_test

import (
	"errors"
	"os"
	"testing"

	"example.com/tykupgrade/bundle"
)

// A publication with a key takes only what the key's owner signed, and changes nothing otherwise.
func TestPublishSigned(t *testing.T) {
	t.Parallel()
	key := rsaKey(t)
	p, file := publication(t, "old")
	p.Key = &key.PublicKey
	refused := func(what string, kind error) {
		t.Helper()
		_, err := p.Publish(t.Context(), file)
		if !errors.Is(err, kind) || content(t, p.Dir+"/a.zip") != "old" || leftovers(t, p) != "" {
			t.Errorf("%s: %v, and %q %q are there", what, err, content(t, p.Dir+"/a.zip"), leftovers(t, p))
		}
	}
	refused("without a signature", bundle.ErrUnsigned)
	if err := os.WriteFile(file+bundle.SignatureSuffix, []byte("AAAA\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	refused("a signature that is none", bundle.ErrSignature)
	if err := bundle.SignFile(t.Context(), file, key); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte("changed"), 0o600); err != nil {
		t.Fatal(err)
	}
	refused("changed since it was signed", bundle.ErrSignature)
	if err := bundle.VerifyFile(file, p.Key); !errors.Is(err, bundle.ErrSignature) {
		t.Errorf("changed since it was signed: %v", err)
	}
	if err := bundle.SignFile(t.Context(), file, key); err != nil {
		t.Fatal(err)
	}
	if err := bundle.VerifyFile(file, p.Key); err != nil {
		t.Error(err)
	}
	if _, err := p.Publish(t.Context(), file); err != nil || content(t, p.Dir+"/a.zip") != "changed" {
		t.Errorf("signed: %v", err)
	}
	if err := p.Revert(t.Context()); err != nil || content(t, p.Dir+"/a.zip") != "old" {
		t.Errorf("revert: %v", err)
	}
}
