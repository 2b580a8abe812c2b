package postgres

import (
	"context"
	"errors"
	"strings"

	"example.com/tykupgrade/backup"
	"example.com/tykupgrade/backup/internal/step"
	"example.com/tykupgrade/internal/lazyregexp"
)

// Errors that callers match with errors.Is. Those of package backup apply too:
// ErrTooNew, ErrNotEmpty, ErrDiffers, ErrDamaged, ErrNoSpace, ErrNotAllowed.
var (
	ErrConnection = errors.New("the server cannot be reached")
	ErrLogin      = errors.New("the server refuses the login")
	ErrNoDatabase = errors.New("the database does not exist")
	ErrTools      = errors.New("a PostgreSQL client program cannot be used")
	ErrToolTooOld = errors.New("the client program is older than the server")
	ErrInUse      = errors.New("other clients use the database")
	ErrMissing    = errors.New("the target server lacks something that the set needs")
	ErrAborted    = errors.New("the server ended the command")
)

// sayings maps messages of libpq, the server (15) and the tools to sentinels.
var sayings = []struct {
	match *lazyregexp.Regexp
	kind  error
	next  string
	retry bool
}{
	// A block of 8 KiB may fit in half.
	{lazyregexp.New(`No space left on device|53100|disk full|wrote only \d+ of \d+ bytes`),
		backup.ErrNoSpace, "free some space for the data, then try again", true},
	{lazyregexp.New(
		`password authentication failed|no password supplied|fe_sendauth|no pg_hba\.conf entry|Peer authentication failed|Ident authentication failed|role ".*" does not exist|certificate authentication failed`),
		ErrLogin, "check user, password and pg_hba.conf", false},
	{lazyregexp.New(`FATAL: .*database ".*" does not exist`), ErrNoDatabase,
		"check the name of the database", false},
	{lazyregexp.New(
		`42501|permission denied|must be owner|must be superuser|query would be affected by row-level security`),
		backup.ErrNotAllowed, "grant the user the permission, or use the owner of the database", false},
	{lazyregexp.New(`aborting because of server version mismatch`), ErrToolTooOld,
		"install the client programs of the server's version", false},
	{lazyregexp.New(`unsupported version \(.*\) in file header`), backup.ErrTooNew,
		"use the client programs of the version that wrote the archive, or newer ones", false},
	{lazyregexp.New(
		`55P03|canceling statement due to (?:lock|statement) timeout|could not obtain lock|deadlock detected`),
		ErrInUse, "another session changes tables; try again when it has finished", true},
	{lazyregexp.New(
		`55006|is being accessed by other users|There (?:is|are) \d+ other sessions? using the database`),
		ErrInUse, "stop the clients first, or set EndClients", true},
	{lazyregexp.New(
		`57P0[123]|terminating connection|server closed the connection unexpectedly|SSL SYSCALL error|Connection reset|no connection to the server|could not (?:send|receive) data|connection to server was lost|the database system is (?:starting up|shutting down|in recovery)`),
		ErrAborted, "read the server's log, then try again", true},
	{lazyregexp.New(`certificate verify failed|server certificate for|root certificate file|` +
		`server does not support SSL`), ErrConnection,
		"check sslmode and sslrootcert: the server's certificate was not verified", false},
	{lazyregexp.New(
		`42P01|42703|relation ".*" does not exist|could not open relation with OID|cache lookup failed`),
		backup.ErrChanged, "another session changes tables; try again when it has finished", true},
	{lazyregexp.New(
		`could not translate host name|Connection refused|could not connect|connection to server .* failed|timeout expired|No route to host`),
		ErrConnection, "check host, port and firewall", true},
	{lazyregexp.New(`not found|cannot execute|No such file or directory: psql`), ErrTools,
		"install postgresql-client where the tools run, or set Bin", false},
	{lazyregexp.New(
		`could not read from input file|corrupt|did not find magic string|could not uncompress|invalid|unexpected end of file|not appear to be a valid archive`),
		backup.ErrDamaged, "use another set", false},
}

// toolError returns the error of a failed tool, with the lines that show the cause and their
// sentinel.
func toolError(ctx context.Context, tool string, stderr []string, err error) error {
	if ended := step.Ended(ctx); ended != nil {
		return ended
	}
	var cause []string
	for _, l := range stderr {
		if strings.Contains(l, "ERROR:") || strings.Contains(l, "FATAL:") || strings.Contains(l,
			"error:") || strings.Contains(l, "DETAIL:") || strings.Contains(l, "not found") {
			cause = append(cause, printable(l))
		}
	}
	if len(cause) == 0 {
		for _, l := range stderr[max(0, len(stderr)-3):] {
			cause = append(cause, printable(l))
		}
	}
	text := strings.Join(cause[max(0, len(cause)-4):], " / ")
	e := &backup.Error{Op: "run", Object: tool, Err: err}
	if text != "" {
		e.Err = errors.New(text)
		var full interface{ Unwrap() error }
		if errors.As(err, &full) {
			e.Err = &said{text: text, err: err}
		}
	}
	all := strings.Join(stderr, "\n")
	for _, s := range sayings {
		if s.kind == backup.ErrChanged && tool == "pg_restore" {
			continue // nobody else works in a database that is being restored
		}
		if s.match.MatchString(all) {
			e.Kind, e.Next, e.Retry = s.kind, s.next, s.retry
			break
		}
	}
	return e
}

// said has the output of a tool as its text, and the error of the run for errors.As.
type said struct {
	text string
	err  error
}

func (s *said) Error() string { return s.text }
func (s *said) Unwrap() error { return s.err }

// printable replaces control characters, because a server's messages may contain data.
func printable(s string) string {
	return strings.TrimSpace(strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r >= 0x80 && r < 0xa0 || r >= 0x202a && r <= 0x202e || r >= 0x2066 &&
			r <= 0x2069 {
			return ' '
		}
		return r
	}, s))
}
