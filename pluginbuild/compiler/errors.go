package compiler

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"syscall"

	"github.com/containerd/errdefs"

	"example.com/tykupgrade/pluginbuild"
)

// The steps of a build, in order, as [Error].Op and [Event].Stage name them.
// StageLoad is the load test.
const (
	StageConnect = "connect"
	StagePull    = "pull"
	StageCreate  = "create"
	StageUpload  = "upload"
	StageCompile = "compile"
	StageCollect = "collect"
	StageLoad    = "load test"
	StageRemove  = "remove"
)

// Errors that callers match with errors.Is.
var (
	// ErrRequest: the request cannot work. Nothing was done.
	ErrRequest = pluginbuild.ErrRequest
	// ErrUnsupported: the release cannot do this. It matches ErrRequest too.
	ErrUnsupported = pluginbuild.ErrUnsupported
	// ErrNoImage: the engine lacks the image, and it may not or cannot be pulled.
	ErrNoImage = errors.New("no such image")
	// ErrPlatform: the image is for another platform than the container needs, and
	// a pull did not change that.
	ErrPlatform = errors.New("image is for another platform")
	// ErrDigest: the image is not the pinned one.
	ErrDigest = errors.New("image is not the pinned one")
	// ErrTooLarge: the compiler left a file larger than any plugin.
	ErrTooLarge = errors.New("result is too large")
)

// Error says what a build attempted when it failed.
type Error struct {
	Op        string // a Stage constant; "build" for a request that was refused
	Object    string // what it worked on
	Kind      error  // one of the sentinels of this package, or nil
	Err       error  // cause; for a container that ended badly its exit status
	Next      string // what to do; may be ""
	Retry     bool   // the same call may succeed later
	ExitCode  int    // of the container in StageCompile; 0: it did not get as far
	OOMKilled bool   // the memory limit, or the machine's end of memory, struck
	Message   string // the compiler's own words, shortened to what matters
	Output    string // the end of the container's standard error, or of its output
}

// Error reads "op object: cause: the compiler's message; what to do".
func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(e.Op)
	if e.Object != "" {
		b.WriteString(" " + e.Object)
	}
	if e.Kind != nil {
		fmt.Fprintf(&b, ": %v", e.Kind)
	}
	if e.Err != nil {
		// that of ssh ends with a line of its own
		fmt.Fprintf(&b, ": %s", strings.TrimSpace(e.Err.Error()))
	}
	if e.Message != "" {
		fmt.Fprintf(&b, ": %s", e.Message)
	}
	if e.Next != "" {
		fmt.Fprintf(&b, "; %s", e.Next)
	}
	return b.String()
}

// Unwrap returns the kind and the cause.
func (e *Error) Unwrap() []error {
	return slices.DeleteFunc([]error{e.Kind, e.Err}, func(err error) bool { return err == nil })
}

// Retryable says whether the same call may succeed later.
func (e *Error) Retryable() bool { return e.Retry }

// Hint returns the next step, or "".
func (e *Error) Hint() string { return e.Next }

// refuse is an error about the request itself.
func refuse(object, format string, a ...any) error {
	return &Error{Op: "build", Object: object, Kind: ErrRequest, Err: fmt.Errorf(format, a...)}
}

// ended returns the error of a context that has ended, with its cause; else nil.
func ended(ctx context.Context) error {
	err := ctx.Err()
	if err == nil {
		return nil
	}
	if cause := context.Cause(ctx); cause != nil && cause != err {
		return fmt.Errorf("%w: %w", err, cause)
	}
	return err
}

// fail wraps what went wrong in a step. An ended context explains whatever the
// engine said about it.
func fail(ctx context.Context, op, object string, err error) *Error {
	if e := ended(ctx); e != nil {
		err = e
	}
	e := &Error{Op: op, Object: object, Err: err}
	switch {
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
	case errors.Is(err, fs.ErrPermission) && op == StageConnect:
		e.Next = "join the group docker, or set DOCKER_HOST to an engine that you may use"
	case unreachable(err):
		e.Retry, e.Next = true, "start it, or name another one by DOCKER_HOST or a docker context"
	case errors.Is(err, syscall.ENOSPC):
		e.Next = "free space in the output directory and build again"
	case strings.Contains(err.Error(), diskFull):
		e.Next = diskFullNext
	}
	e.Retry = e.Retry || errdefs.IsUnavailable(err) || errdefs.IsInternal(err) && op != StagePull
	return e
}

const (
	diskFull     = "no space left on device"
	diskFullNext = "the engine's disk is full: docker system df shows with what"
)
