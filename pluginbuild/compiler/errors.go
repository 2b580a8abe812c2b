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

// The stages of a build, in order, for [Error].Op and [Event].Stage. StageLoad is the load test.
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
	// ErrRequest: the request is invalid. Nothing changed.
	ErrRequest = pluginbuild.ErrRequest
	// ErrUnsupported: the release lacks this feature. It matches ErrRequest too.
	ErrUnsupported = pluginbuild.ErrUnsupported
	// ErrNoImage: the engine lacks the image, and a pull failed or is not allowed.
	ErrNoImage = errors.New("no such image")
	// ErrPlatform: the image is for another platform, even after a pull.
	ErrPlatform = errors.New("image is for another platform")
	// ErrDigest: the image is not the pinned one.
	ErrDigest = errors.New("image is not the pinned one")
	// ErrTooLarge: the compiler's output is larger than any plugin.
	ErrTooLarge = errors.New("result is too large")
)

// Error reports a failed step of a build.
type Error struct {
	Op        string // a Stage constant, or "build" for an invalid request
	Object    string // plugin, image, container or engine
	Kind      error  // one of the sentinels of this package, or nil
	Err       error  // cause, such as the exit status of a container
	Next      string // what to do; may be empty
	Retry     bool   // the same call may succeed later
	ExitCode  int    // of the container in StageCompile; 0: none
	OOMKilled bool   // the container was killed for lack of memory
	Message   string // the relevant lines of the compiler's output
	Output    string // the end of the container's stderr, or of its stdout if stderr is empty
}

// Error returns "op object: cause: the compiler's message; what to do".
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
		// The error of ssh ends with a newline.
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

// Unwrap returns Kind and Err, if set.
func (e *Error) Unwrap() []error {
	return slices.DeleteFunc([]error{e.Kind, e.Err}, func(err error) bool { return err == nil })
}

// Retryable reports whether the same call may succeed later.
func (e *Error) Retryable() bool { return e.Retry }

// Hint returns Next.
func (e *Error) Hint() string { return e.Next }

// refuse returns an error about an invalid request.
func refuse(object, format string, a ...any) error {
	return &Error{Op: "build", Object: object, Kind: ErrRequest, Err: fmt.Errorf(format, a...)}
}

// ended returns the error of a context that has ended, with its cause, or nil.
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

// fail returns the error of a step. If ctx ended, that is the cause.
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
		e.Retry = true
		e.Next = "start the engine, or select another one by DOCKER_HOST or a docker context"
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
	diskFullNext = "free space on the engine's disk; docker system df shows what uses it"
)
