package redisdb

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"net"
	"sync"
	"time"
)

// errNoTLS means that a server answers without TLS to a request for TLS.
var errNoTLS = errors.New("the server speaks no TLS")

// noTLS also knows servers that found the end of a line in the first bytes of a handshake,
// and answered that it is no command.
func noTLS(err error) bool {
	var header tls.RecordHeaderError
	return errors.Is(err, errNoTLS) || errors.As(err, &header)
}

// silentFor is how long a server may say nothing in a handshake until it is asked without
// TLS. A server without TLS takes the handshake for a command and waits for its end, so
// that the client would wait for its time-outs, and dial five times.
const silentFor = time.Second

// tlsDialer connects as the client library does, and finds out whether a server that does
// not answer speaks TLS at all. It is nil without TLS.
func tlsDialer(conf *tls.Config, limit time.Duration) func(context.Context, string,
	string) (net.Conn, error) {
	if conf == nil {
		return nil
	}
	var known sync.Map // addresses without TLS, and when that was found
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		if at, ok := known.Load(addr); ok && time.Since(at.(time.Time)) < 10*time.Second {
			return nil, errNoTLS
		}
		ctx, cancel := context.WithTimeout(ctx, cmp.Or(limit, 5*time.Second))
		defer cancel()
		raw, err := (&net.Dialer{KeepAlive: 5 * time.Minute}).DialContext(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		own := conf.Clone()
		if host, _, err := net.SplitHostPort(addr); err == nil && own.ServerName == "" {
			own.ServerName = host
		}
		c := tls.Client(raw, own)
		shaking, give := context.WithCancelCause(ctx)
		defer give(nil)
		late := time.AfterFunc(silentFor, func() {
			if answersPlain(shaking, network, addr) {
				give(errNoTLS)
			}
		})
		defer late.Stop()
		err = c.HandshakeContext(shaking)
		if err == nil {
			return c, nil
		}
		_ = raw.Close()
		if noTLS(context.Cause(shaking)) || noTLS(err) {
			known.Store(addr, time.Now())
			return nil, errNoTLS
		}
		return nil, err
	}
}

// answersPlain reports whether a server answers a command that is sent without TLS.
func answersPlain(ctx context.Context, network, addr string) bool {
	c, err := (&net.Dialer{}).DialContext(ctx, network, addr)
	if err != nil {
		return false
	}
	defer c.Close()
	defer context.AfterFunc(ctx, func() { _ = c.Close() })()
	answer := make([]byte, 1)
	if _, err := c.Write([]byte("PING\r\n")); err != nil {
		return false
	}
	_, err = c.Read(answer)
	return err == nil && (answer[0] == '+' || answer[0] == '-')
}
