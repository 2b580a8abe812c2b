// Package exe compiles commands that tests and rehearsals start.
package exe

import (
	"context"
	"fmt"
	"os/exec"
)

// Build compiles a command into the file out, without debug information. args are flags and the
// package; dir is where the go command runs, env its environment. The go command keeps what it
// links for go run alone: of several calls, also those of other processes, only the first one
// links.
func Build(ctx context.Context, dir, out string, env []string, args ...string) error {
	cmd := exec.CommandContext(ctx, "go", append(append([]string{"run", "-exec", "cp"}, args...),
		out)...)
	cmd.Dir, cmd.Env = dir, env
	if text, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("go run -exec cp: %w: %s", err, text)
	}
	return nil
}
