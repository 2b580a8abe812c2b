package debpkg

import (
	"errors"
	"fmt"
	"strings"

	"example.com/tykupgrade/internal/lazyregexp"
	"example.com/tykupgrade/internal/printable"
)

// Errors that callers match with errors.Is. [Error] has the details.
var (
	ErrConnection = errors.New("connection to the host failed")
	ErrNotRoot    = errors.New("root is needed")
	ErrShell      = errors.New("login shell is not a POSIX shell")
	ErrOutput     = errors.New("command printed too much")
	ErrHelper     = errors.New("helper on the host refuses")

	ErrNoVersion       = errors.New("no source offers this version")
	ErrNoPackage       = errors.New("no source offers this package")
	ErrDepends         = errors.New("dependencies cannot be met")
	ErrDowngrade       = errors.New("it would be a downgrade")
	ErrHeld            = errors.New("it would change a held package")
	ErrRemoval         = errors.New("it would remove packages")
	ErrFileConflict    = errors.New("a file belongs to another package")
	ErrLocked          = errors.New("another package manager is at work")
	ErrNetwork         = errors.New("a source cannot be reached")
	ErrSignature       = errors.New("a source is not signed with a known key")
	ErrSource          = errors.New("a source is set up wrongly or has changed")
	ErrStale           = errors.New("a source no longer has what its index says")
	ErrConffile        = errors.New("a configuration file needs a decision")
	ErrScript          = errors.New("a package's maintainer script failed")
	ErrDiskFull        = errors.New("disk is full")
	ErrInterrupted     = errors.New("dpkg was interrupted earlier")
	ErrUnauthenticated = errors.New("package comes from an unsigned source")
	ErrDeb             = errors.New("not the requested .deb file")
	ErrApt             = errors.New("apt or dpkg failed")

	ErrRefused    = errors.New("plan is refused")
	ErrChanged    = errors.New("host has changed since the plan was made")
	ErrOutcome    = errors.New("packages are not as planned")
	ErrUnit       = errors.New("a unit does not run")
	ErrNoRollback = errors.New("earlier version is no longer available")
	ErrUnsafe     = errors.New("others can write to a path that root uses")
)

// Error is a failed operation on a host.
type Error struct {
	Op     string // the action, such as "apply"
	Object string // such as "tyk-gateway=5.2.5"
	Kind   error  // one of the sentinels, or nil
	Err    error  // the cause, or nil
	Detail string // the lines of output that show the cause, or other details
	Output string // all output of the program: standard output, then standard error
	Next   string // what to do
	Retry  bool   // the same call can succeed later
}

// Unwrap returns Kind and Err, for errors.Is and errors.As.
func (e *Error) Unwrap() []error {
	var list []error
	for _, err := range []error{e.Kind, e.Err} {
		if err != nil {
			list = append(list, err)
		}
	}
	return list
}

// Retryable reports whether the same call can succeed later.
func (e *Error) Retryable() bool { return e.Retry }

// Hint returns what to do next. It may be empty.
func (e *Error) Hint() string { return e.Next }

func (e *Error) Error() string {
	parts := []string{task{e.Op, e.Object}.String()}
	if e.Kind != nil {
		parts = append(parts, e.Kind.Error())
	}
	switch {
	case e.Detail != "":
		parts = append(parts, e.Detail)
	case e.Err != nil:
		parts = append(parts, e.Err.Error())
	}
	text := strings.Join(parts, ": ")
	if e.Next != "" {
		text += "; " + e.Next
	}
	return printable.Text(text)
}

// task is a call's action and its object.
type task struct{ verb, object string }

func (o task) String() string { return strings.TrimSpace(o.verb + " " + o.object) }

// fail completes e with the operation.
func (o task) fail(e Error) *Error {
	e.Op, e.Object = o.verb, o.object
	return &e
}

// wrap adds the operation to an error that is not an Error already.
func (o task) wrap(err error) error {
	if err == nil {
		return nil
	}
	if own := (*Error)(nil); errors.As(err, &own) {
		return fmt.Errorf("%s: %w", o, err)
	}
	return o.fail(Error{Err: err})
}

// failure is one row of the catalogue: a text of apt or dpkg and what it means.
type failure struct {
	text  *lazyregexp.Regexp
	kind  error
	retry bool
	next  string
}

