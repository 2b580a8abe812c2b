package debpkg

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"example.com/tykupgrade/internal/lazyregexp"
	"example.com/tykupgrade/internal/printable"
)

// SourceFailure is one source that an update could not read or trust.
type SourceFailure struct {
	URI    string // credentials removed
	Entry  string // file:line of the entry in apt's sources, where it is known
	Kind   error  `json:"-"`          // ErrNetwork, ErrSignature or ErrSource
	Status int    `json:",omitempty"` // of HTTP, 401 for instance; 0: none
	Reason string // apt's own words
	Next   string // what to do
}

// UpdateError lists the sources that failed. For these, apt continues with the package lists of
// earlier updates.
type UpdateError struct {
	Failures []SourceFailure
	Output   string // all output of apt
}

func (e *UpdateError) Error() string {
	var parts []string
	for _, f := range e.Failures {
		text := f.URI
		switch {
		case text == "":
			text = f.Entry
		case f.Entry != "":
			text += " (" + f.Entry + ")"
		}
		parts = append(parts, text+": "+f.Reason)
	}
	return printable.Text("update the package lists: " + strings.Join(parts, "; ") + "; " + e.Hint())
}

// Unwrap returns the kinds of the failures, such as ErrNetwork, ErrSignature and ErrSource, for
// errors.Is.
func (e *UpdateError) Unwrap() []error {
	var kinds []error
	for _, f := range e.Failures {
		kinds = append(kinds, f.Kind)
	}
	return kinds
}

// Retryable reports whether every failure is one of the network, without a refusal by a server.
func (e *UpdateError) Retryable() bool {
	return !slices.ContainsFunc(e.Failures, func(f SourceFailure) bool {
		return f.Kind != ErrNetwork || slices.Contains([]int{401, 402, 403, 407}, f.Status)
	})
}

// Hint returns the next step of each failure, without duplicates.
func (e *UpdateError) Hint() string {
	var steps []string
	for _, f := range e.Failures {
		if !slices.Contains(steps, f.Next) {
			steps = append(steps, f.Next)
		}
	}
	return strings.Join(steps, "; ")
}

// Update fetches the package lists. If any source fails, it returns an [UpdateError], with every
// version of apt. `apt-get update` itself succeeds without the network or a key as long as an older
// list exists. Update waits for other package managers, as Apply does.
func (h *Host) Update(ctx context.Context) error {
	op := task{"update", "the package lists"}
	h.event(Event{Kind: EventStep, Text: op.String()})
	return h.retryLocked(ctx, op, func() error {
		// Error-Mode exists since apt 2.1.16; older ones ignore it and are
		// judged by what they print.
		argv := []string{"apt-get", "-q", "-o", "APT::Update::Error-Mode=any"}
		if h.o.AcceptReleaseInfo {
			argv = append(argv, "--allow-releaseinfo-change")
		}
		out, err := h.both(ctx, append(argv, "update")...)
		if ctx.Err() != nil {
			return op.wrap(cmp.Or(err, ended(ctx)))
		}
		failures := parseUpdate(out)
		switch {
		case err == nil && len(failures) == 0:
			return nil
		case len(failures) == 0:
			return aptError(op, out, err)
		}
		if e := aptError(op, out, err); e.is(ErrLocked) || e.is(ErrNotRoot) || e.is(ErrDiskFull) ||
			e.is(ErrConnection) {
			return e
		}
		// The sources' files help, but are not required.
		sources, _ := h.Sources(ctx)
		for i, f := range failures {
			if f.Entry == "" {
				failures[i].Entry = entryOf(sources, f.URI)
			}
		}
		h.lookAtKeys(ctx, sources, failures)
		return &UpdateError{Failures: failures, Output: out.String()}
	})
}

// keysScript says what is wrong with key files: $1 root, then the files.
const keysScript = `root=$1; shift
for f; do
	if [ ! -e "$f" ]; then w='does not exist'
	elif [ ! -s "$f" ]; then w='is empty'
	elif head -c 300 "$f" | grep -qi '<html\|<!doctype'; then w='is an HTML page, not a key'
	elif [ -z "$root" ] && [ "$(id -u)" = 0 ] && id _apt >/dev/null 2>&1 && ! setpriv --reuid=_apt --clear-groups test -r "$f" 2>/dev/null; then w='cannot be read by the user _apt'
	else w=; fi
	printf '%s\t%s\n' "$f" "$w"
done`

