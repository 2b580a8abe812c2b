// Package run executes commands on this machine for the packages that drive other programs. It
// starts, stops and describes commands, and knows no particular program.
package run

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

// DefaultGrace is the time between the stop signal and SIGKILL for a cancelled command.
const DefaultGrace = 5 * time.Second

// TailSize is the number of bytes that an [Error] keeps of each output stream.
const TailSize = 8 << 10

// Options changes how Local runs commands. The zero value is useful.
type Options struct {
	Dir   string         // working directory; empty: the caller's
	Env   []string       // KEY=value pairs added to the caller's environment; later ones win
	Grace time.Duration  // between Stop and SIGKILL once the context ends; 0: DefaultGrace
	Stop  syscall.Signal // the stop signal; 0: SIGTERM
}

// Local returns a runner that executes argv on this machine in a new process group. An interrupt
// from the terminal therefore reaches only the caller. When ctx ends, the whole group gets o.Stop
// and, after o.Grace, SIGKILL. The call returns after the command has ended.
//
// A nil stdin is empty, and output to a nil stdout or stderr is dropped. The writers get the whole
// output, and an [Error] keeps its tail. The runner is safe for concurrent use.
func Local(o Options) func(ctx context.Context, argv []string, stdin io.Reader, stdout,
	stderr io.Writer) error {
	return func(ctx context.Context, argv []string, stdin io.Reader, stdout, stderr io.Writer) error {
		return o.run(ctx, argv, stdin, stdout, stderr)
	}
}

func (o Options) run(ctx context.Context, argv []string, stdin io.Reader, stdout,
	stderr io.Writer) error {
	if len(argv) == 0 || argv[0] == "" {
		return errors.New("run: no command given")
	}
	if err := ctx.Err(); err != nil {
		return &Error{Argv: argv, Code: -1, Err: err, cause: context.Cause(ctx)}
	}
	grace, stop := o.Grace, o.Stop
	if grace == 0 {
		grace = DefaultGrace
	}
	if stop == 0 {
		stop = syscall.SIGTERM
	}
	var outTail, errTail Tail
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Dir = o.Dir
	if len(o.Env) > 0 {
		cmd.Env = append(os.Environ(), o.Env...)
	}
	cmd.Stdin = stdin
	pipes, err := newPipes(cmd, tee(stdout, &outTail), tee(stderr, &errTail), grace)
	if err != nil {
		return fmt.Errorf("run %s: %w", argv[0], err)
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, stop) }
	cmd.WaitDelay = grace
	err = cmd.Start()
	pipes.started()
	if err == nil {
		err = cmd.Wait()
	}
	if ctx.Err() != nil && cmd.Process != nil {
		// Children that outlive the leader hold locks and ports. The group's number cannot be
		// reused while one of them lives.
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
	}
	copied := pipes.finish(ctx)
	// A stdin that has not ended is not a failure of the command.
	if errors.Is(err, exec.ErrWaitDelay) && ctx.Err() == nil {
		err = nil
	}
	if err == nil && ctx.Err() == nil {
		err = copied
	}
	if err == nil {
		return nil
	}
	e := &Error{Argv: argv, Code: -1, Stdout: outTail.String(), Stderr: errTail.String(), Err: err}
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		e.Code = exit.ExitCode()
	}
	if ctx.Err() != nil {
		e.Err, e.cause = ctx.Err(), context.Cause(ctx)
	}
	return e
}

// pipes carry a command's output. exec's own would be cut off some time after
// the command has ended, whether a daemon keeps them open or the reader is slow.
type pipes struct {
	ours, theirs []*os.File
	grace        time.Duration
	exited       chan struct{}
	done         chan error // one for each of ours
}

func newPipes(cmd *exec.Cmd, stdout, stderr io.Writer, grace time.Duration) (*pipes, error) {
	p := &pipes{grace: grace, exited: make(chan struct{}), done: make(chan error, 2)}
	outputs := []struct {
		end *io.Writer
		to  io.Writer
	}{{&cmd.Stdout, stdout}, {&cmd.Stderr, stderr}}
	for _, o := range outputs {
		r, w, err := os.Pipe()
		if err != nil {
			p.started()
			for _, f := range p.ours {
				_ = f.Close()
			}
			return nil, err
		}
		p.ours, p.theirs = append(p.ours, r), append(p.theirs, w)
		*o.end = w
	}
	for i, o := range outputs {
		go func() { p.done <- p.copy(o.to, p.ours[i]) }()
	}
	return p, nil
}

