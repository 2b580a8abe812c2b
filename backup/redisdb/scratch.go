package redisdb

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/redis/go-redis/v9"

	"example.com/tykupgrade/backup"
	"example.com/tykupgrade/backup/internal/step"
	"example.com/tykupgrade/internal/atomicfile"
	"example.com/tykupgrade/internal/run"
)

// Scratch is a [backup.Prover] that loads each file into a temporary redis-server, which listens
// only on a socket in a temporary directory. It compares every key with the set and stops the
// server. The data of one file must fit into the machine's memory.
type Scratch struct {
	Component string // name in the set; empty: "redis"
	Program   string // at least as new as the server that was backed up; empty: "redis-server"
	Dir       string // for the temporary directory; empty: the system's
}

// Name returns the component's name.
func (r *Scratch) Name() string {
	return named(r.Component)
}

// Prove loads each file into a temporary server and compares it with the set.
func (r *Scratch) Prove(ctx context.Context, s *backup.Stored) error {
	d, err := detailsOf(s)
	if err != nil {
		return err
	}
	cutoff := time.Now().Add(proofSpan).UnixMilli()
	want, have := newSummary(cutoff), newSummary(cutoff)
	for _, n := range d.Nodes {
		if _, err := readStored(ctx, s, n.File, want.visit()); err != nil {
			return err
		}
		if err := r.load(ctx, s, n, have); err != nil {
			return step.Fail("load into a scratch server", n.File, err)
		}
	}
	if diff := want.diff(have); diff != "" {
		return fmt.Errorf("%w: %s", backup.ErrDiffers, diff)
	}
	return nil
}

func (r *Scratch) load(ctx context.Context, s *backup.Stored, n Node, have *summary) (err error) {
	dir, err := os.MkdirTemp(r.Dir, "redis-scratch-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	_, err = atomicfile.Write(ctx, filepath.Join(dir, "dump.rdb"), atomicfile.Options{NoDigest: true},
		func(w io.Writer) error {
			src, err := s.Open(n.File)
			if err != nil {
				return err
			}
			defer src.Close()
			_, err = io.Copy(w, src)
			return err
		})
	if err != nil {
		return err
	}
	program := r.Program
	if program == "" {
		program = "redis-server"
	}
	socket := filepath.Join(dir, "socket")
	argv := []string{program, "--port", "0", "--unixsocket", socket, "--unixsocketperm", "700",
		"--dir", dir, "--dbfilename", "dump.rdb",
		"--save", "", "--appendonly", "no", "--daemonize", "no", "--repl-diskless-sync-delay", "0"}
	running, stop := context.WithCancel(ctx)
	exited := make(chan error, 1)
	var log bytes.Buffer // read only after the server has gone
	go func() { exited <- run.Local(run.Options{})(running, argv, nil, &log, &log) }()
	client := redis.NewClient(&redis.Options{Network: "unix", Addr: socket, MaxRetries: -1})
	err = scratchSum(ctx, &node{client: client, addr: socket}, exited, have)
	_ = client.Close()
	stop()
	if errors.Is(err, errScratchGone) { // its exit was received already
		return fmt.Errorf("%w:\n%s", err, bytes.TrimSpace(log.Bytes()[max(0, log.Len()-2000):]))
	}
	<-exited
	return err
}

var errScratchGone = errors.New("the scratch server did not load the file")

// scratchSum waits until the server has loaded and sums it up.
func scratchSum(ctx context.Context, n *node, exited <-chan error, have *summary) error {
	err := poll(ctx, func() (bool, error) {
		select {
		case err := <-exited:
			return false, errors.Join(errScratchGone, err)
		default:
		}
		// The client library logs every attempt that fails; this does not.
		c, err := n.dial(ctx)
		if err != nil {
			return false, nil
		}
		c.close()
		info, err := n.info(ctx)
		return err == nil && info["loading"] == "0", nil
	})
	if err != nil {
		return err
	}
	return n.sum(ctx, have)
}

var _ backup.Prover = (*Scratch)(nil)
