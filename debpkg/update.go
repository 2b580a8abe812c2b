package debpkg

import (
	"cmp"
	"context"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"example.com/tykupgrade/internal/printable"
)

// SourceFailure is one source that an update could not read or trust.
type SourceFailure struct {
	URI    string // credentials removed
	Entry  string // file:line of the entry in apt's sources, where it is known
	Kind   error  `json:"-"` // ErrNetwork or ErrSignature
	Reason string
}

// UpdateError says which sources failed. apt then goes on with the package
// lists of earlier updates for these.
type UpdateError struct {
	Failures []SourceFailure
	Output   string // everything that apt printed
}

func (e *UpdateError) Error() string {
	var parts []string
	for _, f := range e.Failures {
		text := f.URI
		if f.Entry != "" {
			text += " (" + f.Entry + ")"
		}
		parts = append(parts, text+": "+f.Reason)
	}
	return printable.Text("update the package lists: " + strings.Join(parts, "; ") + "; " + e.Hint())
}

// Unwrap lets errors.Is find ErrNetwork and ErrSignature.
func (e *UpdateError) Unwrap() []error {
	var kinds []error
	for _, f := range e.Failures {
		kinds = append(kinds, f.Kind)
	}
	return kinds
}

// Retryable is true unless a signature is the trouble.
func (e *UpdateError) Retryable() bool {
	return !slices.ContainsFunc(e.Failures, func(f SourceFailure) bool { return f.Kind == ErrSignature })
}

// Hint is the next step.
func (e *UpdateError) Hint() string {
	if e.Retryable() {
		return "check the network, the proxy and the address of the source"
	}
	return "install the publisher's key and name it in the source's signed-by"
}

// Update fetches the package lists. Unlike `apt-get update`, which succeeds
// when the network is down or a key is missing as long as an older list exists,
// it returns an [UpdateError] for every source that failed, on every apt
// version. It waits for other package managers like Apply does.
func (h *Host) Update(ctx context.Context) error {
	op := task{"update", "the package lists"}
	h.event(Event{Kind: EventStep, Text: op.String()})
	return h.retryLocked(ctx, op, func() error {
		// Error-Mode exists since apt 2.1.16; older ones ignore it and are
		// judged by what they print.
		out, err := h.both(ctx, "apt-get", "-q", "-o", "APT::Update::Error-Mode=any", "update")
		if ctx.Err() != nil {
			return op.wrap(cmp.Or(err, ended(ctx)))
		}
		text := out.String()
		failures := parseUpdate(text)
		switch {
		case err == nil && len(failures) == 0:
			return nil
		case len(failures) == 0:
			return aptError(op, out, err)
		}
		if e := aptError(op, out, err); e.is(ErrLocked) || e.is(ErrNotRoot) || e.is(ErrDiskFull) || e.is(ErrConnection) {
			return e
		}
		// What the sources' files say is a help, not a condition.
		sources, _ := h.Sources(ctx)
		for i, f := range failures {
			failures[i].Entry = entryOf(sources, f.URI)
		}
		return &UpdateError{Failures: failures, Output: text}
	})
}

func (e *Error) is(kind error) bool { return e.Kind == kind }

var (
	fetchLine  = regexp.MustCompile(`^[WE]: Failed to fetch (\S+)\s+(.*)$`)
	errLine    = regexp.MustCompile(`^Err:\d+ (\S+)(.*)$`)
	gpgLine    = regexp.MustCompile(`^[WE]: (?:OpenPGP signature verification failed|GPG error|An error occurred during the signature verification\..*(?:GPG error|failed)): (\S+) (.*)$`)
	repoLine   = regexp.MustCompile(`^[WE]: The repository '(\S+)[^']*' (is not signed|is no longer signed|does not have a Release file|no longer has a Release file|provides only weak security information|does no longer have a Release file).*$`)
	badKey     = regexp.MustCompile(`NO_PUBKEY|BADSIG|EXPKEYSIG|REVKEYSIG|EXPSIG|[Mm]issing key|not signed|no longer signed|signatures? (?:couldn't|could not) be verified|[Ss]ignature verification|weak security`)
	refetchTag = regexp.MustCompile(`(?:/|\s)(?:In)?Release(?:\.gpg)?$`)
)

// parseUpdate finds the failing sources in what apt-get update printed. One
// source shows up in several lines; the first reason of each kind is kept.
func parseUpdate(text string) []SourceFailure {
	var list []SourceFailure
	lines := strings.Split(text, "\n")
	add := func(uri, reason string) {
		f := SourceFailure{URI: refetchTag.ReplaceAllString(uri, ""), Kind: ErrNetwork, Reason: strings.TrimSpace(reason)}
		f.URI = strings.TrimRight(strings.TrimSuffix(strings.TrimRight(f.URI, "/"), "/."), "/")
		if badKey.MatchString(reason) {
			f.Kind = ErrSignature
		}
		for i, old := range list {
			if strings.HasPrefix(f.URI, old.URI) || strings.HasPrefix(old.URI, f.URI) {
				// A signature's trouble says more than that fetching failed.
				if f.Kind == ErrSignature && old.Kind != ErrSignature {
					list[i].Kind, list[i].Reason = f.Kind, f.Reason
				}
				return
			}
		}
		list = append(list, f)
	}
	for i, line := range lines {
		if m := fetchLine.FindStringSubmatch(line); m != nil {
			add(m[1], m[2])
		} else if m := gpgLine.FindStringSubmatch(line); m != nil {
			add(m[1], m[2])
		} else if m := repoLine.FindStringSubmatch(line); m != nil {
			add(m[1], m[2])
		} else if m := errLine.FindStringSubmatch(line); m != nil {
			reason := strings.TrimSpace(m[2])
			if i+1 < len(lines) && strings.HasPrefix(lines[i+1], "  ") {
				reason = lines[i+1]
			}
			add(m[1], reason)
		}
	}
	return list
}

func entryOf(sources []Source, uri string) string {
	best, at := 0, ""
	for _, s := range sources {
		for _, u := range s.URIs {
			u = bare(u)
			if strings.HasPrefix(bare(uri), u) && len(u) > best {
				best, at = len(u), fmt.Sprintf("%s:%d", s.File, s.Line)
			}
		}
	}
	return at
}
