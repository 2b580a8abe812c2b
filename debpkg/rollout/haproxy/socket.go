package haproxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"time"
)

// maxAnswer bounds what is read of an answer.
const maxAnswer = 16 << 20

// ask sends one command to the process's socket and returns the answer.
func (b Balancer) ask(ctx context.Context, command string) (string, error) {
	return b.askAt(ctx, b.Network, b.Address, command)
}

func (b Balancer) askAt(ctx context.Context, network, address, command string) (string, error) {
	answer, err := b.exchange(ctx, network, address, command)
	if err == nil {
		return answer, nil
	}
	if ctx.Err() != nil {
		err = errors.Join(ctx.Err(), context.Cause(ctx))
	}
	return "", &Error{
		Op: command, Object: address, Kind: ErrUnreachable, Err: err, Retry: true,
		Next: "check that HAProxy runs and that this user may use its stats socket",
	}
}

func (b Balancer) exchange(ctx context.Context, network, address, command string) (string, error) {
	timeout := b.Timeout
	if timeout == 0 {
		timeout = 5 * time.Second
	}
	deadline := time.Now().Add(timeout)
	conn, err := (&net.Dialer{Deadline: deadline}).DialContext(ctx, network, address)
	if err != nil {
		return "", err
	}
	defer func() { _ = conn.Close() }()
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	if err := conn.SetDeadline(deadline); err != nil {
		return "", err
	}
	if _, err := io.WriteString(conn, command+"\n"); err != nil {
		return "", err
	}
	// The master's socket waits for more commands until it sees the end of the input (2.6).
	if c, ok := conn.(*net.UnixConn); ok && address == b.Master {
		if err := c.CloseWrite(); err != nil {
			return "", err
		}
	}
	data, err := io.ReadAll(io.LimitReader(conn, maxAnswer+1))
	if err == nil && len(data) > maxAnswer {
		err = fmt.Errorf("the answer is longer than %d bytes", maxAnswer)
	}
	// Every answer ends with an empty line, also that of a silent success.
	if err == nil && len(data) == 0 {
		err = io.ErrUnexpectedEOF
	}
	return strings.TrimSpace(string(data)), err
}

// do sends a command whose answer is empty on success. Any text is an error.
func (b Balancer) do(ctx context.Context, command string) error {
	answer, err := b.ask(ctx, command)
	if err == nil && answer != "" {
		return refusal(b.Address, command, answer)
	}
	return err
}
