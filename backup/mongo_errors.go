package backup

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"go.mongodb.org/mongo-driver/mongo"

	"example.com/tykupgrade/backup/internal/step"
)

// Codes of MongoDB errors that mean something to us.
const (
	codeUnauthorized        = 13
	codeAuthFailed          = 18
	codeNamespaceNotFound   = 26
	codeCursorNotFound      = 43
	codeNamespaceExists     = 48
	codeCommandNotFound     = 59
	codeQueryPlanKilled     = 175
	codeSnapshotTooOld      = 239
	codeSnapshotUnavailable = 246
	codeDuplicateKey        = 11000
)

// transient are the codes after which the same read may work: the list of the
// retryable reads specification, and cursors that went with their server.
var transient = map[int32]bool{
	6: true, 7: true, 89: true, 91: true, 134: true, 189: true, 262: true, 9001: true, 10107: true, 11600: true, 11602: true, 13435: true, 13436: true,
	codeCursorNotFound: true, 136: true, 237: true, // CursorNotFound, CappedPositionLost, CursorKilled
}

func mongoCode(err error) int32 {
	var command mongo.CommandError
	if errors.As(err, &command) {
		return command.Code
	}
	return 0
}

// mongoTransient says whether doing the same again may help.
func mongoTransient(err error) bool {
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) && !mongo.IsTimeout(err) {
		return false
	}
	// The driver tells by a method of this name of a pool that it cleared because
	// another connection broke.
	return transient[mongoCode(err)] || mongo.IsNetworkError(err) || step.Retryable(err)
}

// fail turns an error of the driver's into one of ours: without secrets, with
// the next step.
func (c *mongoConn) fail(op, object string, err error) error {
	if err == nil {
		return nil
	}
	var ours *Error
	if errors.As(err, &ours) {
		return err
	}
	e := &Error{Op: op, Object: object, Err: c.scrub(err), Retry: mongoTransient(err)}
	switch code := mongoCode(err); {
	case code == codeUnauthorized:
		e.Err = fmt.Errorf("%w: %w", ErrNotAllowed, e.Err)
		e.Next = "grant the user the roles backup (to back up) or restore and readWrite (to restore), or read on the database"
	case code == codeAuthFailed || strings.Contains(err.Error(), "AuthenticationFailed"):
		e.Next = "check user, password and authSource"
	case code == codeSnapshotTooOld:
		e.Next = "raise minSnapshotHistoryWindowInSeconds on the server, or back up without a snapshot"
	case strings.Contains(err.Error(), "x509: "): // server selection keeps it as text alone
		e.Retry = false
		e.Next = "trust the CA of the server's certificate, and use the host name that it is for"
	case mongo.IsTimeout(err) || mongo.IsNetworkError(err):
		e.Retry = true
		e.Next = "check that the server runs and can be reached from here"
	}
	return e
}

// scrub makes sure that no secret is in the text, nor in that of a cause.
func (c *mongoConn) scrub(err error) error {
	text := err.Error()
	for _, s := range c.secrets {
		if strings.Contains(text, s) {
			for _, s := range c.secrets {
				text = strings.ReplaceAll(text, s, "***")
			}
			return errors.New(text)
		}
	}
	return err
}
