package rollout

import (
	"bufio"
	"context"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"net"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// HAProxy is one HAProxy process, reached through its Runtime API ("stats
// socket … level admin"). Seen with HAProxy 2.6. States set here are lost when
// HAProxy is reloaded without a server state file.
type HAProxy struct {
	Network  string        // "unix" or "tcp"
	Address  string        // of the socket
	Backends []string      // in which the server stands, all under the same name; it is handled in each
	Timeout  time.Duration // of one command; 0: 5 s
}

var (
	_ Balancer = HAProxy{}
	_ Killer   = HAProxy{}
)

// HAProxyError is a command that the Runtime API refused or did not answer.
type HAProxyError struct {
	Address string
	Command string
	Answer  string // HAProxy's own words; empty if it did not answer
	Err     error
}

func (e *HAProxyError) Error() string {
	why := e.Answer
	if e.Err != nil {
		why = e.Err.Error()
	}
	return fmt.Sprintf("haproxy at %s: %s: %s; %s", e.Address, e.Command, why, e.Hint())
}

func (e *HAProxyError) Unwrap() error { return e.Err }

// Hint says what to do next.
func (e *HAProxyError) Hint() string {
	switch {
	case e.Answer == "":
		return "check that HAProxy runs and that its stats socket is there and may be used"
	case strings.Contains(e.Answer, "ermission denied"):
		return `the socket needs "level admin"`
	case strings.Contains(strings.ToLower(e.Answer), "no such"):
		return "check the names of backend and server against haproxy.cfg"
	}
	return "see the Runtime API in HAProxy's management guide"
}

// Retryable is true when there was no answer.
func (e *HAProxyError) Retryable() bool { return e.Answer == "" }

// maxAnswer bounds what is read of an answer.
const maxAnswer = 16 << 20

// ask sends one command and returns the answer.
func (h HAProxy) ask(ctx context.Context, command string) (string, error) {
	fail := func(answer string, err error) (string, error) {
		if ctx.Err() != nil {
			err = errors.Join(ctx.Err(), context.Cause(ctx))
		}
		return "", &HAProxyError{Address: h.Address, Command: command, Answer: answer, Err: err}
	}
	timeout := h.Timeout
	if timeout == 0 {
		timeout = 5 * time.Second
	}
	deadline := time.Now().Add(timeout)
	conn, err := (&net.Dialer{Deadline: deadline}).DialContext(ctx, h.Network, h.Address)
	if err != nil {
		return fail("", err)
	}
	defer func() { _ = conn.Close() }()
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	if err := conn.SetDeadline(deadline); err != nil {
		return fail("", err)
	}
	if _, err := io.WriteString(conn, command+"\n"); err != nil {
		return fail("", err)
	}
	data, err := io.ReadAll(io.LimitReader(conn, maxAnswer+1))
	if err == nil && len(data) > maxAnswer {
		err = fmt.Errorf("answer is longer than %d bytes", maxAnswer)
	}
	// Every answer ends with an empty line, also that of a silent success.
	if err == nil && len(data) == 0 {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return fail("", err)
	}
	return strings.TrimSpace(string(data)), nil
}

// do sends a command that answers nothing on success: errors are text.
func (h HAProxy) do(ctx context.Context, command string) error {
	answer, err := h.ask(ctx, command)
	if err == nil && answer != "" {
		err = &HAProxyError{Address: h.Address, Command: command, Answer: answer}
	}
	return err
}

// haproxyName is what HAProxy allows in names of proxies and servers; it keeps
// a name from carrying a second command.
var haproxyName = regexp.MustCompile(`^[A-Za-z0-9_.:-]+$`)

func (h HAProxy) check(server string) error {
	if len(h.Backends) == 0 {
		return fmt.Errorf("haproxy at %s: no backend named", h.Address)
	}
	for _, name := range append([]string{server}, h.Backends...) {
		if !haproxyName.MatchString(name) {
			return fmt.Errorf("haproxy at %s: %q is no name of a backend or server", h.Address, name)
		}
	}
	return nil
}

// Drain sets the server's state to drain in every backend and reads it back.
func (h HAProxy) Drain(ctx context.Context, server string) error {
	return h.set(ctx, server, "drain", func(s State) bool { return s.Drained })
}

// Ready sets the server's state to ready in every backend and reads it back.
func (h HAProxy) Ready(ctx context.Context, server string) error {
	return h.set(ctx, server, "ready", func(s State) bool { return !s.Drained })
}

func (h HAProxy) set(ctx context.Context, server, state string, good func(State) bool) error {
	if err := h.check(server); err != nil {
		return err
	}
	for _, backend := range h.Backends {
		command := fmt.Sprintf("set server %s/%s state %s", backend, server, state)
		if err := h.do(ctx, command); err != nil {
			return err
		}
		s, err := h.stat(ctx, backend, server)
		if err != nil {
			return err
		}
		if !good(s) {
			return &HAProxyError{Address: h.Address, Command: command, Answer: "accepted, but the server's state is " + s.Detail}
		}
	}
	return nil
}

// Kill ends all sessions of the server.
func (h HAProxy) Kill(ctx context.Context, server string) error {
	if err := h.check(server); err != nil {
		return err
	}
	for _, backend := range h.Backends {
		if err := h.do(ctx, fmt.Sprintf("shutdown sessions server %s/%s", backend, server)); err != nil {
			return err
		}
	}
	return nil
}

// State adds up the backends.
func (h HAProxy) State(ctx context.Context, server string) (State, error) {
	if err := h.check(server); err != nil {
		return State{}, err
	}
	sum := State{Up: true, Drained: true}
	var details []string
	for _, backend := range h.Backends {
		s, err := h.stat(ctx, backend, server)
		if err != nil {
			return State{}, err
		}
		sum.Up, sum.Drained = sum.Up && s.Up, sum.Drained && s.Drained
		sum.Sessions, sum.Queue = sum.Sessions+s.Sessions, sum.Queue+s.Queue
		details = append(details, backend+"/"+server+" "+s.Detail)
	}
	sum.Detail = strings.Join(details, ", ")
	return sum, nil
}

func (h HAProxy) stat(ctx context.Context, backend, server string) (State, error) {
	command := fmt.Sprintf("show stat %s 4 -1", backend) // 4: servers, -1: all of them
	answer, err := h.ask(ctx, command)
	if err != nil {
		return State{}, err
	}
	if !strings.HasPrefix(answer, "# ") {
		return State{}, &HAProxyError{Address: h.Address, Command: command, Answer: answer}
	}
	s, err := parseStat(strings.NewReader(answer), backend, server)
	if err != nil {
		return State{}, &HAProxyError{Address: h.Address, Command: command, Answer: err.Error()}
	}
	// A drained server whose checks fail reads DOWN, as in every upgrade, so
	// the administrative state is asked by itself.
	command = "show servers state " + backend
	if answer, err = h.ask(ctx, command); err != nil {
		return State{}, err
	}
	if s.Drained, err = parseAdmin(answer, backend, server); err != nil {
		return State{}, &HAProxyError{Address: h.Address, Command: command, Answer: err.Error()}
	}
	if s.Drained {
		s.Up = false
		if !strings.HasPrefix(s.Detail, "DRAIN") && !strings.HasPrefix(s.Detail, "MAINT") {
			s.Detail += " and out"
		}
	}
	return s, nil
}

// parseAdmin says whether "show servers state" has the server in maintenance
// or drained, of whatever cause: each is a bit of srv_admin_state.
func parseAdmin(answer, backend, server string) (bool, error) {
	column := map[string]int{}
	for line := range strings.Lines(answer) {
		f := strings.Fields(line)
		if len(f) > 1 && f[0] == "#" {
			for i, name := range f[1:] {
				column[name] = i
			}
			continue
		}
		be, srv, admin := column["be_name"], column["srv_name"], column["srv_admin_state"]
		if admin == 0 || len(f) <= max(be, srv, admin) || f[be] != backend || f[srv] != server {
			continue
		}
		bits, err := strconv.ParseUint(f[admin], 10, 32)
		if err != nil {
			return false, fmt.Errorf("administrative state of %s/%s: %w", backend, server, err)
		}
		return bits != 0, nil
	}
	return false, fmt.Errorf("no such server: %s/%s", backend, server)
}

// parseStat finds a server in the CSV of "show stat". Columns are found by
// their heading, as their number grows with HAProxy's versions.
func parseStat(r io.Reader, backend, server string) (State, error) {
	br := bufio.NewReader(r)
	if lead, err := br.Peek(2); err != nil || string(lead) != "# " {
		return State{}, errors.New("the answer has no heading")
	}
	_, _ = br.Discard(2)
	c := csv.NewReader(br)
	c.FieldsPerRecord = -1
	c.ReuseRecord = true
	heading, err := c.Read()
	if err != nil {
		return State{}, err
	}
	column := map[string]int{}
	for i, name := range heading {
		column[name] = i
	}
	for _, need := range []string{"pxname", "svname", "status", "scur", "qcur"} {
		if _, ok := column[need]; !ok {
			return State{}, fmt.Errorf("the answer has no column %s", need)
		}
	}
	for {
		row, err := c.Read()
		if errors.Is(err, io.EOF) {
			return State{}, fmt.Errorf("no such server: %s/%s", backend, server)
		}
		if err != nil {
			return State{}, err
		}
		field := func(name string) string {
			if i := column[name]; i < len(row) {
				return row[i]
			}
			return ""
		}
		if field("pxname") != backend || field("svname") != server {
			continue
		}
		s := State{Detail: field("status")}
		if s.Sessions, err = strconv.Atoi(field("scur")); err == nil {
			s.Queue, err = strconv.Atoi(field("qcur"))
		}
		if err != nil {
			return State{}, fmt.Errorf("sessions and queue of %s/%s: %w", backend, server, err)
		}
		// "UP 1/3" is a server on its way down, "DOWN 1/2" one on its way up;
		// "no check" is all that can be known without a health check.
		s.Up = s.Detail == "UP" || s.Detail == "no check"
		return s, nil
	}
}
