package backup

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strconv"
	"time"

	"example.com/tykupgrade/backup/internal/step"
)

// psync copies a snapshot over the network.
func (n *redisNode) psync(ctx context.Context, w *Writer, out *RedisNode) error {
	op, object := "take a PSYNC snapshot of", "redis "+n.addr
	conn, err := n.dial(ctx)
	if err != nil {
		return redisError("connect to", object, ctxFirst(ctx, err))
	}
	defer conn.close()
	rdb, replID, offset, err := conn.snapshot()
	if err != nil {
		return redisError(op, object, ctxFirst(ctx, err))
	}
	out.ReplID, out.Offset = replID, offset
	_, err = w.Create(ctx, out.File, nil, func(dst io.Writer) (err error) {
		out.RDB, err = readRDB(ctx, io.TeeReader(rdb, dst), rdbVisit{})
		return ctxFirst(ctx, err)
	})
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return &Error{Op: op, Object: object, Err: fmt.Errorf("the connection was cut: %w", err), Retry: true,
			Next: "look at the server's log; a slow reader is cut off by client-output-buffer-limit replica"}
	}
	if err != nil {
		return redisError(op, object, err)
	}
	return nil
}

// save lets the server write its file and copies that.
func (n *redisNode) save(ctx context.Context, w *Writer, out *RedisNode, r *Redis) error {
	object := "redis " + n.addr
	path := r.Path
	if path == "" {
		dir, ok1, err := n.config(ctx, "dir")
		if err != nil {
			return err
		}
		file, ok2, err := n.config(ctx, "dbfilename")
		if err != nil {
			return err
		}
		if !ok1 || !ok2 {
			return &Error{Op: "find the RDB file of", Object: object, Err: fmt.Errorf("%w: CONFIG GET is forbidden or renamed", ErrNotAllowed),
				Next: "name the file yourself, or use method " + string(RedisPSYNC)}
		}
		path = filepath.Join(dir, file)
	}
	start, err := n.client.Time(ctx).Result()
	if err != nil {
		return redisError("read the clock of", object, err)
	}
	if r.method() == RedisSAVE {
		err = n.saveNow(ctx)
	} else {
		err = n.saveInBackground(ctx)
	}
	if err != nil {
		return err
	}
	open := r.Open
	if open == nil {
		open = readFile
	}
	src, err := open(ctx, n.addr, path)
	if err != nil {
		return step.Fail("open the RDB file of", object, err)
	}
	defer src.Close()
	_, err = w.Create(ctx, out.File, nil, func(dst io.Writer) (err error) {
		out.RDB, err = readRDB(ctx, io.TeeReader(src, dst), rdbVisit{})
		return ctxFirst(ctx, err)
	})
	if err != nil {
		return step.Fail("copy "+path+" of", object, err)
	}
	// The file's own creation time has whole seconds, from a clock that may be a
	// tick behind that of TIME.
	if out.RDB.Created.Before(start.Truncate(time.Second).Add(-time.Second)) {
		return &Error{Op: "copy " + path + " of", Object: object,
			Err:  fmt.Errorf("the file is from %s, before the save at %s", out.RDB.Created.Format(time.RFC3339), start.UTC().Format(time.RFC3339)),
			Next: "the server writes to another file: correct the path"}
	}
	return nil
}

// saveNow runs SAVE over a connection of its own: the client library would
// give up after its read timeout and send it again.
func (n *redisNode) saveNow(ctx context.Context) error {
	object := "redis " + n.addr
	for {
		if err := n.waitForChild(ctx); err != nil {
			return err
		}
		conn, err := n.dial(ctx)
		if err != nil {
			return redisError("connect to", object, ctxFirst(ctx, err))
		}
		conn.idle = 0
		_, err = conn.command("SAVE")
		conn.close()
		switch {
		case err == nil:
			return nil
		case busySaving(err):
			continue // somebody else's save began in between
		case err.Error() == "ERR": // all that 7.0 says when the disk is full
			err = errors.New("the server could not write its file")
		}
		e := redisError("run SAVE on", object, ctxFirst(ctx, err)).(*Error)
		if e.Next == "" {
			e.Next = "its log says why"
		}
		return e
	}
}

