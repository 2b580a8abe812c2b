package redisdb

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"example.com/tykupgrade/backup"
	"example.com/tykupgrade/backup/internal/step"
	"example.com/tykupgrade/backup/redisdb/internal/rdb"
)

// Dump is a [backup.Source] for an existing RDB file, such as a server's dump.rdb, the output of
// redis-cli --rdb, or a file of a managed service. The component is verified and restored like any
// other. Backup reads the whole file and refuses a damaged or truncated one.
type Dump struct {
	Path      string
	Component string // name in the set; empty: "redis"
}

// Name returns the component's name.
func (d *Dump) Name() string { return named(d.Component) }

// Plan checks that the path is a regular file.
func (d *Dump) Plan(context.Context) (backup.Estimate, error) {
	f, err := step.OpenRegular(d.Path)
	if err != nil {
		return backup.Estimate{}, step.Fail("read", d.Path, err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return backup.Estimate{}, step.Fail("read", d.Path, err)
	}
	return backup.Estimate{Bytes: info.Size()}, nil
}

// Backup copies the file and verifies it meanwhile.
func (d *Dump) Backup(ctx context.Context, w *backup.Writer) (backup.Component, error) {
	c := backup.Component{Kind: Kind, Method: "file", Consistency: backup.ConsistencySnapshot,
		Topology: "standalone", Origin: d.Path}
	f, err := step.OpenRegular(d.Path)
	if err != nil {
		return c, step.Fail("read", d.Path, err)
	}
	defer f.Close()
	name := strings.Trim(unsafeInName.ReplaceAllString(strings.TrimSuffix(filepath.Base(d.Path),
		".rdb"), "_"), "_.") + ".rdb"
	node := Node{File: name, Addr: d.Path}
	_, err = w.Create(ctx, name, nil, func(dst io.Writer) (err error) {
		node.RDB, err = rdb.Read(ctx, io.TeeReader(f, dst), rdb.Visit{Check: true})
		return err
	})
	if err != nil {
		return c, step.Fail("read", d.Path, err)
	}
	c.Items = node.RDB.Keys
	if node.RDB.Server != "" {
		c.Server = product(node.RDB) + " " + node.RDB.Server
	}
	if types := moduleTypes(node.RDB); len(types) > 0 {
		c.Warnings = append(c.Warnings, "the data has types of modules, which the target needs too: "+
			strings.Join(types, ", "))
	}
	if node.RDB.NotWalked != "" {
		c.Warnings = append(c.Warnings, "keys were not counted: "+node.RDB.NotWalked+
			"; the set can be restored with Offline only")
	}
	if !node.RDB.Checksum {
		c.Warnings = append(c.Warnings, "the file has no checksum of its own, so damage from before the "+
			"backup cannot be detected")
	}
	return c, c.SetDetails(Details{Nodes: []Node{node}})
}

// Restore restores the file without a set of the caller. It takes a set into dir and restores it
// with to, a [Live] or an [Offline]. It removes the set after a success. After a failure, or with
// o.Keep, the set stays in dir.
func (d *Dump) Restore(ctx context.Context, o backup.RestoreOptions, dir string,
	to backup.Restorer) (backup.Report, error) {
	if to.Name() != d.Name() {
		return backup.Report{}, step.Fail("restore", d.Path,
			fmt.Errorf("the restorer is for component %q, the file is %q", to.Name(), d.Name()))
	}
	set, err := backup.Take(ctx, dir, backup.Options{Label: "of " + d.Path, Log: o.Log,
		Progress: o.Progress}, d)
	if err != nil {
		return backup.Report{}, step.Fail("restore", d.Path, err)
	}
	report, err := set.Restore(ctx, o, to)
	if err == nil && !o.Keep || o.DryRun {
		err = errors.Join(err, os.RemoveAll(set.Dir))
	}
	return report, err
}

var _ backup.Source = (*Dump)(nil)
