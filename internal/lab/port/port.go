// Package port hands out TCP ports to servers that tests and rehearsals start as processes.
package port

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"
	"sync"
)

// Linux gives outgoing connections ports from 32768 on (ip_local_port_range). A port below cannot
// be taken by one between the choice and the server's start, nor while a server restarts.
const first, last = 12000, 32000

var (
	mu     sync.Mutex
	claims []net.Listener // until the process ends
)

// Addr is [Free] with the address before the port: 127.0.0.1:PORT.
func Addr() (string, error) {
	n, err := Free()
	return net.JoinHostPort("127.0.0.1", n), err
}

// Listen is for a server that a test closes: no other process of the tests gets its port
// afterwards, so a connection is refused.
func Listen() (net.Listener, error) {
	addr, err := Addr()
	if err != nil {
		return nil, err
	}
	return net.Listen("tcp", addr)
}

// Free returns a port of 127.0.0.1 on which nothing listens. No other call returns it while this
// process runs, in other processes neither: each holds an abstract Unix socket as its claim,
// which the kernel removes also after kill -9.
func Free() (string, error) {
	mu.Lock()
	defer mu.Unlock()
	var err error
	for range 1000 {
		n := strconv.Itoa(first + rand.IntN(last-first))
		claim, e := net.Listen("unix", "@tykupgrade-port-"+n)
		if e != nil {
			err = errors.Join(err, e)
			continue
		}
		l, e := net.Listen("tcp", net.JoinHostPort("127.0.0.1", n))
		if e != nil {
			err = errors.Join(err, e, claim.Close())
			continue
		}
		claims = append(claims, claim)
		return n, l.Close()
	}
	return "", fmt.Errorf("choose a loopback port from %d to %d: %w", first, last, err)
}
