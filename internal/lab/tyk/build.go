package tyk

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"example.com/tykupgrade/internal/lab/exe"
)

// Build compiles the command tykd, static and stripped, into dir and returns
// its path. version is what it reports unless told otherwise when it starts;
// it may be empty. The go command must run inside this module.
func Build(ctx context.Context, dir, version string) (string, error) {
	out, err := filepath.Abs(filepath.Join(dir, "tykd"))
	if err != nil {
		return "", err
	}
	// Not trimmed: most of the standard library is then in the build cache already.
	if err := exe.Build(ctx, "", out, append(os.Environ(), "CGO_ENABLED=0"),
		"-ldflags=-s -w -X main.version="+version,
		"example.com/tykupgrade/internal/lab/tyk/tykd"); err != nil {
		return "", fmt.Errorf("build tykd: %w", err)
	}
	return out, nil
}
