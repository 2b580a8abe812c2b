package pluginbuild

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"regexp"
	"strings"
	"syscall"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/client"
)

// Stage is a part of a build.
type Stage string

// The stages of a build, in order. StageLoad is the load test.
const (
	StageConnect Stage = "connect"
	StagePull    Stage = "pull"
	StageCreate  Stage = "create"
	StageUpload  Stage = "upload"
	StageCompile Stage = "compile"
	StageCollect Stage = "collect"
	StageLoad    Stage = "load test"
	StageRemove  Stage = "remove"
)

// Decisions that are the caller's.
var (
	// ErrRequest is matched when a request cannot work: nothing was done.
	ErrRequest = errors.New("request refused")
	// ErrUnsupported is matched when the release cannot do what is asked.
	// Such errors match ErrRequest too.
	ErrUnsupported = fmt.Errorf("%w: not supported by this release", ErrRequest)
	// ErrNoImage is matched when the image is not there and may not or cannot
	// be pulled.
	ErrNoImage = errors.New("no such image")
	// ErrPlatform is matched when an image is for another platform than
	// linux/amd64, and a pull did not change that.
	ErrPlatform = errors.New("image is for another platform")
)

// Error says which stage of a build failed.
type Error struct {
	Stage     Stage
	Object    string // what the stage worked on
	Err       error  // cause; for a container that ended badly its exit status
	ExitCode  int    // of the container in StageCompile; 0: it did not get as far
	OOMKilled bool   // the memory limit, or the machine's end of memory, struck
	Message   string // the compiler's own words, shortened to what matters
	Output    string // the end of the container's standard error, or of its output

	hint  string
	retry bool
}

// Error reads "stage object: cause: the compiler's message; hint".
func (e *Error) Error() string {
	var b strings.Builder
	cause := strings.TrimSpace(fmt.Sprint(e.Err)) // that of ssh ends with a line of its own
	fmt.Fprintf(&b, "%s %s: %s", e.Stage, e.Object, cause)
	if e.Message != "" {
		fmt.Fprintf(&b, ": %s", e.Message)
	}
	if hint := e.Hint(); hint != "" {
		fmt.Fprintf(&b, "; %s", hint)
	}
	return b.String()
}

// Unwrap gives the cause.
func (e *Error) Unwrap() error { return e.Err }

// Retryable says whether the same call may succeed later.
func (e *Error) Retryable() bool {
	if e.retry {
		return true
	}
	if errors.Is(e.Err, context.Canceled) || errors.Is(e.Err, context.DeadlineExceeded) || e.ExitCode != 0 {
		return false
	}
	return errdefs.IsUnavailable(e.Err) || client.IsErrConnectionFailed(e.Err) ||
		errdefs.IsInternal(e.Err) && e.Stage != StagePull && !errors.Is(e.Err, ErrRequest)
}

// Hint returns the next step, or "".
func (e *Error) Hint() string {
	switch {
	case e.hint != "":
		return e.hint
	case errors.Is(e.Err, fs.ErrPermission) && e.Stage == StageConnect:
		return "join the group docker, or set DOCKER_HOST to an engine that you may use"
	case client.IsErrConnectionFailed(e.Err):
		return "start it, or name another one by DOCKER_HOST or a docker context"
	case errors.Is(e.Err, syscall.ENOSPC):
		return "free space in the output directory and build again"
	case strings.Contains(fmt.Sprint(e.Err, e.Message), "no space left on device"):
		return "the engine's disk is full: docker system df shows with what"
	}
	return ""
}

// refuse is an error about the request itself.
func refuse(object, format string, a ...any) error {
	return fmt.Errorf("build %s: %w: %w", object, ErrRequest, fmt.Errorf(format, a...))
}

// ended returns the error of a context that has ended, with its cause; else
// nil.
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

// fail wraps what went wrong in a stage. An ended context explains whatever
// the engine said about it.
func fail(ctx context.Context, stage Stage, object string, err error) *Error {
	if e := ended(ctx); e != nil {
		err = e
	}
	return &Error{Stage: stage, Object: object, Err: err}
}

var (
	sourceLine = regexp.MustCompile(`^(\S+\.(go|c|h|s|S):\d+|go\.mod:|go\.work:|package \S+ is not|pattern |note: module requires|.*(undefined reference|cannot find|fatal error))`)
	// What scripts and the go command say when nothing is wrong.
	chatter      = regexp.MustCompile(`^(\++ |# |PLUGIN_(BUILD|SOURCE)_PATH: |INFO: |go: (downloading|finding|found|added|upgraded|creating new|to add module) )`)
	networkFault = regexp.MustCompile(`(?i)dial tcp|i/o timeout|connection (refused|reset)|TLS handshake timeout|no such host|temporary failure|unexpected EOF|50[234] `)
)

// compilerMessage picks what matters from a compiler's output, at most ten
// lines: errors with a place in the source; without one what the go command
// says, and else the last three lines. Indented lines go on with what the line
// before them says: often only they name the cause.
func compilerMessage(output string) string {
	var source, command, rest, dropped []string
	to := &rest
	for line := range strings.Lines(output) {
		line = strings.TrimRight(line, "\r\n")
		switch {
		case strings.TrimSpace(line) == "":
			continue
		case line[0] == ' ' || line[0] == '\t':
		case chatter.MatchString(line):
			to = &dropped
		case sourceLine.MatchString(line):
			to = &source
		case strings.HasPrefix(line, "go: "):
			to = &command
		default:
			to = &rest
		}
		*to = append(*to, line)
	}
	errs := source
	if len(errs) == 0 {
		errs = command
	}
	if len(errs) > 10 {
		errs = append(errs[:10:10], fmt.Sprintf("and %d more lines", len(errs)-10))
	}
	if len(errs) > 0 {
		return strings.Join(errs, "\n")
	}
	return strings.Join(rest[max(0, len(rest)-3):], "\n")
}