// started closes the ends of the command.
func (p *pipes) started() {
	for _, f := range p.theirs {
		_ = f.Close()
	}
}

// copy ends with the output, or, once the command has ended, when nothing has
// come for the grace time: a daemon that it started holds the pipe then.
func (p *pipes) copy(to io.Writer, from *os.File) error {
	defer func() { _ = from.Close() }()
	buf := make([]byte, 32<<10)
	for {
		select {
		case <-p.exited:
			_ = from.SetReadDeadline(time.Now().Add(p.grace))
		default:
		}
		n, err := from.Read(buf)
		if n > 0 {
			if _, err := to.Write(buf[:n]); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) || errors.Is(err, os.ErrDeadlineExceeded) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// finish waits until all output has been passed on, or for the grace time once
// ctx has ended; a writer that blocks for ever then keeps its goroutine.
func (p *pipes) finish(ctx context.Context) error {
	close(p.exited)
	for _, f := range p.ours {
		_ = f.SetReadDeadline(time.Now().Add(p.grace))
	}
	var over <-chan time.Time
	ended := ctx.Done()
	var failed error
	for range p.ours {
		for waiting := true; waiting; {
			select {
			case err := <-p.done:
				failed, waiting = errors.Join(failed, err), false
			case <-ended:
				over, ended = time.After(p.grace), nil
			case <-over:
				return failed
			}
		}
	}
	return failed
}

func tee(w io.Writer, t *Tail) io.Writer {
	if w == nil {
		return t
	}
	return io.MultiWriter(w, t)
}

// Error describes a command that did not start, failed or was stopped.
type Error struct {
	Argv           []string
	Code           int    // exit code; -1 if it did not start, was killed by a signal or was stopped
	Stdout, Stderr string // the last TailSize bytes of each
	Err            error  // *exec.Error, *exec.ExitError, or the context's error

	cause error
}

// ExitCode returns the command's exit code, or -1 if it has none.
func (e *Error) ExitCode() int { return e.Code }

// Unwrap lets errors.Is find the context's error and its cause.
func (e *Error) Unwrap() []error {
	if e.cause == nil || e.cause == e.Err {
		return []error{e.Err}
	}
	return []error{e.Err, e.cause}
}

func (e *Error) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "run %s: ", strings.Join(e.Argv, " "))
	switch {
	case e.cause != nil && e.cause != e.Err:
		fmt.Fprintf(&b, "stopped: %v", e.cause)
	case errors.Is(e.Err, context.Canceled), errors.Is(e.Err, context.DeadlineExceeded):
		fmt.Fprintf(&b, "stopped: %v", e.Err)
	default:
		fmt.Fprint(&b, e.Err)
	}
	text := strings.TrimSpace(e.Stderr)
	if text == "" {
		text = strings.TrimSpace(e.Stdout)
	}
	if text != "" {
		fmt.Fprintf(&b, ": %s", lastLines(text, 5))
	}
	return b.String()
}

func lastLines(s string, n int) string {
	lines := strings.Split(s, "\n")
	if len(lines) > n {
		lines = lines[len(lines)-n:]
	}
	return strings.Join(lines, "\n")
}

// Tail is a writer that keeps the last TailSize bytes written to it. The zero
// value is ready; it is not for concurrent use.
type Tail struct {
	buf []byte
	cut bool
}

// Write never fails.
func (t *Tail) Write(p []byte) (int, error) {
	n := len(p)
	if n > TailSize {
		p, t.cut = p[n-TailSize:], true
	}
	t.buf = append(t.buf, p...)
	// Trimming at twice the size keeps the copying linear in what is written.
	if len(t.buf) > 2*TailSize {
		t.cut = true
		t.buf = t.buf[:copy(t.buf, t.buf[len(t.buf)-TailSize:])]
	}
	return n, nil
}

// String returns the tail. If something was cut off, it begins at the start of a line.
func (t *Tail) String() string {
	b, cut := t.buf, t.cut
	if len(b) > TailSize {
		b, cut = b[len(b)-TailSize:], true
	}
	if !cut {
		return string(b)
	}
	if i := bytes.IndexByte(b, '\n'); i >= 0 && i+1 < len(b) {
		b = b[i+1:]
	}
	return "…" + string(b)
}
