package health

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"time"
)

// ClientOptions configures the client of [NewClient]. The zero value is useful.
type ClientOptions struct {
	CA         []byte // PEM certificates to trust instead of the system's
	Cert, Key  []byte // PEM client certificate
	ServerName string // for SNI and the certificate, if it differs from the URL's host
}

// NewClient returns a client for [Probe.Check] and [Policy].Client. It opens a new connection
// for every request, because a kept one may lead to a process that no longer listens. It
// demands TLS 1.2 and uses no HTTP proxy. It fails if a certificate or key is not valid PEM.
func NewClient(o ClientOptions) (*http.Client, error) {
	c := &tls.Config{ServerName: o.ServerName, MinVersion: tls.VersionTLS12}
	if len(o.CA) > 0 {
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(o.CA) {
			return nil, errors.New("read CA: no PEM certificate")
		}
	}
	if len(o.Cert) > 0 || len(o.Key) > 0 {
		cert, err := tls.X509KeyPair(o.Cert, o.Key)
		if err != nil {
			return nil, fmt.Errorf("read client certificate: %w", err)
		}
		c.Certificates = []tls.Certificate{cert}
	}
	return &http.Client{Transport: &http.Transport{
		DialContext:            dial,
		TLSClientConfig:        c,
		DisableKeepAlives:      true,
		MaxResponseHeaderBytes: maxHeader,
	}}, nil
}

var plainClient, _ = NewClient(ClientOptions{})

// lookups bounds how many host names are resolved at a time. Each lookup holds
// a socket or a thread for up to ten seconds when no name server answers.
var lookups = make(chan struct{}, 32)

// dial connects to the first address of a host that accepts, and names DNS as
// the cause when the host name is what fails.
func dial(ctx context.Context, network, address string) (net.Conn, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	l, _ := ctx.Value(lookupKey{}).(*lookup)
	if l != nil && !l.until.IsZero() {
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadlineCause(ctx, l.until, errTryTimeout)
		defer cancel()
	}
	dialer := &net.Dialer{}
	if _, err := netip.ParseAddr(host); err == nil {
		return dialer.DialContext(ctx, network, address)
	}
	addrs, err := resolve(ctx, host, l)
	if err != nil {
		return nil, err
	}
	for i, addr := range addrs {
		try, cancel := ctx, context.CancelFunc(func() {})
		if until, ok := ctx.Deadline(); ok {
			// An address that drops packets leaves time for the next one.
			try, cancel = context.WithTimeout(ctx, time.Until(until)/time.Duration(len(addrs)-i))
		}
		var conn net.Conn
		conn, err = dialer.DialContext(try, network, net.JoinHostPort(addr.Unmap().String(), port))
		cancel()
		if err == nil {
			return conn, nil
		}
	}
	return nil, err
}

func resolve(ctx context.Context, host string, l *lookup) ([]netip.Addr, error) {
	l.wait(host, otherLookups)
	select {
	case lookups <- struct{}{}:
		defer func() { <-lookups }()
	case <-ctx.Done():
	}
	if ctx.Err() != nil { // also when both were ready: a lookup that nobody waits for opens sockets
		return nil, fmt.Errorf("%w: %s: %s: %w", ErrLookup, clean(host), otherLookups,
			context.Cause(ctx))
	}
	l.wait(host, noNameServer)
	addrs, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	switch {
	case ctx.Err() != nil:
		return nil, fmt.Errorf("%w: %s: %s: %w", ErrLookup, clean(host), noNameServer,
			context.Cause(ctx))
	case err != nil:
		return nil, fmt.Errorf("%w: %w", ErrLookup, err)
	case len(addrs) == 0:
		return nil, fmt.Errorf("%w: %s has no address", ErrLookup, clean(host))
	}
	l.done()
	return addrs, nil
}