// Seen on standard error of apt 2.0 (Ubuntu 20.04) to 3.0 (Debian 13) in the C locale. apt's exit
// code is 100 throughout. The first row that matches names the failure, so causes come before their
// consequences.
var failures = []failure{
	{lazyregexp.New(
		`.*are you root\?.*|dpkg: error: .*requires superuser privilege.*|.*open lock file \S+/lock .*Permission denied.*`),
		ErrNotRoot, false, "run as root, or wrap the Runner in Sudo"},
	{lazyregexp.New(
		`Could not get lock \S+.*|[Uu]nable to (?:lock|acquire) .*lock.*|dpkg: error: .*lock.* (?:was|is) locked by .*`),
		ErrLocked, true, "wait for the other program to end"},
	{lazyregexp.New(`.*dpkg was interrupted, you must manually run.*`),
		ErrInterrupted, false, "call Repair first"},
	{lazyregexp.New(`.*No space left on device.*|.*You don't have enough free space in.*`),
		ErrDiskFull, false, "free some space, then repair or revert"},
	{lazyregexp.New(`dpkg: error processing .*\n\s+trying to overwrite .*`),
		ErrFileConflict, false, "remove the other package in the same request, or ask the publisher"},
	{lazyregexp.New(`E: Version '.*' for '.*' was not found`),
		ErrNoVersion, false, "update the package lists, and choose from what is available"},
	{lazyregexp.New(
		`E: Unable to locate package .*|E: Package '.*' has no installation candidate|E: Couldn't find any package by.*`),
		ErrNoPackage, false, "update the package lists, and check that a source for this " +
			"component is set up"},
	{lazyregexp.New(`E: Packages were downgraded and -y was used without --allow-downgrades.*`),
		ErrDowngrade, false, "make a plan, which allows the requested downgrade"},
	{lazyregexp.New(
		`E: Held packages were changed and -y was used without --allow-change-held-packages.*`),
		ErrHeld, false, "name the held package in the request, or leave it alone"},
	{lazyregexp.New(`E: Packages need to be removed but remove is disabled.*`),
		ErrRemoval, false, "request the removal if you mean it"},
	{lazyregexp.New(
		`E: There were unauthenticated packages and -y was used.*|.*--allow-unauthenticated.*`),
		ErrUnauthenticated, false, "give the source a signed-by key"},
	{lazyregexp.New(
		`E: Malformed (?:entry|stanza|line) .*|E: Conflicting values set for option .*|E: The list of sources could not be read.*|E: The value '.*' is invalid for APT::Default-Release.*|E: Type '.*' is not known .*|E: (?:Opening|Could not open file) \S*sources\S*.*`),
		ErrSource, false, "fix the file that apt names"},
	{lazyregexp.New(
		`.*NO_PUBKEY.*|.*(?:BADSIG|EXPKEYSIG|REVKEYSIG|EXPSIG).*|.*[Mm]issing key [0-9A-F]{8,}.*|E: The repository .* is not signed.*|.*signatures? couldn't be verified.*|.*is no longer signed.*`),
		ErrSignature, false, "install the publisher's key and name it in the source's signed-by"},
	{lazyregexp.New(
		`.*File has unexpected size.*|.*Hash Sum mismatch.*|E: Failed to fetch \S+\.deb\s+404.*`),
		ErrStale, true, "update the package lists and plan again"},
	{lazyregexp.New(`E: Failed to fetch (?:file|copy|cdrom):\S+\s+File not found.*`), ErrNetwork, true,
		localNext},
	{lazyregexp.New(
		`.*does not have a Release file.*|[EW]: Failed to fetch .*|W: Some index files failed to download.*|E: Unable to fetch some archives.*|E: Could not (?:resolve|connect).*`),
		ErrNetwork, true, "check the network, the proxy and the address of the source"},
	{lazyregexp.New(`.*end of file on stdin at conffile prompt.*`),
		ErrConffile, false, "call Repair, which keeps the edited file, then compare it with the " +
			".dpkg-dist next to it"},
	{lazyregexp.New(
		`.*(?:installed|old|new) \S+ package \S+ script subprocess returned error exit status.*|.*subprocess .*(?:pre|post)(?:inst|rm).* returned error exit status.*|.*script subprocess (?:was killed|failed).*`),
		ErrScript, false, "read the output of the script, then call Repair or Revert"},
	{lazyregexp.New(
		`E: Unable to correct problems, you have held broken packages.*|E: Unable to satisfy dependencies.*|E: Broken packages.*|.*dependency problems.*`),
		ErrDepends, false, "request the missing packages too, or add the source that has them"},
}

// localNext is the next step for a source on the host itself, such as a mounted disk.
const localNext = "check that the source's directory is mounted and has the files that its index " +
	"names, then update the package lists"

// classify finds the row of the catalogue that apt's standard error shows. Standard output is only
// for the reader: on a loaded machine its lines land in the middle of others. Unknown output is an
// [ErrApt] with its last error lines.
func classify(o task, out said, cause error) *Error {
	e := o.fail(Error{Kind: ErrApt, Output: out.String(), Err: cause, Next: "read the whole output"})
	for _, f := range failures {
		if lines := f.text.FindString(out.err); lines != "" {
			e.Kind, e.Retry, e.Next, e.Detail = f.kind, f.retry, f.next, strings.TrimSpace(lines)
			if f.kind == ErrDepends {
				// apt names the packages on standard output.
				if more := unmet.FindString(out.out); more != "" {
					e.Detail = strings.TrimSpace(more)
				}
			}
			return e
		}
	}
	e.Detail = lastErrors(out)
	return e
}

var unmet = lazyregexp.New(`The following packages have unmet dependencies:\n(?:[ \t].*\n?)+`)

// lastErrors returns the last lines that apt or dpkg marks as errors, with the indented lines below
// them. If there are none, it returns the last lines.
func lastErrors(out said) string {
	var last []string
	open := false
	for line := range strings.Lines(out.err) {
		line = strings.TrimRight(line, "\r\n")
		switch {
		case strings.HasPrefix(line, "E: "), strings.HasPrefix(line, "dpkg: error"):
			open, last = true, append(last, line)
		case open && strings.HasPrefix(line, " "):
			last = append(last, line)
		default:
			open = false
		}
	}
	if len(last) == 0 {
		text := strings.TrimSpace(out.err)
		if text == "" {
			text = strings.TrimSpace(out.out)
		}
		last = strings.Split(text, "\n")
	}
	return strings.TrimSpace(strings.Join(last[max(0, len(last)-6):], "\n"))
}
