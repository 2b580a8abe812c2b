package mongodb

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"go.mongodb.org/mongo-driver/mongo"
	"go.mongodb.org/mongo-driver/x/mongo/driver/topology"

	"example.com/tykupgrade/backup"
	"example.com/tykupgrade/backup/internal/step"
	"example.com/tykupgrade/internal/redact"
)

// Errors that callers match with errors.Is, next to those of package backup.
var (
	// ErrRejected: the server rejected documents, for example because of a unique index or a
	// size limit. No document is skipped silently.
	ErrRejected = errors.New("documents were rejected")
	// ErrUnaccepted: an earlier restore still keeps the collections that it replaced. Call
	// Accept or Undo first.
	ErrUnaccepted = errors.New("an earlier restore keeps the collections that it replaced")
)

// Codes of MongoDB errors that need special handling.
const (
	codeUnauthorized        = 13
	codeAuthFailed          = 18
	codeNamespaceNotFound   = 26
	codeCursorNotFound      = 43
	codeNamespaceExists     = 48
	codeCommandNotFound     = 59
	codeQueryPlanKilled     = 175
	codeNotImplemented      = 238 // FerretDB
	codeSnapshotTooOld      = 239
	codeSnapshotUnavailable = 246
	codeDuplicateKey        = 11000
)

// passing are the codes after which the same read may succeed: the list of the retryable reads
// specification, and lost cursors.
var passing = map[int32]bool{
	6: true, 7: true, 89: true, 91: true, 134: true, 189: true, 262: true, 9001: true, 10107: true,
	11600: true, 11602: true, 13435: true, 13436: true,
	codeCursorNotFound: true, 136: true, 237: true, // CursorNotFound, CappedPositionLost, CursorKilled
}

func code(err error) int32 {
	var command mongo.CommandError
	if errors.As(err, &command) {
		return command.Code
	}
	return 0
}

// transient reports whether another attempt may succeed.
func transient(err error) bool {
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) &&
		!mongo.IsTimeout(err) {
		return false
	}
	// A pool that the driver cleared because another connection broke is Retryable.
	return passing[code(err)] || mongo.IsNetworkError(err) || step.Retryable(err)
}

// fail turns an error of the driver into one of package backup, without secrets and with a hint.
func (c *conn) fail(op, object string, err error) error {
	if err == nil {
		return nil
	}
	var ours *backup.Error
	if errors.As(err, &ours) {
		return err
	}
	e := &backup.Error{Op: op, Object: object, Err: c.scrub(err), Retry: transient(err)}
	switch code := code(err); {
	case code == codeUnauthorized:
		e.Kind = backup.ErrNotAllowed
		e.Next = "grant the user the role backup (to back up), or restore and readWrite (to restore), " +
			"on the database"
	case code == codeAuthFailed || strings.Contains(err.Error(), "AuthenticationFailed"):
		e.Next = "check user, password and authSource"
	case code == codeSnapshotTooOld:
		e.Next = "raise minSnapshotHistoryWindowInSeconds on the server, or back up without a snapshot"
	case strings.Contains(err.Error(), "x509: "):
		e.Retry = false
		e.Next = "trust the CA of the server's certificate, and use a host name in the certificate"
	case mongo.IsTimeout(err) || mongo.IsNetworkError(err):
		e.Retry = true
		e.Next = "check that the server runs and is reachable from this machine"
	}
	return e
}

// brief says why no server was chosen, where the driver describes the whole deployment.
func brief(err error) error {
	var none topology.ServerSelectionError
	if !errors.As(err, &none) {
		return err
	}
	var causes, kinds []string
	for _, s := range none.Desc.Servers {
		kinds = append(kinds, fmt.Sprintf("%s is %s", s.Addr, s.Kind))
		cause := s.LastError
		var dial topology.ConnectionError
		if errors.As(cause, &dial) && dial.Wrapped != nil {
			cause = dial.Wrapped
		}
		if cause == nil {
			continue
		}
		if text := cause.Error(); !slices.Contains(causes, text) {
			causes = append(causes, text)
		}
	}
	if len(causes) == 0 {
		causes = append([]string{"no server can be used"}, kinds...)
	}
	return &unreached{strings.Join(causes, "; "), err}
}

// unreached keeps the driver's error for errors.As.
type unreached struct {
	text string
	err  error
}

func (u *unreached) Error() string { return u.text }
func (u *unreached) Unwrap() error { return u.err }

// scrub makes sure that no secret is in the text, nor in that of a cause.
func (c *conn) scrub(err error) error {
	err = brief(err)
	text := err.Error()
	if clean := redact.Secrets(text, c.secrets...); clean != text {
		return errors.New(clean)
	}
	return err
}