// lookAtKeys adds the faults of the key files of sources that are not signed with a known key. If
// the check itself fails, it adds nothing.
func (h *Host) lookAtKeys(ctx context.Context, sources []Source, failures []SourceFailure) {
	for i, f := range failures {
		if f.Kind != ErrSignature {
			continue
		}
		for _, s := range sources {
			if fmt.Sprintf("%s:%d", s.File, s.Line) != f.Entry {
				continue
			}
			files := slices.DeleteFunc(strings.FieldsFunc(s.SignedBy, func(r rune) bool {
				return r == ' ' ||
					r == ','
			}), func(k string) bool { return !strings.HasPrefix(k, "/") })
			if len(files) == 0 {
				continue
			}
			out, err := h.script(ctx, nil, "keys", append([]string{h.o.Root}, files...)...)
			if err != nil {
				return
			}
			for _, row := range fields(out, 2) {
				if row[1] != "" {
					failures[i].Reason += "; the key file " + row[0] + " " + row[1]
				}
			}
		}
	}
}

func (e *Error) is(kind error) bool { return e.Kind == kind }

var (
	fetchLine = lazyregexp.New(`^[WE]: Failed to fetch (\S+)\s+(.*)$`)
	errLine   = lazyregexp.New(`^Err:\d+ (\S+)(.*)$`)
	gpgLine   = lazyregexp.New(
		`^[WE]: (?:OpenPGP signature verification failed|GPG error|An error occurred during the signature verification\..*(?:GPG error|failed)): (\S+) (.*)$`)
	repoLine = lazyregexp.New(
		`^[WE]: The repository '(\S+)[^']*' (is not signed|is no longer signed|does not have a Release file|no longer has a Release file|provides only weak security information|does no longer have a Release file).*$`)
	changeLine = lazyregexp.New(`^E: Repository '(\S+)[^']*' (changed its '.*)$`)
	validLine  = lazyregexp.New(`^E: Release file for (\S+) (is expired|is not valid yet)(.*)$`)
	valueLine  = lazyregexp.New(
		`^E: (Conflicting values set for option \S+ regarding source (\S+).*)$`)
	entryLine = lazyregexp.New(
		`^E: (Malformed (?:entry|stanza|line) (\d+) in (?:list file|source list|\S+ list) (\S+).*)$`)
	badKey = lazyregexp.New(
		`NO_PUBKEY|BADSIG|EXPKEYSIG|REVKEYSIG|EXPSIG|ERRSIG|[Mm]issing key|[Kk]ey.* expired|not signed|no longer signed|signatures? (?:couldn't|could not) be verified|[Ss]ignature verification|weak security|[Pp]olicy rejects|Signing key on \S+ is not bound|not bound: |key is not valid|cannot be read .*keyring|unsupported filetype|[Nn]o (?:acceptable|valid) signature`)
	refetchTag  = lazyregexp.New(`(?:/|\s)(?:In)?Release(?:\.gpg)?$`)
	releaseName = lazyregexp.New(`^.*?(?:In)?Release(?:\.gpg)?: `)
	httpStatus  = lazyregexp.New(`^\s*([45]\d\d)\s`)
)

// rank orders apt's messages about one source. The cause of a failed fetch comes first, then
// messages about the signature. Every failed fetch ends with the message that the repository has
// none.
const (
	rankRepo = iota
	rankFetch
	rankKey
	rankCause
)

