package debpkg

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"example.com/tykupgrade/internal/printable"
	"example.com/tykupgrade/internal/redact"
	"example.com/tykupgrade/internal/run"
)

// maxOutput bounds what one command may print on a stream. The longest answer
// is the list of all installed packages, of about 100 bytes each.
const maxOutput = 32 << 20

// env returns the environment of every command. NEEDRESTART_SUSPEND keeps needrestart's dpkg hook
// from asking. The PATH of an SSH session lacks sbin, and dpkg refuses to work without it.
func (h *Host) env() []string {
	env := []string{"env", "LC_ALL=C", "DEBIAN_FRONTEND=noninteractive", "NEEDRESTART_SUSPEND=1",
		"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
	if h.o.AptConfig != "" {
		env = append(env, "APT_CONFIG="+h.o.AptConfig)
	}
	return env
}

// stream runs a command with our environment.
func (h *Host) stream(ctx context.Context, stdin io.Reader, stdout, stderr io.Writer,
	argv ...string) error {
	if h.err != nil {
		return h.err
	}
	h.o.Log.DebugContext(ctx, "run", "argv", argv)
	return brief(ctx, h.run(ctx, append(h.env(), argv...), stdin, stdout, stderr))
}

// said is the output of a command, with credentials removed and control characters escaped. Only
// standard error is classified, so the streams are separate.
type said struct{ out, err string }

// String returns both streams.
func (s said) String() string {
	if s.out != "" && !strings.HasSuffix(s.out, "\n") {
		return s.out + "\n" + s.err
	}
	return s.out + s.err
}

// capped collects a stream up to a limit, and stops the command beyond it.
type capped struct {
	buf  bytes.Buffer
	left int
	over func()
}

func (c *capped) Write(p []byte) (int, error) {
	if len(p) > c.left {
		c.over()
		return 0, ErrOutput
	}
	c.left -= len(p)
	return c.buf.Write(p)
}

// raw runs a command and returns its two streams as they are.
func (h *Host) raw(ctx context.Context, stdin io.Reader,
	argv ...string) (stdout, stderr string, err error) {
	cctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	over := func() { cancel(ErrOutput) }
	out, errOut := &capped{left: h.limit, over: over}, &capped{left: h.limit, over: over}
	err = h.stream(cctx, stdin, out, errOut, argv...)
	if ctx.Err() == nil && (context.Cause(cctx) == ErrOutput || errors.Is(err, ErrOutput)) {
		err = task{"run", program(argv)}.fail(Error{Kind: ErrOutput,
			Detail: fmt.Sprintf("more than %d MiB", maxOutput>>20),
			Next:   "check what the program prints on the host"})
		return "", "", err
	}
	return out.buf.String(), errOut.buf.String(), err
}

// program names a command in an error, without the text of a script.
func program(argv []string) string {
	if argv[0] == "sh" {
		return "a script"
	}
	return argv[0]
}

// both runs a command and returns both streams, safe to print.
func (h *Host) both(ctx context.Context, argv ...string) (said, error) {
	out, errOut, err := h.raw(ctx, nil, argv...)
	return said{tidy(out), tidy(errOut)}, err
}

// output runs a command and returns its standard output.
func (h *Host) output(ctx context.Context, argv ...string) (string, error) {
	out, errOut, err := h.raw(ctx, nil, argv...)
	return out, explain(ctx, err, errOut)
}

// script runs one of our scripts. Its arguments are $1 and so on.
func (h *Host) script(ctx context.Context, stdin io.Reader, name string,
	args ...string) (string, error) {
	out, errOut, err := h.raw(ctx, stdin, append(script(name), args...)...)
	return out, explain(ctx, err, errOut)
}

// tidy makes text from the host safe to print.
func tidy(s string) string { return printable.Text(redact.Text(s)) }

// brief shortens the error of a command, whose argv may be a whole script.
func brief(ctx context.Context, err error) error {
	var e *run.Error
	switch {
	case err == nil, errors.Is(err, ErrConnection), errors.Is(err, ErrNotRoot), errors.Is(err,
		ErrShell), errors.Is(err, ErrHelper):
		return err
	case ctx.Err() != nil:
		return ended(ctx)
	case errors.As(err, &e):
		return &commandError{text: e.Err.Error(), err: err}
	}
	return err
}

// explain adds the output of a command to its error.
func explain(ctx context.Context, err error, stderr string) error {
	if own := (*Error)(nil); err == nil || ctx.Err() != nil || errors.As(err, &own) {
		return err
	}
	if text := strings.TrimSpace(stderr); text != "" {
		return &commandError{text: tidy(text), err: err}
	}
	return err
}

type commandError struct {
	text string
	err  error
}

func (e *commandError) Error() string { return e.text }
func (e *commandError) Unwrap() error { return e.err }

// exitCode returns the command's exit code, or -1 if it has none.
func exitCode(err error) int {
	var e interface{ ExitCode() int }
	if err == nil {
		return 0
	}
	if errors.As(err, &e) {
		return e.ExitCode()
	}
	return -1
}
