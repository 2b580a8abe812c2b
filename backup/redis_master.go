package backup

import (
	"bufio"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"example.com/tykupgrade/backup/internal/step"
)

// replicate lets the server fetch the file from this process as if from a
// master. The server keeps its old data until the whole file has arrived.
func (r *RedisLive) replicate(ctx context.Context, t *target, s *Stored, count func(bytes, keys int64)) (err error) {
	n, from := t.topo.nodes[0], t.details.Nodes[0]
	object := "redis " + n.addr
	conn, err := n.dial(ctx)
	if err != nil {
		return redisError("connect to", object, ctxFirst(ctx, err))
	}
	local, remote := conn.LocalAddr(), conn.RemoteAddr()
	conn.close()
	if v, ok, err := n.config(ctx, "tls-replication"); err != nil {
		return err
	} else if ok && v == "yes" && r.Listener == nil {
		return &Error{Op: "restore", Object: object, Err: errors.New("it replicates over TLS"), Next: "give a TLS listener, or use the way " + string(RedisRestore)}
	}
	m := &master{allowed: hostOf(remote), count: func(b int64) { count(b, 0) }, fetched: make(chan struct{})}
	if m.l = r.Listener; m.l == nil {
		if m.l, err = net.Listen("tcp", net.JoinHostPort(hostOf(local), "0")); err != nil {
			return redisError("listen for", object, err)
		}
	}
	if m.file, err = s.Open(from.File); err != nil {
		return errors.Join(err, m.l.Close())
	}
	var serving sync.WaitGroup
	serving.Go(m.serve)
	defer func() {
		m.stop()
		serving.Wait()
		err = errors.Join(err, m.file.Close())
	}()
	host, port, err := net.SplitHostPort(m.l.Addr().String())
	if err != nil {
		return err
	}
	loaded := n.client.Do(ctx, "REPLICAOF", host, port).Err()
	var refused redis.Error
	switch {
	case errors.As(loaded, &refused):
		return redisError("restore", object, loaded)
	case loaded != nil: // it may have begun all the same
		loaded = redisError("restore", object, ctxFirst(ctx, loaded))
	default:
		loaded = n.awaitLoad(ctx, m)
	}
	// A master again, whatever happened, also when ctx has ended.
	back, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
	defer cancel()
	asked := time.Now()
	err = poll(back, func() (bool, error) {
		err := n.client.Do(back, "REPLICAOF", "NO", "ONE").Err()
		if notListening(err) && time.Since(asked) > patience {
			return false, err
		}
		return err == nil, nil
	})
	if err != nil {
		err = &Error{Op: "make a master again of", Object: object, Err: err, Next: "run REPLICAOF NO ONE on it"}
	}
	r.touched = m.asked()
	return errors.Join(loaded, err)
}

// awaitLoad returns once the server has loaded the file and is in step.
func (n *redisNode) awaitLoad(ctx context.Context, m *master) error {
	object := "redis " + n.addr
	first := time.NewTimer(fetchLimit)
	defer first.Stop()
	select {
	case <-ctx.Done():
		return step.Fail("restore", object, step.Ended(ctx))
	case <-first.C:
		return &Error{Op: "restore", Object: object, Err: fmt.Errorf("it did not fetch the file from %s within %v", m.l.Addr(), fetchLimit),
			Next: "let it connect there, give another listener, or use the way " + string(RedisRestore)}
	case <-m.fetched:
	}
	var gone time.Time // since when nothing listens there
	err := poll(ctx, func() (bool, error) {
		if err := m.failure(); err != nil {
			return false, err
		}
		info, err := n.info(ctx)
		switch {
		case err == nil && info["role"] == "master":
			return false, errors.New("it is a replica no more: it was restarted meanwhile, or somebody else made it a master")
		case err == nil:
			gone = time.Time{}
		case notListening(err) && gone.IsZero():
			gone = time.Now()
			return false, step.Ended(ctx)
		case notListening(err) && time.Since(gone) > patience:
			return false, err
		default: // While it loads a server answers little.
			return false, step.Ended(ctx)
		}
		return info["loading"] == "0" && info["master_link_status"] == "up" && info["master_sync_in_progress"] == "0", nil
	})
	if err != nil {
		return redisError("restore", object, err)
	}
	return nil
}

// fetchLimit is how long a server may take to begin: it tries once a second.
const fetchLimit = 30 * time.Second

func hostOf(a net.Addr) string {
	host, _, err := net.SplitHostPort(a.String())
	if err != nil || host == "" { // a socket file
		return "127.0.0.1"
	}
	return host
}

