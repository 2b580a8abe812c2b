package traffic

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// pause is between two requests of a client until enough are sent, and then ten times as long, so
// that a load measures the upgrade and not the machine.
const (
	pause  = 50 * time.Millisecond
	enough = 5000
)

// Load is clients that send requests until they are stopped. They write HTTP themselves: Go's
// client repeats what fails on a kept connection, and so hides failures.
type Load struct {
	sent, failed atomic.Int64
	first        atomic.Pointer[error]
	cancel       context.CancelFunc
	wg           sync.WaitGroup
	check        func(*http.Response) error
}

// Options change what clients do. The zero value is clients that keep their connections.
type Options struct {
	Close bool                       // each request has a connection of its own
	Check func(*http.Response) error // an answer that it refuses has failed; nil: none
}

// Run starts clients that go round the addresses. Every second client keeps cookies, and every
// fourth has a connection of its own for each request.
func Run(clients int, addrs ...string) *Load { return Options{}.Run(clients, addrs...) }

// Run is [Run] with options.
func (o Options) Run(clients int, addrs ...string) *Load {
	ctx, cancel := context.WithCancel(context.Background())
	l := &Load{cancel: cancel, check: o.Check}
	for i := range clients {
		c := &client{cookies: i%2 == 0, close: o.Close || i%4 == 3, conns: map[string]*conn{}}
		l.wg.Go(func() {
			defer c.end()
			for n := i; ctx.Err() == nil; n++ {
				next := time.Now().Add(pause)
				if l.sent.Load() >= enough {
					next = next.Add(9 * pause)
				}
				if err := l.one(c, addrs[n%len(addrs)], n); err != nil {
					l.failed.Add(1)
					l.first.CompareAndSwap(nil, &err)
				}
				l.sent.Add(1)
				time.Sleep(time.Until(next))
			}
		})
	}
	return l
}

func (l *Load) one(c *client, addr string, n int) error {
	method, path, body := http.MethodGet, "/", ""
	switch {
	case n%4 == 1:
		method, path, body = http.MethodPost, "/post", strings.Repeat("x", 1000)
	case n%20 == 2:
		path = "/delay/50ms/slow"
	}
	resp, text, err := c.do(addr, method, path, body)
	if err != nil {
		return fmt.Errorf("%s %s: %w", method, path, err)
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s %s: %s: %s", method, path, resp.Status, text)
	}
	if l.check != nil {
		return l.check(resp)
	}
	return nil
}

// End returns once so many requests were sent, and how many failed, with the first reason.
func (l *Load) End(least int64) (sent, failed int64, why error) {
	for l.sent.Load() < least {
		time.Sleep(10 * time.Millisecond)
	}
	l.cancel()
	l.wg.Wait()
	if p := l.first.Load(); p != nil {
		why = *p
	}
	return l.sent.Load(), l.failed.Load(), why
}

// client is one client. It asks a server again for nothing.
type client struct {
	cookies, close bool
	conns          map[string]*conn // by address
}

type conn struct {
	net.Conn
	r      *bufio.Reader
	cookie string
}

func (c *client) end() {
	for _, k := range c.conns {
		if k.Conn != nil {
			_ = k.Close()
		}
	}
}

func (c *client) do(addr, method, path, body string) (*http.Response, string, error) {
	k := c.conns[addr]
	if k == nil {
		k = &conn{}
		c.conns[addr] = k
	}
	if k.Conn == nil {
		d, err := net.DialTimeout("tcp", addr, time.Minute)
		if err != nil {
			return nil, "", err
		}
		k.Conn, k.r = d, bufio.NewReader(d)
	}
	resp, text, err := k.exchange(c.close, method, path, body)
	if err != nil || resp.Close || c.close {
		_ = k.Close()
		k.Conn = nil
	}
	if err == nil && c.cookies {
		for _, cookie := range resp.Cookies() {
			k.cookie = cookie.Name + "=" + cookie.Value
		}
	}
	return resp, text, err
}

func (k *conn) exchange(last bool, method, path, body string) (*http.Response, string, error) {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s HTTP/1.1\r\nHost: gateways\r\nContent-Length: %d\r\n", method, path,
		len(body))
	if last {
		b.WriteString("Connection: close\r\n")
	}
	if k.cookie != "" {
		b.WriteString("Cookie: " + k.cookie + "\r\n")
	}
	b.WriteString("\r\n" + body)
	if err := k.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		return nil, "", err
	}
	if _, err := io.WriteString(k.Conn, b.String()); err != nil {
		return nil, "", err
	}
	resp, err := http.ReadResponse(k.r, nil)
	if err != nil {
		return nil, "", err
	}
	defer func() { _ = resp.Body.Close() }()
	text, err := io.ReadAll(resp.Body)
	return resp, string(text), err
}
