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
	// ErrRequest: the call cannot work as it is. Nothing was changed.
	ErrRequest = errors.New("request refused")
	// ErrUnsupported: the release cannot do this. It matches ErrRequest too.
	ErrUnsupported = fmt.Errorf("%w: not supported by this release", ErrRequest)
	// ErrBusy: another Prepare works on the module, or a go command that a killed
	// one left behind still runs. Waiting helps.
	ErrBusy = errors.New("another Prepare, or a go command that one left behind, is at work there")
	// ErrNeedsGet: NoGet, for a release whose compiler has no workspace.
	ErrNeedsGet = errors.New("only compilers from 5.1.0 on supply the gateway's module")
	// ErrNoTag: a repository has no tag of the version.
	ErrNoTag = errors.New("the repository has no such tag")
	// ErrSecretInURL: a repository URL holds a password, which other users of the
	// machine could read in the process list.
	ErrSecretInURL = errors.New("the URL holds a password; give it to git through a credential " +
		"helper or use SSH")
	// ErrGoFlags: GOFLAGS redirects go.mod or source files, so that Prepare could
	// not restore them.
	ErrGoFlags = errors.New("GOFLAGS redirects files of the module")
)

// Error is a step that failed: a command, or the check of what commands left.
type Error struct {
	Op       string   // "go get", "go mod tidy", "check go.mod", "git ls-remote"
	Object   string   // what it worked on; "" where the text around it says so
	Kind     error    // one of the sentinels of this package, or nil
	Err      error    // cause
	Next     string   // what to do; may be ""
	Retry    bool     // the same call may succeed later
	Argv     []string // the command; nil: none was run
	ExitCode int      // of the command; -1: it has none
	Output   string   // the end of what the command wrote to both streams, without credentials
}

// stepError describes a command that failed. An ended context explains
// whatever the command said about it.
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

// Error reads "op object: cause: the last lines of the output; what to do".
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

// Unwrap gives the kind and the cause.
func (e *Error) Unwrap() []error {
	return slices.DeleteFunc([]error{e.Kind, e.Err}, func(err error) bool { return err == nil })
}

// Hint returns the next step, or "".
func (e *Error) Hint() string { return e.Next }

// Retryable says whether the same call may succeed later: when the network or a
// server failed.
func (e *Error) Retryable() bool { return e.Retry }

// refuse is an error about a call that cannot work.
func refuse(op, object, format string, a ...any) error {
	return &Error{Op: op, Object: object, Kind: ErrRequest, Err: fmt.Errorf(format, a...),
		ExitCode: -1}
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

var networkFault = lazyregexp.New(
	`(?i)dial tcp|i/o timeout|connection (refused|reset)|TLS handshake timeout|no such host|temporary failure|unexpected EOF|50[234] `)

// gitFault is how git words what networkFault matches elsewhere.
var gitFault = lazyregexp.New(
	`Could not resolve host|Failed to connect|Couldn't connect|Connection timed out|The requested URL returned error: 5`)

// hints turns what go (1.21 to 1.26) and git say into the next step; the first
// match counts.
var hints = []struct {
	match *lazyregexp.Regexp
	next  string
}{
	{lazyregexp.New(`executable file not found`),
		"install the program, or put it on PATH"},
	{lazyregexp.New(`flag provided but not defined: -toolchain`),
		"the go command is older than 1.21; install a newer one, the compiler image brings its own"},
	{lazyregexp.New(`checksum mismatch|SECURITY ERROR`),
		"the downloaded module is not the one that go.sum or the checksum database knows: find out why " +
			"the proxy serves other content before removing any line from go.sum"},
	{lazyregexp.New(`verifying (module|go\.mod)|checksum database|sum\.golang\.org`),
		"the checksum database does not know this module: for a private module or a proxy of your own " +
			"set GONOSUMDB (or GOPRIVATE) to its path"},
	{lazyregexp.New(
		`terminal prompts disabled|could not read Username|Permission denied \(publickey\)|Authentication failed|401 Unauthorized|403 Forbidden`),
		"the server refuses: give it credentials through netrc (machine HOST:PORT if the address has a " +
			"port: Go 1.24 and later compare it), a git credential helper or the SSH agent, or name another " +
			"source in GOPROXY or GOPRIVATE"},
	{lazyregexp.New(`module path must match major version`),
		"ask for a commit instead of a tag; a module without /vN in its path has no versions from v2 on"},
	{lazyregexp.New(
		`requires go >?=? ?\d|requires go1|invalid go version|unknown directive: toolchain|toolchain not available|errors parsing go.mod`),
		"a module asks for a newer Go than the go command is: install that Go or set GOTOOLCHAIN=auto; " +
			"if it is newer than the release's compiler too, require an older version of that module"},
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
		"a module is required under another path than its own: a replace directive of the gateway's " +
			"go.mod is missing"},
	{lazyregexp.New(`no space left on device|disk quota exceeded`),
		"the disk is full: free space in the module's directory, GOMODCACHE and TMPDIR, then try again"},
}
