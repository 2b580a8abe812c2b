package redisdb

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"strings"
	"syscall"

	"github.com/redis/go-redis/v9"

	"example.com/tykupgrade/backup"
	"example.com/tykupgrade/backup/internal/step"
)

// Errors that callers match with errors.Is, in addition to those of package
// backup.
var (
	// ErrUnfinished: an earlier restore was not finished, accepted or undone. The error
	// describes the state of the server.
	ErrUnfinished = errors.New("an earlier restore is unfinished")
	// ErrCannotHold: the target cannot hold the data. It has too few databases, too little
	// memory, or lacks a module.
	ErrCannotHold = errors.New("the target cannot hold the data")
	// ErrOfflineOnly: only [Offline] can restore the data. Its version is newer than this
	// program reads, or modules keep data outside of keys.
	ErrOfflineOnly = errors.New("it cannot be restored key by key")
	// ErrRestarted: the server was restarted, or replaced by a failover, while [Live] wrote to
	// it. Confirmed keys may be lost.
	ErrRestarted = errors.New("the server was restarted or replaced by a failover meanwhile")
)

// renamed returns the server's name for a command.
func renamed(names map[string]string, command string) string {
	if name, ok := names[command]; ok {
		return name
	}
	return command
}

// denied reports whether the user may not run a command, or the server does not have it. A command
// may be renamed, disabled by a managed service, or newer.
func denied(err error) bool {
	if err == nil {
		return false
	}
	s := strings.ToLower(reply(err))
	return strings.HasPrefix(s, "noperm") || strings.HasPrefix(s, "err unknown command") ||
		strings.HasPrefix(s, "err unknown subcommand")
}

// unknownCommand reports whether the server has no command of this name.
func unknownCommand(err error) bool {
	return err != nil && strings.HasPrefix(strings.ToLower(reply(err)), "err unknown")
}

// reply returns a server's answer without the text that was added in front.
func reply(err error) string {
	text := err.Error()
	var e redis.Error
	if errors.As(err, &e) {
		text = e.Error()
	}
	return strings.TrimPrefix(text, "-")
}

// serverError adds a sentinel and a hint to a server's error.
func serverError(op, object string, err error) error {
	var done *backup.Error
	if errors.As(err, &done) && done.Op == op && done.Object == object {
		return err
	}
	e := &backup.Error{Op: op, Object: object, Err: err, Retry: step.Retryable(err)}
	s := reply(err)
	var netErr net.Error
	var file *fs.PathError // its cause would pass for a network error's
	switch {
	case strings.HasPrefix(s, "WRONGPASS"), strings.HasPrefix(s, "NOAUTH"):
		e.Next = "check user and password"
	case noTLS(err):
		e.Next = "write redis:// instead of rediss://, or turn TLS on in the server"
	case unknownCommand(err):
		e.Kind = backup.ErrNotAllowed
		e.Next = "set Commands if the server has renamed the command, or use another method"
	case denied(err):
		e.Kind = backup.ErrNotAllowed
		e.Next = "grant the user this permission, or use another method"
	case strings.HasPrefix(s, "OOM "):
		e.Kind, e.Next = ErrCannotHold, "raise maxmemory"
	case strings.HasPrefix(s, "DENIED "): // its text goes on for a page
		first, _, _ := strings.Cut(s, "because")
		e.Err = errors.New(strings.TrimSpace(first))
		e.Next = "connect from the server's own machine, or set a password on the server"
	case strings.HasPrefix(s, "ERR max number of clients"):
		e.Next, e.Retry = "raise maxclients, or wait until others have disconnected", true
	case strings.HasPrefix(s, "LOADING"), strings.HasPrefix(s, "NOMASTERLINK"), strings.HasPrefix(s,
		"MASTERDOWN"), strings.HasPrefix(s, "CLUSTERDOWN"), strings.HasPrefix(s, "BUSY "):
		e.Retry = true
	case noWrites(err):
		e.Kind, e.Next, e.Retry = ErrCannotHold, "repair the server first", true
	case errors.Is(err, syscall.ENOSPC):
		e.Kind, e.Next, e.Retry = backup.ErrNoSpace, step.FreeSpaceHint, true
	case errors.Is(err, context.Canceled), errors.As(err, &file):
	case errors.Is(err, backup.ErrChanged):
		e.Retry = true
	case errors.As(err, &netErr), errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		e.Next, e.Retry = "check that the server runs and can be reached", true
	}
	return e
}

// refuse returns the error for a target that cannot take the set.
func refuse(n *node, kind error, next, format string, a ...any) error {
	return &backup.Error{Op: "restore", Object: n.object(), Kind: kind, Err: fmt.Errorf(format, a...),
		Next: next}
}