// parseUpdate finds the failed sources in the output of apt-get update. If a source has several
// lines, the one of the highest rank counts. The Err: lines of standard output count only if
// standard error has no failure of that source, or only that there is no repository.
func parseUpdate(said said) []SourceFailure {
	var list []SourceFailure
	var ranks []int
	add := func(rank int, f SourceFailure) {
		f.URI = refetchTag.ReplaceAllString(f.URI, "")
		f.URI = strings.TrimRight(strings.TrimSuffix(strings.TrimRight(f.URI, "/"), "/."), "/")
		f.Reason = strings.TrimSpace(f.Reason)
		for i, old := range list {
			if f.URI != "" && old.URI != "" && (strings.HasPrefix(f.URI, old.URI) ||
				strings.HasPrefix(old.URI, f.URI)) {
				if rank > ranks[i] {
					f.URI = min(f.URI, old.URI)
					list[i], ranks[i] = f, rank
				}
				return
			}
		}
		list, ranks = append(list, f), append(ranks, rank)
	}
	fetched := func(uri, reason string) {
		f := SourceFailure{URI: uri, Kind: ErrNetwork, Reason: reason,
			Next: "check the network, the proxy and the address of the source"}
		if strings.HasPrefix(uri, "file:") || strings.HasPrefix(uri, "copy:") {
			f.Next = localNext
		}
		rank := rankFetch
		switch m := httpStatus.FindStringSubmatch(reason); {
		case m != nil:
			f.Status, rank = int(number64(m[1])), rankCause
			switch f.Status {
			case 401, 402, 403, 407:
				f.Next = "check the token or password of the source, and the account's permissions"
			}
		case strings.Contains(reason, "NOSPLIT"), strings.Contains(reason, "NODATA"),
			strings.Contains(reason, "Clearsigned file isn't valid"):
			rank, f.Next = rankCause, "check the answer of the address: a proxy or a login page sends "+
				"something other than the repository"
		case badKey.MatchString(reason):
			f.Kind, rank, f.Next = ErrSignature, rankKey, keyNext
		}
		add(rank, f)
	}
	text := lines(said.err)
	for _, line := range text {
		if m := fetchLine.FindStringSubmatch(line); m != nil {
			fetched(m[1], m[2])
		} else if m := gpgLine.FindStringSubmatch(line); m != nil {
			fetched(m[1], releaseName.ReplaceAllString(m[2], ""))
		} else if m := repoLine.FindStringSubmatch(line); m != nil {
			f := SourceFailure{URI: m[1], Kind: ErrNetwork, Reason: m[2],
				Next: "check the address of the source: no repository is there"}
			if badKey.MatchString(m[2]) {
				f.Kind, f.Next = ErrSignature, keyNext
			}
			add(rankRepo, f)
		} else if m := changeLine.FindStringSubmatch(line); m != nil {
			add(rankCause, SourceFailure{URI: m[1], Kind: ErrSource, Reason: m[2],
				Next: "ask the publisher whether that is intended, then set Options.AcceptReleaseInfo"})
		} else if m := validLine.FindStringSubmatch(line); m != nil {
			next := "ask the publisher, or the owner of the mirror, for a fresh Release file; check the " +
				"host's clock"
			if m[2] == "is not valid yet" {
				next = "set the host's clock"
			}
			add(rankCause, SourceFailure{URI: m[1], Kind: ErrSource, Reason: m[2] + m[3], Next: next})
		} else if m := valueLine.FindStringSubmatch(line); m != nil {
			add(rankCause, SourceFailure{URI: m[2], Kind: ErrSource, Reason: m[1],
				Next: "remove one of the two entries, or give both the same option"})
		} else if m := entryLine.FindStringSubmatch(line); m != nil {
			add(rankCause, SourceFailure{Entry: m[3] + ":" + m[2], Kind: ErrSource, Reason: m[1],
				Next: "fix that entry"})
		}
	}
	known := len(list)
	out := lines(said.out)
	for i, line := range out {
		if m := errLine.FindStringSubmatch(line); m != nil {
			vague := slices.ContainsFunc(list[:known], func(f SourceFailure) bool {
				j := slices.IndexFunc(list, func(g SourceFailure) bool { return g == f })
				return strings.HasPrefix(m[1], f.URI) && ranks[j] == rankRepo
			})
			if known == 0 || vague {
				reason := strings.TrimSpace(m[2])
				if i+1 < len(out) && strings.HasPrefix(out[i+1], "  ") {
					reason = strings.TrimSpace(out[i+1])
				}
				fetched(m[1], reason)
			}
		}
	}
	return list
}

const keyNext = "install the publisher's key and name it in the source's signed-by"

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
