package redisdb

import (
	"bufio"
	"context"
	"crypto/tls"
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

// conn is a connection without the client library, for what the library does not support: PSYNC,
// whose answer is a file, streamed values of any size, and commands without time-out or retry.
type conn struct {
	net.Conn
	r     *bufio.Reader
	w     *bufio.Writer
	idle  time.Duration // longest silence; 0: no limit
	names map[string]string
	stop  func() bool
}

const (
	// idleLimit is the default of Redis' own repl-timeout. While it prepares a
	// snapshot a master sends a newline every repl-ping-replica-period (10 s).
	idleLimit = 60 * time.Second
	// slowLimit is for slow commands, such as a value of gigabytes or FLUSHALL of millions of
	// keys.
	slowLimit = 15 * time.Minute
)

// dial connects and logs in with the client's options. The end of ctx closes the connection.
func (n *node) dial(ctx context.Context) (*conn, error) {
	o := n.client.Options()
	raw, err := o.Dialer(ctx, o.Network, o.Addr)
	if err != nil {
		return nil, err
	}
	c := &conn{Conn: raw, idle: idleLimit, names: n.names}
	c.r = bufio.NewReaderSize(timed{c}, 64<<10)
	c.w = bufio.NewWriterSize(timed{c}, 64<<10)
	c.stop = context.AfterFunc(ctx, c.abort)
	user, pass := o.Username, o.Password
	switch {
	case o.StreamingCredentialsProvider != nil:
		c.close()
		return nil, errors.New("clients with streaming credentials are not supported; use " +
			"CredentialsProviderContext")
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

// open does the same as dial, selects a database, and adds hints to errors.
func (n *node) open(ctx context.Context, db int) (*conn, error) {
	c, err := n.dial(ctx)
	if err == nil && db != 0 {
		if _, err = c.command("SELECT", strconv.Itoa(db)); err != nil {
			c.close()
		}
	}
	if err != nil {
		return nil, serverError("connect to", n.object(), ctxFirst(ctx, err))
	}
	return c, nil
}

// ctxFirst returns the end of ctx instead of the error that the closed connection caused.
func ctxFirst(ctx context.Context, err error) error {
	if e := step.Ended(ctx); err != nil && e != nil {
		return e
	}
	return err
}

func (c *conn) close() {
	c.stop()
	_ = c.Close()
}

// abort closes the connection and drops unsent data, so that the server does not continue for long
// with commands that nobody waits for.
func (c *conn) abort() {
	raw := c.Conn
	if t, ok := raw.(*tls.Conn); ok {
		raw = t.NetConn()
	}
	if t, ok := raw.(*net.TCPConn); ok {
		_ = t.SetLinger(0)
	}
	_ = raw.Close()
}

// timed sets a deadline before each operation.
type timed struct{ c *conn }

func (t timed) Read(p []byte) (int, error) {
	_ = t.c.SetReadDeadline(t.c.deadline())
	return t.c.Conn.Read(p)
}

func (t timed) Write(p []byte) (int, error) {
	_ = t.c.SetWriteDeadline(t.c.deadline())
	return t.c.Conn.Write(p)
}

func (c *conn) deadline() time.Time {
	if c.idle == 0 {
		return time.Time{}
	}
	return time.Now().Add(c.idle)
}

// Read continues after the last line.
func (c *conn) Read(p []byte) (int, error) { return c.r.Read(p) }

// put writes a command into the buffer.
func (c *conn) put(args ...string) error {
	_, err := c.w.Write(appendCommand(nil, c.names, args...))
	return err
}

// appendCommand appends a command, under the server's name for it.
func appendCommand(b []byte, names map[string]string, args ...string) []byte {
	b = append(strconv.AppendInt(append(b, '*'), int64(len(args)), 10), "\r\n"...)
	for i, a := range args {
		if i == 0 {
			a = renamed(names, a)
		}
		b = append(appendBulk(b, int64(len(a))), a...)
		b = append(b, "\r\n"...)
	}
	return b
}

func appendBulk(b []byte, n int64) []byte {
	return append(strconv.AppendInt(append(b, '$'), n, 10), "\r\n"...)
}

// line reads one reply line. Bare newlines are keepalives.
func (c *conn) line() (string, error) {
	for {
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

// replyError is a server's error reply. Replies never repeat a password.
type replyError string

func (e replyError) Error() string { return string(e) }

// RedisError marks the type for the client library's classification.
func (replyError) RedisError() {}

var _ redis.Error = replyError("")

func isReply(err error) bool {
	var e redis.Error
	return errors.As(err, &e)
}

// command sends one command and reads a one-line reply.
func (c *conn) command(args ...string) (string, error) {
	if err := errors.Join(c.put(args...), c.w.Flush()); err != nil {
		return "", err
	}
	return c.status()
}

// status reads a one-line reply.
func (c *conn) status() (string, error) {
	s, err := c.line()
	if err != nil {
		return "", err
	}
	if rest, ok := strings.CutPrefix(s, "-"); ok {
		return "", replyError(rest)
	}
	return strings.TrimLeft(s, "+:"), nil
}

// ok reads the reply if it is +OK, as most are, without an allocation.
func (c *conn) ok() bool {
	const want = "+OK\r\n"
	p, err := c.r.Peek(len(want))
	if err != nil || string(p) != want {
		return false
	}
	_, _ = c.r.Discard(len(want))
	return true
}

// number reads an integer reply.
func (c *conn) number() (int64, error) {
	s, err := c.status()
	if err != nil {
		return 0, err
	}
	return strconv.ParseInt(s, 10, 64)
}

// bulk reads the head of a bulk reply and returns its size, or -1 for none. The caller reads the
// bytes and then calls endBulk.
func (c *conn) bulk() (int64, error) {
	s, err := c.line()
	switch {
	case err != nil:
		return 0, err
	case s[0] == '-':
		return 0, replyError(s[1:])
	case s[0] == '_':
		return -1, nil
	case s[0] != '$':
		return 0, fmt.Errorf("a reply that begins with %.40q instead of a value", s)
	}
	n, err := strconv.ParseInt(s[1:], 10, 64)
	if err == nil && (n < -1 || n > 8<<30) {
		err = fmt.Errorf("a value of %d bytes", n)
	}
	return n, err
}

func (c *conn) endBulk() error {
	_, err := c.r.Discard(2)
	return err
}

// text reads a bulk reply of moderate size.
func (c *conn) text() (string, error) {
	n, err := c.bulk()
	if err != nil || n < 0 {
		return "", err
	}
	if n > 512<<20 {
		return "", fmt.Errorf("a text of %d bytes", n)
	}
	p := make([]byte, n)
	if _, err := io.ReadFull(c.r, p); err != nil {
		return "", err
	}
	return string(p), c.endBulk()
}

// process identifies the process that answers, or returns "" if the user may not ask.
func (c *conn) process() (string, error) {
	if err := errors.Join(c.put("INFO", "server"), c.w.Flush()); err != nil {
		return "", err
	}
	text, err := c.text()
	if denied(err) {
		return "", nil
	}
	_, rest, _ := strings.Cut(text, "run_id:")
	id, _, _ := strings.Cut(rest, "\r")
	return id, err
}

// array reads the head of an array.
func (c *conn) array() (int, error) {
	s, err := c.line()
	switch {
	case err != nil:
		return 0, err
	case s[0] == '-':
		return 0, replyError(s[1:])
	case s[0] != '*':
		return 0, fmt.Errorf("a reply that begins with %.40q instead of a list", s)
	}
	n, err := strconv.Atoi(s[1:])
	if err == nil && n > 1<<24 {
		err = fmt.Errorf("a list of %d elements", n)
	}
	return n, err
}
