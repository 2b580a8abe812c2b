package tyk

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// Build compiles the command tykd, static and stripped, into dir and returns
// its path. version is what it reports unless told otherwise when it starts;
// it may be empty. The go command must run inside this module.
func Build(ctx context.Context, dir, version string) (string, error) {
	out, err := filepath.Abs(filepath.Join(dir, "tykd"))
	if err != nil {
		return "", err
	}
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags", "-s -w -X main.version="+
		version,
		"-o", out, "example.com/tykupgrade/internal/lab/tyk/tykd")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if text, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build tykd: %w: %s", err, text)
	}
	return out, nil
}
