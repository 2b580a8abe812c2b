package redisdb

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"example.com/tykupgrade/backup"
	"example.com/tykupgrade/backup/internal/step"
)

var littleEndianMachine = binary.NativeEndian.Uint16([]byte{1, 0}) == 1

// placed is the journal's entry for one server. All names are plain names in Dir.
type placed struct {
	Addr string      `json:"addr"`
	File string      `json:"file"` // of the set
	Dir  string      `json:"dir"`
	UID  int         `json:"uid"` // owner of Dir
	GID  int         `json:"gid"`
	Mode fs.FileMode `json:"mode"` // of the file
	RDB  string      `json:"rdb"`  // dump.rdb
	// append-only directory (7.0) or file (before); empty: off
	AOF     string    `json:"aof,omitempty"`
	Base    string    `json:"base,omitempty"` // prefix of names in the directory
	Multi   bool      `json:"multi,omitempty"`
	Suffix  string    `json:"suffix"`            // of renamed old files
	Step    placeStep `json:"step,omitempty"`    // the last step that began
	Existed []string  `json:"existed,omitempty"` // since stepMoving: names that existed
}

// placeStep is on disk before the step begins.
type placeStep string

const (
	stepStopping placeStep = "stopping" // nothing is moved yet
	stepMoving   placeStep = "moving"   // the server is down, and its files may be renamed
	stepStarted  placeStep = "started"  // it runs with the set's data
)

func (p *placed) data() dataDir            { return dataDir{path: p.Dir, uid: p.UID, gid: p.GID} }
func (p *placed) staged() string           { return "temp-restore" + p.Suffix + ".rdb" }
func (p *placed) aside(name string) string { return name + p.Suffix }

func (p *placed) names() []string {
	if p.AOF == "" {
		return []string{p.RDB}
	}
	return []string{p.RDB, p.AOF}
}

// check refuses a journal with names outside of the data directory.
func (p *placed) check() error {
	for _, name := range append(p.names(), p.Base, p.Suffix) {
		if name != "" && !plainName(name) {
			return fmt.Errorf("the journal names %q, which is not a plain name", name)
		}
	}
	if !filepath.IsAbs(p.Dir) || p.RDB == "" || p.Suffix == "" {
		return errors.New("the journal names no data directory")
	}
	d, err := openData(p.Dir)
	if err == nil && d != p.data() {
		err = fmt.Errorf("%s belongs to user %d, but belonged to %d when the restore began", p.Dir, d.uid, p.UID)
	}
	return err
}

func plainName(s string) bool {
	return s != "" && s != "." && s != ".." && !strings.ContainsAny(s, "/\x00\n")
}

// stage copies the set's file next to its place while the server runs, so that a full disk stops
// the restore before any server is stopped.
func (p *placed) stage(ctx context.Context, s *backup.Stored, size int64, count func(int64)) error {
	src, err := s.Open(p.File)
	if err != nil {
		return err
	}
	defer src.Close()
	return p.data().act(func(root *os.Root) (err error) {
		f, err := root.OpenFile(p.staged(), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, ignoreClosed(f.Close())) }()
		n, err := io.Copy(f, &step.ReadMeter{Ctx: ctx, R: io.LimitReader(src, size), Add: count})
		if err == nil && n != size {
			err = io.ErrUnexpectedEOF
		}
		if err == nil {
			err = f.Chmod(p.Mode)
		}
		if err == nil {
			err = f.Sync()
		}
		return errors.Join(err, f.Close())
	})
}

func ignoreClosed(err error) error {
	if errors.Is(err, fs.ErrClosed) {
		return nil
	}
	return err
}

