package redisdb

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"example.com/tykupgrade/backup"
	"example.com/tykupgrade/backup/redisdb/internal/rdb"
)

// snapshot asks for a full synchronisation and returns the file as a stream
// that ends after its last byte.
func (c *conn) snapshot() (file io.Reader, replID string, offset int64, err error) {
	// rdb-only (7.0) makes the server close the connection after the file. With older servers,
	// the client closes it.
	for _, args := range [][]string{{"REPLCONF", "capa", "eof", "capa", "psync2"}, {"REPLCONF",
		"rdb-only", "1"}} {
		if _, err := c.command(args...); err != nil && (denied(err) || !isReply(err)) {
			return nil, "", 0, err
		}
	}
	s, err := c.command("PSYNC", "?", "-1")
	if err != nil {
		return nil, "", 0, err
	}
	if strings.HasPrefix(s, "$") { // a renamed PSYNC answers as SYNC does (7.0)
		file, err = c.announced(s)
		return file, "", 0, err
	}
	f := strings.Fields(s)
	if len(f) != 3 || f[0] != "FULLRESYNC" {
		return nil, "", 0, fmt.Errorf("PSYNC was answered with %.100q", s)
	}
	replID = f[1]
	if offset, err = strconv.ParseInt(f[2], 10, 64); err != nil {
		return nil, "", 0, fmt.Errorf("PSYNC was answered with %.100q", s)
	}
	if s, err = c.line(); err == nil {
		file, err = c.announced(s)
	}
	return file, replID, offset, err
}

// announced returns the file that a line announces.
func (c *conn) announced(s string) (io.Reader, error) {
	if mark, ok := strings.CutPrefix(s, "$EOF:"); ok && len(mark) == 40 {
		return &markedReader{r: c, mark: mark}, nil
	}
	size, err := strconv.ParseInt(strings.TrimPrefix(s, "$"), 10, 64)
	if err != nil || !strings.HasPrefix(s, "$") || size <= 0 {
		return nil, fmt.Errorf("the snapshot was announced with %.100q", s)
	}
	return &sizedReader{r: c, left: size}, nil
}

// mayPSYNC checks the permission without a transfer. The offset is not a number, which servers
// refuse (7.0) after they checked the permission. Older servers may begin to save, so the
// connection is closed at once.
func (n *node) mayPSYNC(ctx context.Context) error {
	c, err := n.open(ctx, 0)
	if err != nil {
		return err
	}
	defer c.close()
	if _, err = c.command("REPLCONF", "capa", "eof"); err == nil || !denied(err) {
		_, err = c.command("PSYNC", "?", "x")
	}
	if err != nil && (denied(err) || !isReply(err)) {
		return serverError("read a snapshot of", n.object(), ctxFirst(ctx, err))
	}
	return nil
}

// psync copies a snapshot over the network.
func (n *node) psync(ctx context.Context, w *backup.Writer, out *Node) error {
	op := "take a PSYNC snapshot of"
	c, err := n.open(ctx, 0)
	if err != nil {
		return err
	}
	defer c.close()
	file, replID, offset, err := c.snapshot()
	if err != nil {
		return serverError(op, n.object(), ctxFirst(ctx, err))
	}
	out.ReplID, out.Offset = replID, offset
	_, err = w.Create(ctx, out.File, nil, func(dst io.Writer) (err error) {
		// A server sends small pieces, each of which would be a write and a progress event.
		pieces := bufio.NewWriterSize(dst, 256<<10)
		out.RDB, err = rdb.Read(ctx, io.TeeReader(file, pieces), rdb.Visit{})
		return ctxFirst(ctx, errors.Join(err, pieces.Flush()))
	})
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return &backup.Error{Op: op, Object: n.object(), Err: fmt.Errorf("the connection was cut: %w",
			err), Retry: true,
			Next: "read the server's log; a slow reader is cut off by client-output-buffer-limit replica"}
	}
	if err != nil {
		return serverError(op, n.object(), err)
	}
	return nil
}

// sizedReader is a snapshot that the server had on disk.
type sizedReader struct {
	r    io.Reader
	left int64
}

func (s *sizedReader) Read(p []byte) (int, error) {
	if s.left == 0 {
		return 0, io.EOF
	}
	n, err := s.r.Read(p[:min(int64(len(p)), s.left)])
	s.left -= int64(n)
	if errors.Is(err, io.EOF) && s.left > 0 {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

// markedReader is a snapshot that the server streams. It ends with a mark, and nothing follows
// before we answer. markedReader therefore keeps back as many bytes as the mark has.
type markedReader struct {
	r    io.Reader
	mark string
	held []byte
	done bool
}

func (m *markedReader) Read(p []byte) (int, error) {
	if m.done {
		return 0, io.EOF
	}
	if len(p) <= len(m.mark) {
		return 0, io.ErrShortBuffer
	}
	n := copy(p, m.held)
	for {
		got, err := m.r.Read(p[n:])
		n += got
		last := p[max(0, n-len(m.mark)):n]
		switch {
		case string(last) == m.mark:
			m.done = true
			if n == len(m.mark) {
				return 0, io.EOF
			}
			return n - len(m.mark), nil
		case errors.Is(err, io.EOF):
			return 0, io.ErrUnexpectedEOF
		case err != nil:
			return 0, err
		case n > len(m.mark):
			m.held = append(m.held[:0], last...)
			return n - len(m.mark), nil
		}
	}
}
