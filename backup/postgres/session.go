package postgres

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"example.com/tykupgrade/backup"
)

// session is a psql that stays connected, so that a transaction and its snapshot stay open over
// several commands. It must not be used concurrently.
type session struct {
	c      *client
	in     *io.PipeWriter
	out    *bufio.Reader
	pipe   *io.PipeReader
	done   chan error
	err    error
	cancel context.CancelFunc
}

// Lines that no query prints, because they begin with a control character.
const (
	marker = "\x01tykupgrade-end"
	gone   = "\x01tykupgrade-gone"
)

// connect starts a session. It ends with close, or with ctx.
func (c *client) connect(ctx context.Context, database string) (*session, error) {
	ctx, cancel := context.WithCancel(ctx)
	stdin, in := io.Pipe()
	out, stdout := io.Pipe()
	s := &session{c: c, in: in, out: bufio.NewReader(out), pipe: out, done: make(chan error, 1),
		cancel: cancel}
	go func() {
		err := c.shell(ctx, telling, stdin, stdout, nil, "psql", "--no-psqlrc", "--quiet", "--no-align",
			"--tuples-only", "--no-password",
			"--set=ON_ERROR_STOP=1", "--set=VERBOSITY=verbose", "--dbname="+c.conninfo(database))
		_ = stdin.CloseWithError(io.ErrClosedPipe)
		s.done <- err
		_ = stdout.Close()
	}()
	// Names and functions must not depend on the settings of the database.
	if _, err := s.query("SET search_path = pg_catalog; SET standard_conforming_strings = on; SET " +
		"row_security = off; SET lock_timeout = '60s'; SET statement_timeout = 0; SET " +
		"idle_in_transaction_session_timeout = 0"); err != nil {
		s.close()
		return nil, &backup.Error{Op: "connect to", Object: c.String(), Err: err}
	}
	return s, nil
}

// query runs statements and returns what they print.
func (s *session) query(sql string) ([]byte, error) {
	if s.err != nil {
		return nil, s.err
	}
	_, err := io.WriteString(s.in, sql+";\n\\echo "+marker+"\n")
	var out []byte
	for err == nil {
		var line []byte
		line, err = s.out.ReadBytes('\n')
		switch strings.TrimRight(string(line), "\n") {
		case marker:
			return out, nil
		case gone:
			err = io.EOF
			continue
		}
		out = append(out, line...)
	}
	_ = s.in.Close()
	go func() { _, _ = io.Copy(io.Discard, s.pipe) }()
	if s.err = <-s.done; s.err == nil {
		s.err = &backup.Error{Op: "run", Object: "psql", Kind: ErrAborted,
			Err: errors.New("it ended early"), Retry: true}
	}
	return nil, s.err
}

// alive reports whether the session can run another query.
func (s *session) alive() bool {
	_, err := s.query("SELECT 1")
	return err == nil
}

// json runs one query whose only value is JSON and decodes it into v.
func (s *session) json(sql string, v any) error {
	out, err := s.query(sql)
	if err != nil {
		return err
	}
	if len(strings.TrimSpace(string(out))) == 0 {
		out = []byte("null")
	}
	if err := json.Unmarshal(out, v); err != nil {
		return fmt.Errorf("read the answer of psql: %w", err)
	}
	return nil
}

// rows runs a SELECT and decodes its rows.
func (s *session) rows(sql string, v any) error {
	return s.json("SELECT coalesce(json_agg(row_to_json(q)), '[]') FROM ("+sql+") q", v)
}

// close ends the session and waits for the end of psql.
func (s *session) close() {
	_ = s.in.Close()
	go func() { _, _ = io.Copy(io.Discard, s.pipe) }()
	if s.err == nil {
		s.err = errors.Join(<-s.done, io.ErrClosedPipe)
	}
	s.cancel()
}
