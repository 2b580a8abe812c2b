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

// Dump is a [backup.Source] that takes an existing RDB file into a set: the
// dump.rdb of a server, what redis-cli --rdb wrote, or a file of a managed
// service. From then on it is verified and restored as any other component.
// The file is read from end to end, and refused if it is damaged or cut.
type Dump struct {
	Path      string
	Component string // name in the set; empty: "redis"
}

// Name returns the component's name.
func (d *Dump) Name() string { return named(d.Component) }

// Plan looks whether there is a regular file.
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

// Backup copies the file and reads it while it does.
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
		c.Warnings = append(c.Warnings, "the data holds types of modules, which the target needs too: "+
			strings.Join(types, ", "))
	}
	if node.RDB.NotWalked != "" {
		c.Warnings = append(c.Warnings, "keys were not counted: "+node.RDB.NotWalked+
			"; the set can be restored with Offline only")
	}
	if !node.RDB.Checksum {
		c.Warnings = append(c.Warnings, "the file has no checksum of its own: damage from before the "+
			"set was taken is not seen")
	}
	return c, c.SetDetails(Details{Nodes: []Node{node}})
}

// Restore brings the file back without a set of the caller's: it takes one into
// dir, restores that with to, a [Live] or an [Offline], and removes it if that
// succeeded. After a failure, or with o.Keep, the set stays in dir.
func (d *Dump) Restore(ctx context.Context, o backup.RestoreOptions, dir string,
	to backup.Restorer) (backup.Report, error) {
	if to.Name() != d.Name() {
		return backup.Report{}, step.Fail("restore", d.Path,
			fmt.Errorf("the target is for component %q, the file is %q", to.Name(), d.Name()))
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