// existing lists the server's files. The server is down, and may have written its file during the
// stop.
func (p *placed) existing() (names []string, err error) {
	err = p.data().act(func(root *os.Root) error {
		for _, name := range p.names() {
			_, err := root.Lstat(name)
			if err == nil {
				names = append(names, name)
			} else if !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
		return nil
	})
	return names, err
}

// put renames the old files and gives the staged file its names. With an append-only file it uses
// both names, because the configuration file decides which one the server reads, and CONFIG GET
// shows only the present setting.
func (p *placed) put() error {
	return p.data().act(func(root *os.Root) error {
		for _, name := range p.Existed {
			if err := root.Rename(name, p.aside(name)); err != nil {
				return err
			}
		}
		if err := root.Link(p.staged(), p.RDB); err != nil {
			return err
		}
		if p.AOF == "" {
			return syncRoot(root)
		}
		if !p.Multi {
			// Redis 4 to 6 read an RDB file as the beginning of the append-only file.
			return errors.Join(root.Link(p.staged(), p.AOF), syncRoot(root))
		}
		if err := root.Mkdir(p.AOF, 0o750); err != nil {
			return err
		}
		base := p.Base + ".1.base.rdb"
		if err := root.Link(p.staged(), filepath.Join(p.AOF, base)); err != nil {
			return err
		}
		quoted := strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(base)
		f, err := root.OpenFile(filepath.Join(p.AOF, p.Base+".manifest"),
			os.O_CREATE|os.O_EXCL|os.O_WRONLY, p.Mode)
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(f, "file \"%s\" seq 1 type b\n", quoted)
		return errors.Join(err, f.Sync(), f.Close(), syncRoot(root))
	})
}

// putBack gives the old files their names again. It may run several times.
func (p *placed) putBack() error {
	return p.data().act(func(root *os.Root) error {
		for _, name := range p.names() {
			if p.Step == stepStopping || p.Step == "" {
				break // nothing was moved
			}
			_, err := root.Lstat(p.aside(name))
			aside := err == nil
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
			existed := false
			for _, e := range p.Existed {
				existed = existed || e == name
			}
			if existed && !aside {
				continue // it was not renamed yet, or has its name again
			}
			if err := root.RemoveAll(name); err != nil {
				return err
			}
			if aside {
				if err := root.Rename(p.aside(name), name); err != nil {
					return err
				}
			}
		}
		return errors.Join(removed(root.Remove(p.staged())), syncRoot(root))
	})
}

// clean removes the staged file, and with aside the renamed old files too.
func (p *placed) clean(aside bool) error {
	return p.data().act(func(root *os.Root) error {
		err := removed(root.Remove(p.staged()))
		for _, name := range p.names() {
			if aside {
				err = errors.Join(err, root.RemoveAll(p.aside(name)))
			}
		}
		return err
	})
}

func removed(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// down stops the server and checks that it has ended.
func (n *node) down(ctx context.Context, stop func(context.Context) error) error {
	if err := stop(ctx); err != nil {
		return step.Fail("stop", n.object(), err)
	}
	stopped := time.Now()
	err := poll(ctx, func() (bool, error) {
		c, err := n.dial(ctx)
		if err == nil {
			c.close()
		}
		// Any other error may mean that the server is alive, or that ctx has ended.
		if notListening(err) || time.Since(stopped) < patience {
			return notListening(err), step.Ended(ctx)
		}
		if err == nil {
			err = fmt.Errorf("something answers there %v after the stop", patience)
		}
		return false, err
	})
	if err != nil {
		return &backup.Error{Op: "stop", Object: n.object(), Err: fmt.Errorf("its port is not closed: %w",
			err), Next: "stop it with its own unit, so that nothing restarts it"}
	}
	return nil
}

// up starts the server and waits until it has loaded its data.
func (n *node) up(ctx context.Context, start func(context.Context) error) error {
	if err := start(ctx); err != nil {
		return step.Fail("start", n.object(), err)
	}
	var last error
	// A server that cannot load its file exits, and only that shows the failure.
	started := time.Now()
	err := poll(ctx, func() (bool, error) {
		var info serverInfo
		var c *conn
		// The client library logs every attempt that fails; this does not.
		if c, last = n.dial(ctx); last == nil {
			c.close()
			info, last = n.info(ctx)
		}
		if last != nil {
			if time.Since(started) > patience {
				return false, last
			}
			return false, nil
		}
		return info["loading"] != "1", nil
	})
	if err != nil {
		return &backup.Error{Op: "start", Object: n.object(), Err: errors.Join(err, last),
			Next: "read its log"}
	}
	return nil
}

// patience is how long a server may take to answer after its start, or to end after its stop. A
// loading server does answer.
var patience = 30 * time.Second

// notListening reports whether err means that no process has the port or the socket.
func notListening(err error) bool {
	return errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, syscall.ENOENT)
}
