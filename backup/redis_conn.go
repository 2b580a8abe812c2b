package backup

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"example.com/tykupgrade/backup/internal/step"
)

// redisConn is a connection driven by hand, for the commands that the client
// library has no room for: PSYNC, whose answer is a file, and SAVE, which must
// be neither timed out nor repeated.
type redisConn struct {
	net.Conn
	r    *bufio.Reader
	idle time.Duration // longest silence; 0: no limit
	stop func() bool
}

// idleLimit is the default of Redis' own repl-timeout. While it prepares a
// snapshot a master sends a newline every repl-ping-replica-period (10 s).
const idleLimit = 60 * time.Second

// dial connects and logs in with what the client was given. The end of ctx
// closes the connection.
func (n *redisNode) dial(ctx context.Context) (*redisConn, error) {
	o := n.client.Options()
	raw, err := o.Dialer(ctx, o.Network, o.Addr)
	if err != nil {
		return nil, err
	}
	c := &redisConn{Conn: raw, r: bufio.NewReaderSize(raw, 64<<10), idle: idleLimit}
	c.stop = context.AfterFunc(ctx, func() { _ = raw.Close() })
	user, pass := o.Username, o.Password
	switch {
	case o.StreamingCredentialsProvider != nil:
		c.close()
		return nil, errors.New("clients with streaming credentials are not supported; use CredentialsProviderContext")
	case o.CredentialsProviderContext != nil:
		if user, pass, err = o.CredentialsProviderContext(ctx); err != nil {
			c.close()
			return nil, err
		}
	case o.CredentialsProvider != nil:
		user, pass = o.CredentialsProvider()
	}
	if pass != "" {
		auth := []string{"AUTH", user, pass}
		if user == "" {
			auth = []string{"AUTH", pass}
		}
		if _, err := c.command(auth...); err != nil {
			c.close()
			return nil, ctxFirst(ctx, err)
		}
	}
	return c, nil
}

// ctxFirst prefers the reason for which a connection was closed to the error
// that this caused.
func ctxFirst(ctx context.Context, err error) error {
	if e := step.Ended(ctx); err != nil && e != nil {
		return e
	}
	return err
}

func (c *redisConn) close() {
	c.stop()
	_ = c.Close()
}

func (c *redisConn) addr() string { return c.RemoteAddr().String() }

// Read continues after the last line.
func (c *redisConn) Read(p []byte) (int, error) {
	c.deadline()
	return c.r.Read(p)
}

func (c *redisConn) deadline() {
	if c.idle > 0 {
		_ = c.SetReadDeadline(time.Now().Add(c.idle))
	} else {
		_ = c.SetReadDeadline(time.Time{})
	}
}

func (c *redisConn) send(args ...string) error {
	var b strings.Builder
	fmt.Fprintf(&b, "*%d\r\n", len(args))
	for _, a := range args {
		fmt.Fprintf(&b, "$%d\r\n%s\r\n", len(a), a)
	}
	_ = c.SetWriteDeadline(time.Now().Add(idleLimit))
	_, err := io.WriteString(c.Conn, b.String())
	return err
}

// line reads one reply line. Bare newlines are keepalives.
func (c *redisConn) line() (string, error) {
	for {
		c.deadline()
		s, err := c.r.ReadString('\n')
		if err != nil {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return "", err
		}
		if s = strings.TrimRight(s, "\r\n"); s != "" {
			return s, nil
		}
	}
}

// redisReplyError is a server's error reply. Replies never repeat a password.
type redisReplyError string

func (e redisReplyError) Error() string { return string(e) }

// RedisError marks it for the client library's classification.
func (redisReplyError) RedisError() {}

var _ redis.Error = redisReplyError("")

// command sends one command and reads a one-line reply.
func (c *redisConn) command(args ...string) (string, error) {
	if err := c.send(args...); err != nil {
		return "", err
	}
	s, err := c.line()
	if err != nil {
		return "", err
	}
	if rest, ok := strings.CutPrefix(s, "-"); ok {
		return "", redisReplyError(rest)
	}
	return strings.TrimPrefix(s, "+"), nil
}

// snapshot asks for a full synchronisation and returns the RDB as a stream that
// ends after its last byte.
func (c *redisConn) snapshot() (rdb io.Reader, replID string, offset int64, err error) {
	// rdb-only (7.0) makes the server close after the file; older ones do not
	// know it and are left by closing.
	for _, args := range [][]string{{"REPLCONF", "capa", "eof", "capa", "psync2"}, {"REPLCONF", "rdb-only", "1"}} {
		if _, err := c.command(args...); err != nil && (redisDenied(err) || !isReply(err)) {
			return nil, "", 0, err
		}
	}
	s, err := c.command("PSYNC", "?", "-1")
	if err != nil {
		return nil, "", 0, err
	}
	f := strings.Fields(s)
	if len(f) != 3 || f[0] != "FULLRESYNC" {
		return nil, "", 0, fmt.Errorf("PSYNC was answered with %.100q", s)
	}
	replID = f[1]
	if offset, err = strconv.ParseInt(f[2], 10, 64); err != nil {
		return nil, "", 0, fmt.Errorf("PSYNC was answered with %.100q", s)
	}
	if s, err = c.line(); err != nil {
		return nil, "", 0, err
	}
	if mark, ok := strings.CutPrefix(s, "$EOF:"); ok && len(mark) == 40 {
		return &markedReader{r: c, mark: mark}, replID, offset, nil
	}
	size, err := strconv.ParseInt(strings.TrimPrefix(s, "$"), 10, 64)
	if err != nil || !strings.HasPrefix(s, "$") || size <= 0 {
		return nil, "", 0, fmt.Errorf("the snapshot was announced with %.100q", s)
	}
	return &sizedReader{r: c, left: size}, replID, offset, nil
}

func isReply(err error) bool {
	var e redisReplyError
	return errors.As(err, &e)
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

// markedReader is a snapshot that the server streams: it ends with a mark, and
// nothing follows before we answer. So the end is known when the last bytes
// received are the mark; that many are held back until then.
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
