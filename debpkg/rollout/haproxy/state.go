package haproxy

import (
	"bufio"
	"context"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"example.com/tykupgrade/debpkg/rollout"
)

// Bits of srv_admin_state (HAProxy 2.6). "Configured as disabled" (4) and "its name was changed"
// (64) stay set on servers that serve. A changed address sets no bit, and in 2.6 a
// changed name may set none either.
const (
	adminForcedMaint    = 1
	adminInheritedMaint = 2
	adminForcedDrain    = 8
	adminInheritedDrain = 16
	adminResolution     = 32 // its name does not resolve

	adminMaint = adminForcedMaint | adminInheritedMaint | adminResolution
	adminOut   = adminMaint | adminForcedDrain | adminInheritedDrain
)

// Bits of srv_agent_state.
const (
	agentConfigured = 2
	agentEnabled    = 4
)

// serverState is what HAProxy says of a server in one backend.
type serverState struct {
	state           rollout.State
	admin           uint64
	agentConfigured bool
	agent           bool // its agent check is configured and enabled
}

func (b Balancer) server(ctx context.Context, backend, server string) (serverState, error) {
	command := statCommand(backend)
	answer, err := b.ask(ctx, command)
	if err != nil {
		return serverState{}, err
	}
	s, err := parseStat(strings.NewReader(answer), backend, server)
	if err != nil {
		return serverState{}, b.strange(command, answer, err)
	}
	// A drained server whose checks fail reads DOWN, as in every upgrade. The administrative
	// state is therefore read separately.
	command = "show servers state " + backend
	if answer, err = b.ask(ctx, command); err != nil {
		return serverState{}, err
	}
	all, err := parseServersState(answer, backend, server)
	if err != nil {
		return serverState{}, b.strange(command, answer, err)
	}
	s.Pool, s.Detail = backend, backend+"/"+server+" "+s.Detail
	all.state = s
	if all.admin&adminOut != 0 {
		all.state.Drained = true
		all.state.Away = all.admin&adminMaint != 0 && !all.agent
		if !strings.Contains(s.Detail, " DRAIN") && !strings.Contains(s.Detail, " MAINT") {
			all.state.Detail += " and out"
		}
	}
	return all, nil
}

func statCommand(backend string) string {
	return "show stat " + backend + " 4 -1" // 4: servers, -1: all of them
}

// strange returns the error for an answer that cannot be used: HAProxy's own error if it has one.
func (b Balancer) strange(command, answer string, err error) error {
	if strings.HasPrefix(answer, "# ") || strings.HasPrefix(answer, "1\n") {
		return refusal(b.Address, command, err.Error())
	}
	return refusal(b.Address, command, answer)
}

// parseServersState finds a server in the answer to "show servers state".
func parseServersState(answer, backend, server string) (serverState, error) {
	column := map[string]int{}
	for line := range strings.Lines(answer) {
		f := strings.Fields(line)
		if len(f) > 1 && f[0] == "#" {
			for i, name := range f[1:] {
				column[name] = i
			}
			continue
		}
		field := func(name string) string {
			if i, ok := column[name]; ok && i < len(f) {
				return f[i]
			}
			return ""
		}
		if field("be_name") != backend || field("srv_name") != server {
			continue
		}
		admin, err := strconv.ParseUint(field("srv_admin_state"), 10, 32)
		if err != nil {
			return serverState{}, fmt.Errorf("administrative state of %s/%s: %w", backend, server, err)
		}
		agent, _ := strconv.ParseUint(field("srv_agent_state"), 10, 32) // releases before 1.8 lack it
		s := serverState{admin: admin, agentConfigured: agent&agentConfigured != 0}
		s.agent = s.agentConfigured && agent&agentEnabled != 0
		return s, nil
	}
	return serverState{}, fmt.Errorf("no such server: %s/%s", backend, server)
}

// parseStat finds a server in the CSV of "show stat". Columns are found by their heading, as
// their number grows with HAProxy's versions.
func parseStat(r io.Reader, backend, server string) (rollout.State, error) {
	br := bufio.NewReader(r)
	if lead, err := br.Peek(2); err != nil || string(lead) != "# " {
		return rollout.State{}, errors.New("the answer has no heading")
	}
	_, _ = br.Discard(2)
	c := csv.NewReader(br)
	c.FieldsPerRecord = -1
	c.ReuseRecord = true
	heading, err := c.Read()
	if err != nil {
		return rollout.State{}, err
	}
	column := map[string]int{}
	for i, name := range heading {
		column[name] = i
	}
	for _, need := range []string{"pxname", "svname", "status", "scur", "qcur"} {
		if _, ok := column[need]; !ok {
			return rollout.State{}, fmt.Errorf("the answer has no column %s", need)
		}
	}
	for {
		row, err := c.Read()
		if errors.Is(err, io.EOF) {
			return rollout.State{}, fmt.Errorf("no such server: %s/%s", backend, server)
		}
		if err != nil {
			return rollout.State{}, err
		}
		field := func(name string) string {
			if i, ok := column[name]; ok && i < len(row) {
				return row[i]
			}
			return ""
		}
		if field("pxname") != backend || field("svname") != server {
			continue
		}
		s := statusOf(field("status"))
		if s.Sessions, err = strconv.Atoi(field("scur")); err == nil {
			s.Queue, err = strconv.Atoi(field("qcur"))
		}
		if err != nil {
			return rollout.State{}, fmt.Errorf("sessions and queue of %s/%s: %w", backend, server, err)
		}
		s.Total, _ = strconv.ParseInt(field("stot"), 10, 64)
		return s, nil
	}
}

// statusOf reads a status such as "UP", "UP 1/3", "DOWN 1/2" or "UP (via api/h1)". A server without
// health checks has "no check". "UP 1/3" serves until its checks have failed often enough. NOLB
// takes only persistent clients.
func statusOf(status string) rollout.State {
	s := rollout.State{Detail: status}
	first, rest, _ := strings.Cut(status, " ")
	s.Up = first == "UP" || status == "no check"
	s.Changing = (first == "UP" || first == "DOWN") && strings.Contains(rest, "/") &&
		!strings.HasPrefix(rest, "(")
	return s
}
