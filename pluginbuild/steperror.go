package pluginbuild

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strings"

	"example.com/tykupgrade/internal/run"
)

// StepError is a command that failed, or the check of what the commands left.
type StepError struct {
	Step   string   // "go get", "go mod tidy", "check go.mod"
	Argv   []string // nil when no command was run
	Code   int      // exit code, -1 when there is none
	Output string   // the end of what the command wrote, both streams
	Err    error

	hint string
}

// stepError describes a command that failed. An ended context explains
// whatever the command said about it.
func stepError(ctx context.Context, step string, argv []string, output string, err error) *StepError {
	e := &StepError{Step: step, Argv: argv, Code: -1, Output: redact(output), Err: err}
	var exit interface{ ExitCode() int }
	if errors.As(err, &exit) {
		e.Code = exit.ExitCode()
	}
	var ran *run.Error
	if stopped := ended(ctx); stopped != nil {
		e.Err = stopped
	} else if errors.As(err, &ran) {
		e.Err = ran.Err // its text repeats argv and output
	}
	return e
}

// Error reads "step: cause: the last lines of the output; hint".
func (e *StepError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %v", e.Step, e.Err)
	if lines := strings.Split(strings.TrimSpace(e.Output), "\n"); lines[0] != "" {
		fmt.Fprintf(&b, ": %s", strings.Join(lines[max(0, len(lines)-5):], "\n"))
	}
	if hint := e.Hint(); hint != "" {
		fmt.Fprintf(&b, "; %s", hint)
	}
	return b.String()
}

// Unwrap gives the cause.
func (e *StepError) Unwrap() error { return e.Err }

// ExitCode returns Code.
func (e *StepError) ExitCode() int { return e.Code }

// Retryable says whether the same call may succeed later: when the network or
// a server failed.
func (e *StepError) Retryable() bool {
	return !e.stopped() && e.network()
}

// gitFault is how git words what networkFault matches elsewhere.
var gitFault = regexp.MustCompile(`Could not resolve host|Failed to connect|Couldn't connect|Connection timed out|The requested URL returned error: 5`)

func (e *StepError) network() bool {
	return networkFault.MatchString(e.Output) || gitFault.MatchString(e.Output)
}

func (e *StepError) stopped() bool {
	return errors.Is(e.Err, context.Canceled) || errors.Is(e.Err, context.DeadlineExceeded)
}

// Hint returns the next step, or "".
func (e *StepError) Hint() string {
	switch {
	case e.stopped():
		return ""
	case e.hint != "":
		return e.hint
	case e.network():
		return "the network or a server failed: check GOPROXY and the proxy settings, then try again"
	}
	text := fmt.Sprint(e.Output, "\n", e.Err)
	for _, h := range hints {
		if h.match.MatchString(text) {
			return h.next
		}
	}
	return ""
}

// hints turns what go (1.21 to 1.26) and git say into the next step; the first
// match counts.
var hints = []struct {
	match *regexp.Regexp
	next  string
}{
	{regexp.MustCompile(`executable file not found`),
		"install the program, or put it on PATH"},
	{regexp.MustCompile(`flag provided but not defined: -toolchain`),
		"the go command is older than 1.21; install a newer one, the compiler image brings its own"},
	{regexp.MustCompile(`checksum mismatch|SECURITY ERROR`),
		"the downloaded module is not the one that go.sum or the checksum database knows: find out why the proxy serves other content before removing any line from go.sum"},
	{regexp.MustCompile(`verifying (module|go\.mod)|checksum database|sum\.golang\.org`),
		"the checksum database does not know this module: for a private module or a proxy of your own set GONOSUMDB (or GOPRIVATE) to its path"},
	{regexp.MustCompile(`terminal prompts disabled|could not read Username|Permission denied \(publickey\)|Authentication failed|401 Unauthorized|403 Forbidden`),
		"the server refuses: give it credentials through netrc, a git credential helper or the SSH agent, or name another source in GOPROXY or GOPRIVATE"},
	{regexp.MustCompile(`module path must match major version`),
		"ask for a commit instead of a tag; a module without /vN in its path has no versions from v2 on"},
	{regexp.MustCompile(`requires go >?=? ?\d|requires go1|invalid go version|unknown directive: toolchain|toolchain not available|errors parsing go.mod`),
		"a module asks for a newer Go than the go command is: install that Go or set GOTOOLCHAIN=auto; if it is newer than the release's compiler too, require an older version of that module"},
	{regexp.MustCompile(`module lookup disabled by GOPROXY=off`),
		"GOPROXY=off forbids downloads: fill the module cache first, or set GOPROXY to a proxy that has the modules"},
	{regexp.MustCompile(`but does not contain package|no required module provides package|no matching versions for query "latest"`),
		"the plugin imports a package that this release of the gateway does not have: change the import"},
	{regexp.MustCompile(`unknown revision|invalid version|no matching versions|not found: |reading file://.*no such file`),
		"the proxy or repository does not have that commit: check GOPROXY, or set GOPRIVATE to fetch from the repository itself; private repositories need credentials"},
	{regexp.MustCompile(`declares its path as`),
		"a module is required under another path than its own: a replace directive of the gateway's go.mod is missing"},
	{regexp.MustCompile(`no space left on device|disk quota exceeded`),
		"the disk is full: free space in the module's directory, GOMODCACHE and TMPDIR, then try again"},
}

// credentials in URLs, as git and proxies repeat them.
var credentials = regexp.MustCompile(`(://[^/\s:@]*):[^/\s@]+@`)

// tokens are credentials without a password.
var tokens = regexp.MustCompile(`(https?://)[^/\s:@]+@`)

func redact(s string) string {
	return tokens.ReplaceAllString(credentials.ReplaceAllString(s, "$1:xxxxx@"), "${1}xxxxx@")
}
