package redisdb

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"example.com/tykupgrade/backup"
)

// mayRun asks whether the user may run commands, and whether the server would take them,
// without running them: they are queued in a transaction that is discarded. Servers check
// both when they queue: permissions from Redis 6.0 on, which is the first with users.
func (n *node) mayRun(ctx context.Context, commands ...[]string) error {
	c, err := n.open(ctx, 0)
	if err != nil {
		return err
	}
	defer c.close()
	fail := func(command []string, err error) error {
		e := serverError("restore", n.object(), ctxFirst(ctx, err))
		var known *backup.Error
		if errors.As(e, &known) && denied(err) {
			known.Err = fmt.Errorf("the user may not run %s: %w", command[0], err)
			known.Next = "give the user this permission"
			if unknownCommand(err) {
				known.Next = "set Commands if the server has renamed " + command[0]
			}
		}
		return e
	}
	if _, err := c.command("MULTI"); err != nil {
		return fail([]string{"MULTI, which is needed to check permissions"}, err)
	}
	var refused error
	for _, args := range commands {
		_, err := c.command(args...)
		switch {
		case err == nil:
		case !isReply(err):
			return fail(args, err)
		case denied(err) && refused == nil:
			refused = fail(args, err)
		case noWrites(err) && refused == nil:
			refused = refuse(n, ErrCannotHold, "repair the server first", "it refuses %s: %w", args[0], err)
		}
	}
	// The connection is closed in any case, which discards as well.
	if _, err := c.command("DISCARD"); err != nil && !isReply(err) {
		return fail([]string{"DISCARD"}, err)
	}
	return refused
}

// noWrites is the answer of a server that takes no writes now, whoever asks: its last save
// failed, too few replicas are connected, it is a replica, its cluster is down (seen in
// Redis 7.0).
func noWrites(err error) bool {
	for _, code := range []string{"MISCONF", "NOREPLICAS", "READONLY", "MASTERDOWN", "CLUSTERDOWN"} {
		if strings.HasPrefix(reply(err), code+" ") {
			return true
		}
	}
	return false
}

// needed lists what a restore into n runs: there and, after a failure, back.
// keys are some of the set's.
func (t *target) needed(keys []string) [][]string {
	if len(keys) == 0 {
		keys = []string{"key"}
	}
	var commands [][]string
	for _, k := range keys { // a user may be allowed certain keys alone
		commands = append(commands, []string{"RESTORE", k, "0", "x"}, []string{"UNLINK", k},
			[]string{"DUMP", k})
	}
	if t.holds {
		commands = append(commands, []string{"FLUSHALL"})
	}
	if t.functions {
		commands = append(commands, []string{"FUNCTION", "FLUSH"}, []string{"FUNCTION", "LOAD", "REPLACE",
			"x"})
	}
	return commands
}
