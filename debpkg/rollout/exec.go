package rollout

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
)

// The exit codes of Exec.StateCommand when it prints nothing.
const (
	ExitUp       = 0  // the server gets new sessions
	ExitDrained  = 10 // it is out and has no session
	ExitDraining = 11 // it is out and has sessions
	ExitDown     = 12 // it is not out, but its checks fail
)

// Exec is a [Balancer] that runs commands, such as a script around a cloud's own client. It
// replaces "{server}" in each argument by the server's name. A command fails if its exit code is
// not 0.
//
// StateCommand prints a [State] as JSON. It may instead print nothing and exit with [ExitUp],
// [ExitDrained], [ExitDraining] or [ExitDown]. For exit codes, the error of Run must have a method
// ExitCode() int.
type Exec struct {
	Run                                      Runner
	DrainCommand, ReadyCommand, StateCommand []string
	KillCommand                              []string // empty: sessions cannot be ended
}

var (
	_ Balancer = Exec{}
	_ Killer   = Exec{}
)

// maxOutput bounds what is kept of a command's output.
const maxOutput = 64 << 10

// capped keeps the first bytes of an output.
type capped struct {
	bytes.Buffer
	over bool
}

func (c *capped) Write(p []byte) (int, error) {
	if room := maxOutput - c.Len(); len(p) > room {
		c.over = true
		_, _ = c.Buffer.Write(p[:room])
		return len(p), nil
	}
	return c.Buffer.Write(p)
}

func (x Exec) run(ctx context.Context, op string, argv []string, server string,
	stdout *capped) error {
	e := &Error{Op: op, Object: server}
	if x.Run == nil || len(argv) == 0 {
		e.Kind, e.Err = ErrInvalid, errors.New("no command is set for it")
		return e
	}
	if server == "" || strings.HasPrefix(server, "-") || strings.ContainsFunc(server, control) {
		e.Kind, e.Err = ErrInvalid, fmt.Errorf("%q cannot be an argument of a command", server)
		return e
	}
	filled := make([]string, len(argv))
	for i, a := range argv {
		filled[i] = strings.ReplaceAll(a, "{server}", server)
	}
	var stderr capped
	err := x.Run(ctx, filled, nil, stdout, &stderr)
	if err == nil && stdout.over {
		err = fmt.Errorf("the command printed more than %d bytes", maxOutput)
	}
	if err == nil {
		return nil
	}
	if said := strings.TrimSpace(stderr.String()); said != "" && !strings.Contains(err.Error(), said) {
		err = fmt.Errorf("%w: %s", err, said)
	}
	e.Err, e.Retry, e.Next = err, !final(err), "check the command "+filled[0]
	return e
}

func control(r rune) bool { return r < ' ' || r == 0x7f }

// Drain runs DrainCommand.
func (x Exec) Drain(ctx context.Context, server string) error {
	return x.run(ctx, "drain", x.DrainCommand, server, &capped{})
}

// Ready runs ReadyCommand.
func (x Exec) Ready(ctx context.Context, server string) error {
	return x.run(ctx, "make ready", x.ReadyCommand, server, &capped{})
}

// Kill runs KillCommand.
func (x Exec) Kill(ctx context.Context, server string) error {
	return x.run(ctx, "end the sessions of", x.KillCommand, server, &capped{})
}

// State runs StateCommand.
func (x Exec) State(ctx context.Context, server string) (State, error) {
	var out capped
	err := x.run(ctx, "ask the state of", x.StateCommand, server, &out)
	text := bytes.TrimSpace(out.Bytes())
	if len(text) == 0 {
		var exit interface{ ExitCode() int }
		code := ExitUp
		if err != nil {
			if !errors.As(err, &exit) {
				return State{}, err
			}
			code = exit.ExitCode()
		}
		switch code {
		case ExitUp:
			return State{Up: true}, nil
		case ExitDrained:
			return State{Drained: true}, nil
		case ExitDraining:
			return State{Drained: true, Sessions: 1}, nil
		case ExitDown:
			return State{}, nil
		}
		return State{}, err
	}
	if err != nil {
		return State{}, err
	}
	var s State
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.DisallowUnknownFields()
	if err = dec.Decode(&s); err == nil && dec.More() {
		err = errors.New("more than one JSON value")
	}
	if err == nil {
		return s, nil
	}
	return State{}, &Error{
		Op: "ask the state of", Object: server, Kind: ErrInvalid, Err: err,
		Next: `let the command print JSON such as {"up":true,"drained":false,"sessions":0,"queue":0}, or nothing`,
	}
}
