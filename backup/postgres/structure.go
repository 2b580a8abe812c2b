package postgres

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"sync/atomic"

	"example.com/tykupgrade/backup"
	"example.com/tykupgrade/backup/internal/step"
)

// checkStructure reads every archive of a component completely. It compares the numbers of rows
// with the server's counts at the snapshot.
func checkStructure(ctx context.Context, s *backup.Stored) error {
	d, err := details(s)
	if err != nil {
		return err
	}
	for _, db := range d.Databases {
		found, err := archive(ctx, s, d, db, false)
		if err != nil {
			return step.Fail("read", s.Name+"/"+db.File, err)
		}
		read.keep(digest(s, db), found)
	}
	return nil
}

// read caches the objects of archives by the digest of the file, so that a restore does not decode
// an archive that it has just verified.
var read archives

type archives struct {
	mu    sync.Mutex
	known map[string]objects
	order []string
}

// mostArchives bounds the memory of a process that takes sets for months.
const mostArchives = 8

func (a *archives) keep(digest string, o objects) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if digest == "" || a.known[digest] != nil {
		return
	}
	if a.known == nil {
		a.known = map[string]objects{}
	}
	if a.order = append(a.order, digest); len(a.order) > mostArchives {
		delete(a.known, a.order[0])
		a.order = a.order[1:]
	}
	a.known[digest] = o
}

// get returns a copy, or nil.
func (a *archives) get(digest string) objects {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.known[digest] == nil {
		return nil
	}
	out := objects{}
	for key, o := range a.known[digest] {
		one := *o
		out[key] = &one
	}
	return out
}

// digest returns the manifest's digest of a database's archive, or "".
func digest(s *backup.Stored, db Database) string {
	for _, f := range s.Files {
		if f.Path == db.File {
			return f.SHA256
		}
	}
	return ""
}

// archiveReader finds this machine's pg_restore. It refuses one that cannot read archives of the
// given pg_dump.
func archiveReader(ctx context.Context, major int, dump string) (*client, error) {
	c, err := Server{}.client()
	if err != nil || int64(major) <= reader.Load() {
		return c, err
	}
	tool, err := c.version(ctx, "pg_restore")
	if err != nil {
		return nil, err
	}
	if tool.major < major {
		return nil, &backup.Error{Op: "read archive with", Object: "pg_restore " + tool.text,
			Kind: ErrToolTooOld,
			Err:  fmt.Errorf("pg_dump %s wrote it", dump),
			Next: fmt.Sprintf("install postgresql-client-%d on this machine", major)}
	}
	reader.Store(int64(tool.major))
	return c, nil
}

// reader is the major version of this machine's pg_restore when it was asked last, or 0. An older
// one that replaces it refuses a newer archive itself.
var reader atomic.Int64

// archive reads the objects of an archive with this machine's pg_restore. bare leaves out owners
// and privileges.
func archive(ctx context.Context, s *backup.Stored, d *Details, db Database,
	bare bool) (objects, error) {
	c, err := archiveReader(ctx, d.DumpMajor, d.Dump)
	if err != nil {
		return nil, err
	}
	f, err := s.Open(db.File)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	args := []string{"--file=-"}
	if bare {
		args = append(args, "--no-owner", "--no-privileges")
	}
	found, err := c.script(ctx, f, "pg_restore", args...)
	if err != nil {
		if errors.Is(err, ErrTools) || step.Ended(ctx) != nil {
			return nil, err
		}
		return nil, step.Damaged(err)
	}
	return found, rowsMatch(found, db)
}

// rowsMatch compares the rows of an archive with the server's own counts.
func rowsMatch(found objects, db Database) error {
	var wrong []string
	for _, t := range db.Tables {
		o := found["TABLE DATA "+sanitized(t.Schema)+"."+sanitized(t.Name)]
		switch {
		case o == nil && t.Rows > 0:
			wrong = append(wrong, fmt.Sprintf("%s.%s is not in the archive and had %d rows", t.Schema,
				t.Name, t.Rows))
		case o != nil && o.rows != t.Rows:
			wrong = append(wrong, fmt.Sprintf("%s.%s has %d rows in the archive and had %d on the server",
				t.Schema, t.Name, o.rows, t.Rows))
		}
	}
	if len(wrong) == 0 {
		return nil
	}
	return fmt.Errorf("%w: %s", backup.ErrDamaged, printable(strings.Join(wrong[:min(len(wrong), 5)],
		"; ")))
}

// sanitized returns a name as pg_dump writes it into comments (15).
func sanitized(s string) string { return strings.NewReplacer("\n", " ", "\r", " ").Replace(s) }

// script runs a tool that prints SQL and reads its objects.
func (c *client) script(ctx context.Context, stdin io.Reader, tool string,
	args ...string) (objects, error) {
	r, w := io.Pipe()
	ran := make(chan error, 1)
	go func() {
		err := c.tool(ctx, stdin, w, nil, tool, args...)
		ran <- err
		_ = w.CloseWithError(err)
	}()
	found, err := readScript(r)
	_ = r.CloseWithError(err)
	if e := <-ran; e != nil {
		return nil, e
	}
	return found, err
}
