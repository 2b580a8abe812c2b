package bundle_test

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"example.com/tykupgrade/bundle"
	"example.com/tykupgrade/bundle/bundletest"
)

func TestCheck(t *testing.T) {
	t.Parallel()
	files := bundletest.Files{"plugin.so": bundletest.Plugin{Gateway: "5.2.5"}}
	path := filepath.Join(t.TempDir(), "b.zip")
	pack := func(m *bundle.Manifest) {
		t.Helper()
		if _, err := bundle.WriteFile(t.Context(), path, files.FS(), m, bundle.Options{}); err != nil {
			t.Fatal(err)
		}
	}
	m := files.Manifest("plugin.so")
	pack(m)
	got, findings, err := bundle.Check(t.Context(), path, bundle.VerifyOptions{})
	if err != nil || len(findings) > 0 || got.Checksum == "" {
		t.Errorf("%+v, %v, %v", got, findings, err)
	}
	if _, _, err := bundle.Check(t.Context(), path, bundle.VerifyOptions{SHA256: "00"}); !errors.Is(
		err, bundle.ErrExpected) {
		t.Errorf("another digest: %v", err)
	}
	// A finding is not an error.
	m.Middleware.Post = append(m.Middleware.Post, bundle.Hook{Path: "plugin.so"})
	pack(m)
	_, findings, err = bundle.Check(t.Context(), path, bundle.VerifyOptions{})
	if err != nil || len(findings) != 1 || findings[0].Severity != bundle.Accepted {
		t.Errorf("a hook without a function: %v, %v", findings, err)
	}

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, err := bundle.Check(ctx, path, bundle.VerifyOptions{}); !errors.Is(err,
		context.Canceled) {
		t.Errorf("canceled: %v", err)
	}
	if _, _, err := bundle.Check(t.Context(), path+"x", bundle.VerifyOptions{}); !errors.Is(err,
		fs.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
	if err := os.Truncate(path, 100); err != nil {
		t.Fatal(err)
	}
	if _, _, err := bundle.Check(t.Context(), path, bundle.VerifyOptions{}); !errors.Is(err,
		bundle.ErrStructure) {
		t.Errorf("cut short: %v", err)
	}
}
