package redisdb

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"example.com/tykupgrade/backup"
	"example.com/tykupgrade/backup/internal/step"
)

// place is the result of Plan's checks of one server.
type place struct {
	placed
	from      Node
	holds     bool
	plaintext string // a warning; empty: none
	unsaved   bool   // the server does not save its data when it is stopped
	aofOff    bool   // at the moment
}

func (r *Offline) places(ctx context.Context, s *backup.Stored) ([]*place, error) {
	d, err := detailsOf(s)
	if err != nil {
		return nil, err
	}
	if len(r.Servers) != len(d.Nodes) {
		return nil, fmt.Errorf("%d servers for a set of %d nodes; set one for each file",
			len(r.Servers), len(d.Nodes))
	}
	suffix := ".before-restore-" + time.Now().UTC().Format("20060102T150405.000Z")
	used := map[string]bool{}
	var places []*place
	for i := range r.Servers {
		server := &r.Servers[i]
		n := server.node()
		at := slices.IndexFunc(d.Nodes, func(n Node) bool {
			return n.File == server.File ||
				(server.File == "" && len(d.Nodes) == 1)
		})
		if at < 0 || used[d.Nodes[at].File] {
			return nil, fmt.Errorf("%s: file %q is not in the set or is used twice", n.object(), server.File)
		}
		p := &place{from: d.Nodes[at], plaintext: n.plaintext(), placed: placed{Addr: n.addr,
			File: d.Nodes[at].File, Suffix: suffix}}
		used[p.File] = true
		if p.from.RDB.NotWalked != "" && !r.Uncompared {
			return nil, &backup.Error{Op: "restore", Object: p.File,
				Err:  fmt.Errorf("it cannot be compared after the restore: %s", p.from.RDB.NotWalked),
				Next: "set Uncompared to restore it anyway"}
		}
		if err := p.look(ctx, server, n, r.Replace); err != nil {
			return nil, err
		}
		places = append(places, p)
	}
	return places, nil
}

// look checks the running server and its directory, and refuses what would fail later.
func (p *place) look(ctx context.Context, server *Server, n *node, replace bool) error {
	d := Details{Nodes: []Node{p.from}}
	info, err := n.info(ctx)
	if err == nil {
		err = checkState(ctx, n, info, p.from.RDB.Version)
	}
	if err == nil {
		err = checkDatabases(ctx, n, d)
	}
	if err == nil {
		err = checkModules(ctx, n, info, d)
	}
	if err == nil {
		err = checkMemory([]*node{n}, []serverInfo{info}, d)
	}
	if err != nil {
		return err
	}
	keys, err := n.countKeys(ctx, info)
	if err != nil {
		return err
	}
	p.holds = keys > 0
	if !replace {
		functions, err := n.holdsFunctions(ctx)
		if err == nil {
			err = checkEmpty(n, keys, functions)
		}
		if err != nil {
			return err
		}
	}
	_, major, _ := info.version()
	p.Multi = len(info) == 0 || major >= 7
	told, err := p.fileNames(ctx, server, n)
	if err != nil {
		return err
	}
	return p.lookAtDir(ctx, server, n, told)
}

// fileNames asks the server for the names of its files. told is the server's directory, which is
// not trusted yet.
func (p *place) fileNames(ctx context.Context, server *Server, n *node) (told string, err error) {
	cfg := map[string]string{}
	for _, name := range []string{"dir", "dbfilename", "appendonly", "appendfilename",
		"appenddirname"} {
		if name == "appenddirname" && !p.Multi || name == "dir" && server.Dir != "" {
			continue
		}
		if v, ok := server.Config[name]; ok {
			cfg[name] = v
			continue
		}
		v, ok, err := n.config(ctx, name)
		if err == nil && !ok {
			err = &backup.Error{Op: "read CONFIG of", Object: n.object(), Kind: backup.ErrNotAllowed,
				Err:  fmt.Errorf("CONFIG GET %s is forbidden or renamed", name),
				Next: "set Server.Config or Server.Commands, or use Live"}
		}
		if err != nil {
			return "", err
		}
		cfg[name] = v
	}
	save, known := server.Config["save"]
	if !known {
		if save, known, err = n.config(ctx, "save"); err != nil {
			return "", err
		}
	}
	p.unsaved = cfg["appendonly"] != "yes" && (!known || save == "")
	p.RDB = cfg["dbfilename"]
	p.Base, p.AOF = cfg["appendfilename"], cfg["appendfilename"]
	if p.Multi {
		p.AOF = cfg["appenddirname"]
	}
	p.aofOff = cfg["appendonly"] != "yes"
	for _, name := range append(p.names(), p.Base) {
		if name != "" && !plainName(name) || p.RDB == "" {
			return "", refuse(n, nil, "fix the server's configuration",
				"its file is %q, which is not a plain name", name)
		}
	}
	return cfg["dir"], nil
}

// lookAtDir decides which directory the server uses, and reads owner and mode of its files.
func (p *place) lookAtDir(ctx context.Context, server *Server, n *node, told string) error {
	op := "find the data directory of"
	named := server.Dir
	if named == "" {
		named = server.Config["dir"]
	}
	p.Dir = named
	if named == "" {
		p.Dir = told
	}
	if !filepath.IsAbs(p.Dir) {
		return &backup.Error{Op: op, Object: n.object(), Err: fmt.Errorf("%q is not an absolute path",
			p.Dir), Next: "set Server.Dir"}
	}
	data, err := openData(p.Dir)
	if err != nil {
		return &backup.Error{Op: op, Object: n.object(), Err: err,
			Next: "run this on the server's own machine, or use Live"}
	}
	if named == "" {
		uid, err := n.serverUID(ctx)
		if err != nil || uid == 0 || uid != data.uid {
			if err == nil {
				err = fmt.Errorf("the server reports %s, which belongs to user %d, but it runs as user %d", p.Dir,
					data.uid, uid)
			} else {
				err = fmt.Errorf("the server reports %s, but its user is unknown: %w", p.Dir, err)
			}
			return &backup.Error{Op: op, Object: n.object(), Err: err,
				Next: "set Server.Dir if this is its data directory"}
		}
	}
	p.UID, p.GID, p.Mode = data.uid, data.gid, 0o660
	err = data.act(func(root *os.Root) error {
		// The configuration file may differ, and the server would then load the old file.
		if p.aofOff && p.AOF != "" {
			if _, err := root.Lstat(p.AOF); errors.Is(err, fs.ErrNotExist) {
				p.AOF, p.Base = "", ""
			}
		}
		f, err := root.Lstat(p.RDB)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err == nil && !f.Mode().IsRegular() {
			err = fmt.Errorf("%s in %s is not a regular file", p.RDB, p.Dir)
		}
		if err == nil {
			p.Mode = f.Mode().Perm()
		}
		return err
	})
	if err != nil {
		return &backup.Error{Op: op, Object: n.object(), Err: err}
	}
	return step.CheckSpace(p.Dir, p.from.RDB.Size)
}