func busySaving(err error) bool {
	return isReply(err) && err.Error() == "ERR Background save already in progress"
}

// saveInBackground runs BGSAVE and finds out whether it worked: the reply says
// "started" even when the child fails.
func (n *redisNode) saveInBackground(ctx context.Context) error {
	object := "redis " + n.addr
	for {
		if err := n.waitForChild(ctx); err != nil {
			return err
		}
		// Only now: a server closes connections that are idle for its timeout.
		conn, err := n.dial(ctx)
		if err != nil {
			return redisError("connect to", object, ctxFirst(ctx, err))
		}
		_, err = conn.command("BGSAVE")
		conn.close()
		// Both are somebody else's that began in between.
		if busySaving(err) || (isReply(err) && containsAll(err.Error(), "child process", "BGSAVE")) {
			continue
		}
		if err != nil {
			return redisError("run BGSAVE on", object, ctxFirst(ctx, err))
		}
		break
	}
	if err := n.waitForChild(ctx); err != nil {
		return err
	}
	info, err := n.info(ctx)
	if err != nil {
		return err
	}
	if status := info["rdb_last_bgsave_status"]; status != "ok" {
		return &Error{Op: "run BGSAVE on", Object: object, Err: fmt.Errorf("the server's saving process failed (rdb_last_bgsave_status:%s)", status), Retry: true,
			Next: "its log says why: mostly a full disk or a directory that it may not write to"}
	}
	return nil
}

// waitForChild returns once no save, no AOF rewrite and no module's child is
// running: each of them keeps the others from starting.
func (n *redisNode) waitForChild(ctx context.Context) error {
	return poll(ctx, func() (bool, error) {
		info, err := n.info(ctx)
		if err != nil {
			return false, err
		}
		if info["rdb_bgsave_in_progress"] == "" {
			return false, &Error{Op: "watch the saving of", Object: "redis " + n.addr, Err: fmt.Errorf("%w: INFO persistence is forbidden, and only it tells whether saving worked", ErrNotAllowed),
				Next: "give the user +info, or use method " + string(RedisPSYNC)}
		}
		return info["rdb_bgsave_in_progress"] == "0" && info["aof_rewrite_in_progress"] == "0" && info["module_fork_in_progress"] != "1", nil
	})
}

// rdbVersion finds out which RDB version the server writes, which is also the
// newest that it loads. Redis 7.0 and newer tell without a key; the table
// serves the rest.
func (n *redisNode) rdbVersion(ctx context.Context, info redisInfo) (int, error) {
	if payload, err := n.client.FunctionDump(ctx).Result(); err == nil && len(payload) >= dumpFooter {
		return dumpVersion([]byte(payload)), nil
	}
	if key, err := n.client.RandomKey(ctx).Result(); err == nil {
		if payload, err := n.client.Dump(ctx, key).Result(); err == nil && len(payload) >= dumpFooter {
			return dumpVersion([]byte(payload)), nil
		}
	}
	var major, minor int
	if _, err := fmt.Sscanf(info["redis_version"], "%d.%d", &major, &minor); err != nil {
		return 0, &Error{Op: "find the RDB version of", Object: "redis " + n.addr, Err: fmt.Errorf("%w: neither FUNCTION DUMP nor DUMP nor INFO", ErrNotAllowed),
			Next: "give the user one of these rights"}
	}
	for _, row := range []struct{ major, minor, rdb int }{{7, 4, 12}, {7, 2, 11}, {7, 0, 10}, {5, 0, 9}, {4, 0, 8}, {3, 2, 7}, {2, 6, 6}} {
		if major > row.major || (major == row.major && minor >= row.minor) {
			return row.rdb, nil
		}
	}
	return 0, fmt.Errorf("redis %s: version %s is older than 2.6", n.addr, strconv.Quote(info["redis_version"]))
}
