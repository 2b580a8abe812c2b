package postgres

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"example.com/tykupgrade/backup"
	"example.com/tykupgrade/backup/internal/step"
)

// DefaultDatabase is the database of Tyk's dashboard.
const DefaultDatabase = "tyk_analytics"

// Source is a [backup.Source] for databases of one server. As a [backup.Prover] it compares the
// live databases with a set.
//
// A backup shows each database at one moment, even if clients write meanwhile. The moments of two
// databases differ. The user needs SELECT on every table and must not be subject to row-level
// security. Otherwise Plan or Backup fails. A dump holds ACCESS SHARE locks, so DDL and TRUNCATE of
// a table wait until it ends. A dump that waits longer than LockWait for such a statement fails
// with a retryable [ErrInUse].
//
// A Source holds no connection and may be used concurrently. After an error, a cancel or a kill -9
// nothing is left on the server, because the session ends with its pipe.
type Source struct {
	Server    Server
	Component string   // name in the set; empty: "postgres"
	Databases []string // empty: the database of Server.URI, otherwise DefaultDatabase
	Compress  int      // pg_dump's level from 1 to 9; 0: 1, negative: none
	// LockWait is how long a dump waits for another session's lock; 0: a minute.
	LockWait time.Duration
	NoOwner  bool         // for Prove: see Restore.NoOwner
	Log      *slog.Logger // nil: silent
}

// Name returns the component's name.
func (s *Source) Name() string { return name(s.Component) }

func name(component string) string {
	if component == "" {
		return "postgres"
	}
	return component
}

func (s *Source) databases(c *client) []string {
	switch {
	case len(s.Databases) > 0:
		return s.Databases
	case c.database != "":
		return []string{c.database}
	}
	return []string{DefaultDatabase}
}

// Plan connects to every database and refuses what could not be dumped. It refuses a pg_dump that
// is older than the server, or newer than this machine's pg_restore, which verifies the set. It
// also refuses a missing database, a table that the user may not read, and two names for one
// database.
func (s *Source) Plan(ctx context.Context) (backup.Estimate, error) {
	var e backup.Estimate
	c, err := s.Server.client()
	if err != nil {
		return e, err
	}
	dbs := s.databases(c)
	if len(slices.Compact(slices.Sorted(slices.Values(dbs)))) < len(dbs) {
		return e, &backup.Error{Op: "plan", Object: s.Name(), Err: errors.New("duplicate database name")}
	}
	if c.plaintext() {
		step.Logger(s.Log).Warn("the connection may be unencrypted: set sslmode=verify-full", "server",
			c.String())
	}
	for _, db := range dbs {
		if err := s.planOne(ctx, c, db, &e); err != nil {
			return e, step.WithEnd(ctx, step.Fail("plan", "database "+db, err))
		}
	}
	return e, nil
}

func (s *Source) planOne(ctx context.Context, c *client, db string, e *backup.Estimate) error {
	q, err := c.connect(ctx, db)
	if err != nil {
		return err
	}
	defer q.close()
	facts, err := q.server()
	if err != nil {
		return err
	}
	tool, err := s.tools(ctx, c, facts)
	if err != nil {
		return err
	}
	// A set is verified on the machine that takes it.
	if _, err := archiveReader(ctx, tool.major, tool.text); err != nil {
		return err
	}
	d, err := q.database()
	if err != nil {
		return err
	}
	var denied []string
	if err := q.json(`SELECT coalesce(json_agg(quote_ident(n.nspname) || '.' || quote_ident(c.relname)), '[]')
		FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
		WHERE c.relkind IN ('r', 'p', 'm', 'S') AND n.nspname <> 'information_schema' AND n.nspname NOT LIKE 'pg\_%'
		AND (NOT has_schema_privilege(n.oid, 'USAGE') OR NOT CASE WHEN c.relkind = 'S' THEN has_sequence_privilege(c.oid, 'SELECT')
			ELSE has_table_privilege(c.oid, 'SELECT') END OR row_security_active(c.oid))`, &denied); err != nil {
		return err
	}
	if len(denied) > 0 {
		return &backup.Error{Op: "read", Object: strings.Join(denied[:min(len(denied), 5)], ", "),
			Kind: backup.ErrNotAllowed,
			Err:  fmt.Errorf("user %s may not read all rows of %d relations", facts.User, len(denied)),
			Next: "grant SELECT, or use the owner of the tables"}
	}
	e.Bytes += d.Size
	e.Items += int64(len(d.Tables))
	return nil
}

