package redisdb

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"example.com/tykupgrade/backup"
)

// mayRun checks whether the user may run commands, and whether the server accepts them. It queues
// them in a transaction and discards it. Servers check commands when they queue them, and
// permissions since Redis 6.0, the first with users.
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
			known.Next = "grant the user this permission"
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
	// Closing the connection discards the transaction too.
	if _, err := c.command("DISCARD"); err != nil && !isReply(err) {
		return fail([]string{"DISCARD"}, err)
	}
	return refused
}

// noWrites reports whether a server refuses writes from any user. Causes are a failed save, too few
// replicas, being a replica, or a cluster that is down (seen in Redis 7.0).
func noWrites(err error) bool {
	for _, code := range []string{"MISCONF", "NOREPLICAS", "READONLY", "MASTERDOWN", "CLUSTERDOWN"} {
		if strings.HasPrefix(reply(err), code+" ") {
			return true
		}
	}
	return false
}

// needed returns the commands of a restore and of its undo. keys are some keys of the set.
func (t *target) needed(keys []string) [][]string {
	if len(keys) == 0 {
		keys = []string{"key"}
	}
	var commands [][]string
	for _, k := range keys { // permissions can depend on keys
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
