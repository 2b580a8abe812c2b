package pluginbuild

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"example.com/tykupgrade/internal/lazyregexp"
	"example.com/tykupgrade/internal/redact"
	"example.com/tykupgrade/internal/run"
)

// Errors that callers match with errors.Is.
var (
	// ErrRequest: the arguments are invalid. Nothing changed.
	ErrRequest = errors.New("request refused")
	// ErrUnsupported: the release lacks this feature. It matches ErrRequest too.
	ErrUnsupported = fmt.Errorf("%w: not supported by this release", ErrRequest)
	// ErrBusy: another Prepare works on the module, or a go command of a killed Prepare still
	// runs. Try again later.
	ErrBusy = errors.New("another Prepare, or its go command, is at work there")
	// ErrNeedsGet: NoGet is set for a release whose compiler has no workspace.
	ErrNeedsGet = errors.New("only compilers from 5.1.0 on supply the gateway's module")
	// ErrNoTag: a repository has no tag of the version.
	ErrNoTag = errors.New("the repository has no such tag")
	// ErrSecretInURL: a repository URL has a password. Other users of the machine could read
	// it in the process list.
	ErrSecretInURL = errors.New("the URL has a password; give it to git through a credential " +
		"helper or use SSH")
	// ErrGoFlags: GOFLAGS redirects go.mod or source files, so Prepare cannot restore them.
	ErrGoFlags = errors.New("GOFLAGS redirects files of the module")
)

// Error reports a failed step: a command, or the check of its result.
type Error struct {
	Op       string   // "go get", "go mod tidy", "check go.mod", "git ls-remote"
	Object   string   // empty if the wrapping error names it
	Kind     error    // one of the sentinels of this package, or nil
	Err      error    // cause
	Next     string   // what to do; may be empty
	Retry    bool     // the same call may succeed later
	Argv     []string // the command; nil: no command ran
	ExitCode int      // of the command; -1: none
	Output   string   // the end of both output streams of the command, without credentials
}

// stepError describes a command that failed. If ctx ended, that is the cause.
func stepError(ctx context.Context, op string, argv []string, output string, err error) *Error {
	e := &Error{Op: op, Argv: argv, ExitCode: -1, Output: redact.Text(output), Err: err}
	var exit interface{ ExitCode() int }
	if errors.As(err, &exit) {
		e.ExitCode = exit.ExitCode()
	}
	var ran *run.Error
	if stopped := ended(ctx); stopped != nil {
		e.Err = stopped
		return e
	} else if errors.As(err, &ran) {
		e.Err = ran.Err // its text repeats argv and output
	}
	if networkFault.MatchString(e.Output) || gitFault.MatchString(e.Output) {
		e.Retry, e.Next = true, "the network or a server failed: check GOPROXY and the proxy settings, "+
			"then try again"
		return e
	}
	text := fmt.Sprint(e.Output, "\n", e.Err)
	for _, h := range hints {
		if h.match.MatchString(text) {
			e.Next = h.next
			break
		}
	}
	return e
}

// Error returns "op object: cause: the last lines of the output; what to do".
func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(cmp.Or(e.Op, "step"))
	if e.Object != "" {
		b.WriteString(" " + e.Object)
	}
	if e.Kind != nil {
		fmt.Fprintf(&b, ": %v", e.Kind)
	}
	if e.Err != nil {
		fmt.Fprintf(&b, ": %v", e.Err)
	}
	if lines := strings.Split(strings.TrimSpace(e.Output), "\n"); lines[0] != "" {
		fmt.Fprintf(&b, ": %s", strings.Join(lines[max(0, len(lines)-5):], "\n"))
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

// Hint returns Next.
func (e *Error) Hint() string { return e.Next }

// Retryable reports whether the same call may succeed later, as after a failure of the network.
func (e *Error) Retryable() bool { return e.Retry }

// refuse returns an error about invalid arguments.
func refuse(op, object, format string, a ...any) error {
	return &Error{Op: op, Object: object, Kind: ErrRequest, Err: fmt.Errorf(format, a...),
		ExitCode: -1}
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

var networkFault = lazyregexp.New(
	`(?i)dial tcp|i/o timeout|connection (refused|reset)|TLS handshake timeout|no such host|temporary failure|unexpected EOF|50[234] `)

// gitFault matches git's messages about the network.
var gitFault = lazyregexp.New(
	`Could not resolve host|Failed to connect|Couldn't connect|Connection timed out|The requested URL returned error: 5`)

// hints maps messages of go (1.21 to 1.26) and git to the next step. The first match counts.
var hints = []struct {
	match *lazyregexp.Regexp
	next  string
}{
	{lazyregexp.New(`executable file not found`),
		"install the program, or put it on PATH"},
	{lazyregexp.New(`flag provided but not defined: -toolchain`),
		"the go command is older than 1.21: install a newer one; the compiler image has its own"},
	{lazyregexp.New(`checksum mismatch|SECURITY ERROR`),
		"the downloaded module differs from the one in go.sum or the checksum database: before you " +
			"remove a line from go.sum, find out why the proxy serves other content"},
	{lazyregexp.New(`verifying (module|go\.mod)|checksum database|sum\.golang\.org`),
		"the checksum database does not know this module: for a private module or proxy, set " +
			"GONOSUMDB (or GOPRIVATE) to its path"},
	{lazyregexp.New(
		`terminal prompts disabled|could not read Username|Permission denied \(publickey\)|Authentication failed|401 Unauthorized|403 Forbidden`),
		"the server refuses: supply credentials through netrc, a git credential helper or the SSH " +
			"agent, or name another source in GOPROXY or GOPRIVATE; for an address with a port, netrc " +
			"needs machine HOST:PORT from Go 1.24 on"},
	{lazyregexp.New(`module path must match major version`),
		"request a commit instead of a tag: a module without /vN in its path has no versions from v2 on"},
	{lazyregexp.New(
		`requires go >?=? ?\d|requires go1|invalid go version|unknown directive: toolchain|toolchain not available|errors parsing go.mod`),
		"a module needs a newer Go than the go command: install that Go or set GOTOOLCHAIN=auto; if " +
			"it is also newer than the release's compiler, require an older version of that module"},
	{lazyregexp.New(`module lookup disabled by GOPROXY=off`),
		"GOPROXY=off forbids downloads: fill the module cache first, or set GOPROXY to a proxy that " +
			"has the modules"},
	{lazyregexp.New(
		`but does not contain package|no required module provides package|no matching versions for query "latest"`),
		"the plugin imports a package that this release of the gateway does not have: change the import"},
	{lazyregexp.New(
		`unknown revision|invalid version|no matching versions|not found: |reading file://.*no such file`),
		"the proxy or repository does not have that commit: check GOPROXY, or set GOPRIVATE to fetch " +
			"from the repository itself; private repositories need credentials"},
	{lazyregexp.New(`declares its path as`),
		"a module is required under another path than its own: copy the replace directive from the " +
			"gateway's go.mod"},
	{lazyregexp.New(`no space left on device|disk quota exceeded`),
		"the disk is full: free space in the module's directory, GOMODCACHE and TMPDIR, then try again"},
}