// lockWait returns LockWait in milliseconds, for servers and pg_dump.
func (s *Source) lockWait() string {
	if s.LockWait <= 0 {
		return "60000"
	}
	return strconv.FormatInt(max(s.LockWait.Milliseconds(), 1), 10)
}

// tools checks that pg_dump is not older than the server. pg_dump can read older servers.
func (s *Source) tools(ctx context.Context, c *client, f serverFacts) (toolVersion, error) {
	tool, err := c.version(ctx, "pg_dump")
	if err == nil && tool.major < f.major() {
		err = &backup.Error{Op: "dump with", Object: "pg_dump " + tool.text, Kind: ErrToolTooOld,
			Err:  fmt.Errorf("the server is %s", f.Version),
			Next: fmt.Sprintf("install postgresql-client-%d where the tools run, or set Bin", f.major())}
	}
	return tool, err
}

// Backup writes one archive for each database.
func (s *Source) Backup(ctx context.Context, w *backup.Writer) (backup.Component, error) {
	out := backup.Component{Kind: Kind, Consistency: backup.ConsistencySnapshot,
		Method: "pg_dump --format=custom"}
	c, err := s.Server.client()
	if err != nil {
		return out, err
	}
	out.Origin = c.String()
	var d Details
	for i, db := range s.databases(c) {
		one, err := s.backupOne(ctx, c, db, w, &d)
		if err != nil {
			return out, step.WithEnd(ctx, step.Fail("back up", "database "+db, err))
		}
		d.Databases = append(d.Databases, one)
		if i > 0 {
			out.Consistency = backup.ConsistencyPerNode
		}
		for _, t := range one.Tables {
			out.Items += t.Rows
		}
	}
	out.Server, out.Topology = "PostgreSQL "+d.Server, "primary"
	if d.Standby {
		out.Topology = "standby"
	}
	return out, out.SetDetails(d)
}

func (s *Source) backupOne(ctx context.Context, c *client, db string, w *backup.Writer,
	d *Details) (Database, error) {
	q, err := c.connect(ctx, db)
	if err != nil {
		return Database{}, err
	}
	defer q.close()
	facts, err := q.server()
	if err != nil {
		return Database{}, err
	}
	d.Server, d.Major, d.Standby = facts.Version, facts.major(), facts.Standby
	tool, err := s.tools(ctx, c, facts)
	if err != nil {
		return Database{}, err
	}
	d.DumpMajor, d.Dump = tool.major, tool.text
	if _, err := q.query("SET lock_timeout = " + s.lockWait()); err != nil {
		return Database{}, err
	}
	id, lsn, err := q.snapshot()
	if err != nil {
		return Database{}, err
	}
	d.LSN = lsn
	one, err := q.database()
	if err != nil {
		return one, err
	}
	one.Name, one.Snapshot, one.File = db, id, url.PathEscape(db)+".dump"
	if err := s.dump(ctx, c, one, w, q); err != nil {
		return one, err
	}
	_, err = q.query("COMMIT")
	return one, err
}

// dump runs pg_dump in the session's snapshot, and counts rows there meanwhile.
func (s *Source) dump(ctx context.Context, c *client, d Database, w *backup.Writer,
	q *session) error {
	level := s.Compress
	if level == 0 {
		level = 1
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	counted := make(chan error, 1)
	go func() {
		err := q.count(d.Tables)
		if err != nil {
			cancel(err)
		}
		counted <- err
	}()
	meta := &backup.Meta{Mode: 0o600, ModTime: time.Now()}
	var written error
	_, err := w.Create(ctx, d.File, meta, func(out io.Writer) error {
		sink := &firstError{w: out}
		err := c.tool(ctx, nil, sink, func(line string) {
			if table, ok := strings.CutPrefix(line, `pg_dump: dumping contents of table "`); ok {
				w.ItemProgress(d.Name+": "+printable(strings.TrimSuffix(table, `"`)), 0, 1, 0, 0)
			}
		}, "pg_dump", "--format=custom", fmt.Sprintf("--compress=%d", max(level, 0)), "--snapshot="+
			d.Snapshot, "--lock-wait-timeout="+s.lockWait(),
			"--no-password", "--verbose", "--dbname="+c.conninfo(d.Name))
		written = sink.err
		if written != nil {
			return written // a full disk, not the broken pipe that follows
		}
		return err
	})
	if e := <-counted; e != nil && (err == nil || errors.Is(err, context.Canceled) && written == nil) {
		return e
	}
	return err
}

type firstError struct {
	w   io.Writer
	err error
}

func (f *firstError) Write(p []byte) (int, error) {
	n, err := f.w.Write(p)
	if err != nil && f.err == nil {
		f.err = err
	}
	return n, err
}