// master speaks as much of the replication protocol as a server needs to load
// one file: PING, AUTH, REPLCONF, PSYNC, then the file and pings.
type master struct {
	l       net.Listener
	file    *os.File
	allowed string
	count   func(int64)
	fetched chan struct{} // closed when the server has asked for the file

	mu     sync.Mutex
	conns  []net.Conn
	err    error
	tries  int
	ended  bool
	opened sync.Once
}

func (m *master) serve() {
	var all sync.WaitGroup
	defer all.Wait()
	for {
		c, err := m.l.Accept()
		if err != nil {
			return
		}
		if hostOf(c.RemoteAddr()) != m.allowed {
			_ = c.Close()
			continue
		}
		m.mu.Lock()
		m.conns = append(m.conns, c)
		if m.ended {
			_ = c.Close()
		}
		m.mu.Unlock()
		all.Go(func() {
			defer c.Close()
			if err := m.talk(c); err != nil {
				m.note(err)
			}
		})
	}
}

// maxTries is how often a server may lose the connection and come back.
const maxTries = 3

func (m *master) note(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.tries++; m.tries >= maxTries && !m.ended {
		m.err = fmt.Errorf("it gave up loading %d times: %w", m.tries, err)
	}
}

func (m *master) failure() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.err
}

func (m *master) asked() bool {
	select {
	case <-m.fetched:
		return true
	default:
		return false
	}
}

func (m *master) stop() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.ended = true
	_ = m.l.Close()
	for _, c := range m.conns {
		_ = c.Close()
	}
}

func (m *master) talk(c net.Conn) error {
	r := bufio.NewReader(c)
	for {
		args, err := readCommand(r)
		if err != nil {
			return err
		}
		reply := "+OK\r\n"
		switch strings.ToUpper(args[0]) {
		case "PING":
			reply = "+PONG\r\n"
		case "AUTH", "REPLCONF", "SELECT":
		case "PSYNC", "SYNC":
			return m.send(c, r)
		default:
			reply = "-ERR unknown command\r\n"
		}
		if _, err := io.WriteString(c, reply); err != nil {
			return err
		}
	}
}

// send gives the file, then pings until the connection ends.
func (m *master) send(c net.Conn, r *bufio.Reader) error {
	info, err := m.file.Stat()
	if err != nil {
		return err
	}
	var id [20]byte
	_, _ = rand.Read(id[:])
	if _, err := fmt.Fprintf(c, "+FULLRESYNC %s 0\r\n$%d\r\n", hex.EncodeToString(id[:]), info.Size()); err != nil {
		return err
	}
	m.opened.Do(func() { close(m.fetched) })
	// Each try reads the file from its beginning.
	if _, err := io.Copy(&step.Meter{W: c, Add: m.count}, io.NewSectionReader(m.file, 0, info.Size())); err != nil {
		return err
	}
	stop := make(chan struct{})
	var pinging sync.WaitGroup
	pinging.Go(func() {
		tick := time.NewTicker(time.Second)
		defer tick.Stop()
		for {
			select {
			case <-stop:
				return
			case <-tick.C:
				_, _ = io.WriteString(c, "*1\r\n$4\r\nPING\r\n")
			}
		}
	})
	_, err = io.Copy(io.Discard, r) // acknowledgements
	close(stop)
	pinging.Wait()
	if err == nil {
		err = io.ErrUnexpectedEOF
	}
	return err
}

// readCommand reads one command, which is short: an array of strings.
func readCommand(r *bufio.Reader) ([]string, error) {
	n, err := readHead(r, '*', 64)
	if err != nil {
		return nil, err
	}
	if n == 0 {
		return nil, errors.New("an empty command")
	}
	args := make([]string, n)
	for i := range args {
		size, err := readHead(r, '$', 64<<10)
		if err != nil {
			return nil, err
		}
		b := make([]byte, size+2)
		if _, err := io.ReadFull(r, b); err != nil {
			return nil, err
		}
		args[i] = string(b[:size])
	}
	return args, nil
}

func readHead(r *bufio.Reader, kind byte, limit int) (int, error) {
	line, err := r.ReadSlice('\n')
	if err != nil {
		return 0, err
	}
	s := strings.TrimRight(string(line), "\r\n")
	if len(s) < 2 || s[0] != kind {
		return 0, fmt.Errorf("a command that begins with %.20q", s)
	}
	n, err := strconv.Atoi(s[1:])
	if err != nil || n < 0 || n > limit {
		return 0, fmt.Errorf("a command that begins with %.20q", s)
	}
	return n, nil
}
