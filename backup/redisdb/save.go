package redisdb

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"time"

	"example.com/tykupgrade/backup"
	"example.com/tykupgrade/backup/internal/step"
	"example.com/tykupgrade/backup/redisdb/internal/rdb"
)

// save makes the server write its file and copies the file.
func (n *node) save(ctx context.Context, w *backup.Writer, out *Node, r *Source) error {
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
			return &backup.Error{Op: "find the RDB file of", Object: object,
				Err: errors.New("CONFIG GET is forbidden or renamed"), Kind: backup.ErrNotAllowed,
				Next: "set Source.Path to the file, set Source.Commands if CONFIG is renamed, or use method " +
					string(PSYNC)}
		}
		path = filepath.Join(dir, file)
	}
	start, err := n.clock(ctx)
	if err != nil {
		return serverError("read the clock of", object, err)
	}
	if r.method() == SAVE {
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
		out.RDB, err = rdb.Read(ctx, io.TeeReader(src, dst), rdb.Visit{})
		return ctxFirst(ctx, err)
	})
	if err != nil {
		return step.Fail("copy "+path+" of", object, err)
	}
	// The file's own creation time has whole seconds, from a clock that may be a
	// tick behind that of TIME.
	if out.RDB.Created.Before(start.Truncate(time.Second).Add(-time.Second)) {
		return &backup.Error{Op: "copy " + path + " of", Object: object,
			Err: fmt.Errorf("the file is from %s, before the save at %s",
				out.RDB.Created.Format(time.RFC3339), start.UTC().Format(time.RFC3339)),
			Next: "the server writes to another file: fix Source.Path"}
	}
	return nil
}

// saveNow runs SAVE over a connection of its own, because the client library would repeat it after
// its read time-out.
func (n *node) saveNow(ctx context.Context) error {
	object := "redis " + n.addr
	for {
		if err := n.waitForChild(ctx); err != nil {
			return err
		}
		conn, err := n.dial(ctx)
		if err != nil {
			return serverError("connect to", object, ctxFirst(ctx, err))
		}
		conn.idle = 0
		_, err = conn.command("SAVE")
		conn.close()
		switch {
		case err == nil:
			return nil
		case busySaving(err):
			continue // somebody else's save began in between
		case err.Error() == "ERR": // the whole answer of 7.0 if the disk is full
			err = errors.New("the server could not write its file")
		}
		e := serverError("run SAVE on", object, ctxFirst(ctx, err)).(*backup.Error)
		if e.Next == "" {
			e.Next = "read its log"
		}
		return e
	}
}

func busySaving(err error) bool {
	return isReply(err) && err.Error() == "ERR Background save already in progress"
}

// saveInBackground runs BGSAVE and checks the result, because the reply is "started" even if the
// child fails.
func (n *node) saveInBackground(ctx context.Context) error {
	object := "redis " + n.addr
	for {
		if err := n.waitForChild(ctx); err != nil {
			return err
		}
		// The connection is opened late, because a server closes idle connections.
		conn, err := n.dial(ctx)
		if err != nil {
			return serverError("connect to", object, ctxFirst(ctx, err))
		}
		_, err = conn.command("BGSAVE")
		conn.close()
		// In both cases somebody else's save began in between.
		if busySaving(err) || (isReply(err) && strings.Contains(err.Error(), "child process") &&
			strings.Contains(err.Error(), "BGSAVE")) {
			continue
		}
		if err != nil {
			return serverError("run BGSAVE on", object, ctxFirst(ctx, err))
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
		return &backup.Error{Op: "run BGSAVE on", Object: object,
			Err:   fmt.Errorf("the server's saving process failed (rdb_last_bgsave_status:%s)", status),
			Retry: true,
			Next:  "read its log: usually the disk is full or the directory is not writable"}
	}
	return nil
}

// waitForChild returns once no save, AOF rewrite or module's child is running, because each of them
// prevents the others.
func (n *node) waitForChild(ctx context.Context) error {
	return poll(ctx, func() (bool, error) {
		info, err := n.info(ctx)
		if err != nil {
			return false, err
		}
		if info["rdb_bgsave_in_progress"] == "" {
			return false, &backup.Error{Op: "watch the saving of", Object: "redis " + n.addr,
				Err:  errors.New("INFO persistence is forbidden, and only it shows whether saving worked"),
				Kind: backup.ErrNotAllowed,
				Next: "grant the user +info, or set Source.Method to " + string(PSYNC)}
		}
		return info["rdb_bgsave_in_progress"] == "0" && info["aof_rewrite_in_progress"] == "0" &&
			info["module_fork_in_progress"] != "1", nil
	})
}
