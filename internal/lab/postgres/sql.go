package postgres

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"strings"
	"sync"
	"testing"
)

// SQL runs statements in a database and returns the rows that they print, as psql -A -t does.
// Several statements are one transaction, unless they begin and end their own.
func (s *Server) SQL(t testing.TB, database, sql string) string {
	t.Helper()
	out, err := s.TrySQL(database, sql)
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return out
}

// TrySQL is SQL for statements that may fail. When it returns, its session has ended, except the
// one with the database postgres, which later calls use again.
func (s *Server) TrySQL(database, sql string) (string, error) {
	if database == "postgres" && s.kept.busy.TryLock() {
		defer s.kept.busy.Unlock()
		if s.kept.client == nil {
			c, err := s.dial(database)
			if err != nil {
				return "", err
			}
			s.kept.client = c
		}
		out, err := s.kept.client.query(sql)
		if err != nil {
			s.kept.end()
		}
		return out, err
	}
	c, err := s.dial(database)
	if err != nil {
		return "", err
	}
	defer c.end()
	return c.query(sql)
}

// Database is the URI of one database for the superuser.
func (s *Server) Database(name string) string {
	return "postgresql://postgres@127.0.0.1:" + s.Port + "/" + url.PathEscape(name)
}

// kept is the session that calls share.
type kept struct {
	busy   sync.Mutex
	client *client
}

func (k *kept) end() {
	if k.client != nil {
		k.client.end()
		k.client = nil
	}
}

// client is a session in the simple query protocol, version 3. A psql for each call would take
// longer than most statements.
type client struct {
	conn net.Conn
	in   *bufio.Reader
}

func (s *Server) dial(database string) (*client, error) {
	conn, err := net.Dial("tcp", "127.0.0.1:"+s.Port)
	if err != nil {
		return nil, err
	}
	c := &client{conn: conn, in: bufio.NewReader(conn)}
	start := binary.BigEndian.AppendUint32(nil, 3<<16)
	start = append(start, "user\x00postgres\x00database\x00"+database+"\x00\x00"...)
	if _, err = conn.Write(message(nil, start)); err == nil {
		_, err = c.answer()
	}
	if err != nil {
		c.end()
		return nil, fmt.Errorf("connect to the database %s: %w", database, err)
	}
	return c, nil
}

// message is one of the protocol: its kind, its length, and what it says.
func message(kind, body []byte) []byte {
	return append(binary.BigEndian.AppendUint32(kind, uint32(4+len(body))), body...)
}

func (c *client) query(sql string) (string, error) {
	if _, err := c.conn.Write(message([]byte("Q"), append([]byte(sql), 0))); err != nil {
		return "", err
	}
	rows, err := c.answer()
	return strings.TrimSpace(strings.Join(rows, "\n")), err
}

// answer reads until the server waits for the next query.
func (c *client) answer() (rows []string, failed error) {
	for {
		var head [5]byte
		if _, err := io.ReadFull(c.in, head[:]); err != nil {
			return rows, errors.Join(failed, err)
		}
		body := make([]byte, binary.BigEndian.Uint32(head[1:])-4)
		if _, err := io.ReadFull(c.in, body); err != nil {
			return rows, errors.Join(failed, err)
		}
		switch head[0] {
		case 'D':
			rows = append(rows, row(body))
		case 'E':
			failed = errors.New("PostgreSQL:" + fields(body))
		case 'R':
			if binary.BigEndian.Uint32(body) != 0 {
				return rows, errors.New("the server wants a password")
			}
		case 'Z':
			return rows, failed
		}
	}
}

// row joins the columns of one row.
func row(body []byte) string {
	var columns []string
	for rest := body[2:]; len(rest) > 0; {
		n := int32(binary.BigEndian.Uint32(rest))
		rest = rest[4:]
		if n < 0 { // NULL
			n = 0
		}
		columns, rest = append(columns, string(rest[:n])), rest[n:]
	}
	return strings.Join(columns, "|")
}

// fields are severity, code and message of an error.
func fields(body []byte) (text string) {
	for _, f := range bytes.Split(body, []byte{0}) {
		if len(f) > 0 && strings.IndexByte("SCM", f[0]) >= 0 {
			text += " " + string(f[1:])
		}
	}
	return text
}

// end ends the session and waits until the server has noticed.
func (c *client) end() {
	_, _ = c.conn.Write(message([]byte("X"), nil))
	_, _ = io.Copy(io.Discard, c.in)
	_ = c.conn.Close()
}
