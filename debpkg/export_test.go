package debpkg

import (
	"context"
	"io"
)

// Classify is the failure catalogue's reader.
func Classify(verb, stdout, stderr string, cause error) *Error {
	return classify(task{verb, ""}, said{stdout, stderr}, cause)
}

// CheckShell asks the login shell behind remote whether it is a POSIX shell.
func CheckShell(ctx context.Context, remote func(ctx context.Context, command string,
	stdin io.Reader, stdout, stderr io.Writer) error) error {
	return (&probe{}).check(ctx, "gw1", remote)
}

// Limit changes how much a command may print.
func (h *Host) Limit(bytes int) { h.limit = bytes }

// RevertFiles brings the files of a change back, without its packages.
func (h *Host) RevertFiles(ctx context.Context, c Change) error {
	return h.revertFiles(ctx, task{"revert", "files"}, c)
}

// Argv is the ssh command line.
func (o SSHOptions) Argv(dest string) ([]string, error) { return o.argv(dest) }

// Update is the flag that writes golden files.
var Update = update
