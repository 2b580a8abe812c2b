package debpkg

import (
	"errors"
	"regexp"
	"strings"
)

// What went wrong, for errors.Is. All but the last group are rows of apt's and
// dpkg's failure catalogue; the details are in [Error].
var (
	ErrConnection = errors.New("the connection to the host failed")
	ErrNotRoot    = errors.New("root is needed")

	ErrNoVersion       = errors.New("no source offers this version")
	ErrNoPackage       = errors.New("no source offers this package")
	ErrDepends         = errors.New("dependencies cannot be met")
	ErrDowngrade       = errors.New("it would be a downgrade")
	ErrHeld            = errors.New("it would change a held package")
	ErrRemoval         = errors.New("it would remove packages")
	ErrLocked          = errors.New("another package manager is at work")
	ErrNetwork         = errors.New("a source cannot be reached")
	ErrSignature       = errors.New("a source is not signed with a known key")
	ErrStale           = errors.New("a source no longer has what its index says")
	ErrConffile        = errors.New("a configuration file needs a decision")
	ErrScript          = errors.New("a package's maintainer script failed")
	ErrDiskFull        = errors.New("the disk is full")
	ErrInterrupted     = errors.New("dpkg was interrupted earlier")
	ErrUnauthenticated = errors.New("the package comes from a source without a signature")
	ErrDeb             = errors.New("this is not the .deb file that was asked for")
	ErrApt             = errors.New("apt or dpkg failed")

	ErrRefused    = errors.New("the plan is refused")
	ErrChanged    = errors.New("the host has changed since the plan was made")
	ErrOutcome    = errors.New("the packages are not what was planned")
	ErrUnit       = errors.New("a unit does not run")
	ErrNoRollback = errors.New("the earlier version cannot be had any more")
)

// Error is a failed operation on a host.
type Error struct {
	Op     string // verb and object: "install tyk-gateway=5.2.5"
	Kind   error  // one of the sentinels
	Detail string // the lines of output that tell, or what else is known
	Output string // everything that was printed
	Next   string // what to do
	Retry  bool
	Cause  error
}

// Unwrap lets errors.Is find both the sentinel and the cause.
func (e *Error) Unwrap() []error {
	if e.Cause == nil {
		return []error{e.Kind}
	}
	return []error{e.Kind, e.Cause}
}

// Retryable says whether the same call may succeed later.
func (e *Error) Retryable() bool { return e.Retry }

// Hint is the next step, or empty.
func (e *Error) Hint() string { return e.Next }

func (e *Error) Error() string {
	text := e.Op + ": " + e.Kind.Error()
	switch {
	case e.Detail != "":
		text += ": " + e.Detail
	case e.Cause != nil:
		text += ": " + e.Cause.Error()
	}
	if e.Next != "" {
		text += "; " + e.Next
	}
	return text
}

// failure is one row of the catalogue: a text of apt or dpkg and what it means.
type failure struct {
	text  *regexp.Regexp
	kind  error
	retry bool
	next  string
}

// Seen with apt 2.0 (Ubuntu 20.04) to 3.0 (Debian 13) in the C locale; apt's
// exit code is 100 throughout. The first row that matches names the failure,
// so causes stand before their consequences.
var failures = []failure{
	{regexp.MustCompile(`.*are you root\?.*|dpkg: error: .*requires superuser privilege.*|.*open lock file \S+/lock .*Permission denied.*`),
		ErrNotRoot, false, "run as root or through Sudo"},
	{regexp.MustCompile(`Could not get lock \S+.*|[Uu]nable to (?:lock|acquire) .*lock.*|dpkg: error: .*lock.* (?:was|is) locked by .*`),
		ErrLocked, true, "wait for the other program to end"},
	{regexp.MustCompile(`.*dpkg was interrupted, you must manually run.*`),
		ErrInterrupted, false, "call Repair first"},
	{regexp.MustCompile(`.*No space left on device.*|.*You don't have enough free space in.*`),
		ErrDiskFull, false, "free some space, then repair or revert"},
	{regexp.MustCompile(`E: Version '.*' for '.*' was not found`),
		ErrNoVersion, false, "update the package lists, and choose from what is available"},
	{regexp.MustCompile(`E: Unable to locate package .*|E: Package '.*' has no installation candidate|E: Couldn't find any package by.*`),
		ErrNoPackage, false, "update the package lists, and check that a source for this component is set up"},
	{regexp.MustCompile(`E: Packages were downgraded and -y was used without --allow-downgrades.*`),
		ErrDowngrade, false, "plan it, which allows what was asked for"},
	{regexp.MustCompile(`E: Held packages were changed and -y was used without --allow-change-held-packages.*`),
		ErrHeld, false, "name the held package in the request, or leave it alone"},
	{regexp.MustCompile(`E: Packages need to be removed but remove is disabled.*`),
		ErrRemoval, false, "ask for the removal in the request if it is meant"},
	{regexp.MustCompile(`E: There were unauthenticated packages and -y was used.*|.*--allow-unauthenticated.*`),
		ErrUnauthenticated, false, "give the source a signed-by key"},
	{regexp.MustCompile(`.*NO_PUBKEY.*|.*(?:BADSIG|EXPKEYSIG|REVKEYSIG|EXPSIG).*|.*[Mm]issing key [0-9A-F]{8,}.*|E: The repository .* is not signed.*|.*signatures? couldn't be verified.*|.*is no longer signed.*`),
		ErrSignature, false, "install the publisher's key and name it in the source's signed-by"},
	{regexp.MustCompile(`.*File has unexpected size.*|.*Hash Sum mismatch.*|E: Failed to fetch \S+\.deb\s+404.*`),
		ErrStale, true, "update the package lists and plan again"},
	{regexp.MustCompile(`.*does not have a Release file.*|[EW]: Failed to fetch .*|W: Some index files failed to download.*|E: Unable to fetch some archives.*|E: Could not (?:resolve|connect).*`),
		ErrNetwork, true, "check the network, the proxy and the address of the source"},
	{regexp.MustCompile(`.*end of file on stdin at conffile prompt.*`),
		ErrConffile, false, "call Repair, which keeps the edited file, then look at the .dpkg-dist beside it"},
	{regexp.MustCompile(`.*(?:installed|old|new) \S+ package \S+ script subprocess returned error exit status.*|.*subprocess .*(?:pre|post)(?:inst|rm).* returned error exit status.*|.*script subprocess (?:was killed|failed).*`),
		ErrScript, false, "look at what the script printed, then call Repair or Revert"},
	{regexp.MustCompile(`(?s)The following packages have unmet dependencies:\n.*?(?:\nE: .*|$)|.*dependency problems.*`),
		ErrDepends, false, "request the missing packages too, or add the source that has them"},
}

// classify finds the row of the catalogue that output shows; unknown output is
// an [ErrApt] with its last error lines.
func classify(op, output string, cause error) *Error {
	e := &Error{Op: op, Kind: ErrApt, Output: output, Cause: cause, Next: "read the whole output"}
	for _, f := range failures {
		if lines := f.text.FindString(output); lines != "" {
			e.Kind, e.Retry, e.Next = f.kind, f.retry, f.next
			e.Detail = strings.TrimSpace(lines)
			return e
		}
	}
	var last []string
	for line := range strings.Lines(output) {
		if strings.HasPrefix(line, "E: ") || strings.HasPrefix(line, "dpkg: error") {
			last = append(last, strings.TrimSpace(line))
		}
	}
	if len(last) == 0 {
		last = strings.Split(strings.TrimSpace(output), "\n")
	}
	e.Detail = strings.Join(last[max(0, len(last)-5):], "\n")
	return e
}
