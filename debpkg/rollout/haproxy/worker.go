package haproxy

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"example.com/tykupgrade/debpkg/rollout"
)

// addOldSessions adds the sessions of processes from before a reload.
func (b Balancer) addOldSessions(ctx context.Context, server string, states []rollout.State) error {
	if b.Master == "" {
		return b.addOldProcesses(ctx, states)
	}
	old, err := b.oldWorkers(ctx)
	if err != nil {
		return err
	}
	for _, pid := range old {
		for i, backend := range b.Backends {
			command := "@!" + pid + " " + statCommand(backend)
			answer, err := b.askAt(ctx, "unix", b.Master, command)
			if err != nil {
				return err
			}
			s, err := parseStat(strings.NewReader(answer), backend, server)
			if err != nil {
				// The process has ended meanwhile, or its configuration lacked the server.
				continue
			}
			states[i].Sessions += s.Sessions
			states[i].Queue += s.Queue
			if n := s.Sessions + s.Queue; n > 0 {
				states[i].Detail += fmt.Sprintf(" and %d in process %s from before a reload", n, pid)
			}
		}
	}
	return nil
}

// oldWorkers asks the master for the processes that finish what they began before a reload.
func (b Balancer) oldWorkers(ctx context.Context) ([]string, error) {
	if b.Master == "" {
		return nil, nil
	}
	const command = "show proc"
	answer, err := b.askAt(ctx, "unix", b.Master, command)
	if err != nil {
		return nil, err
	}
	if !strings.Contains(answer, "master") {
		return nil, refusal(b.Master, command, answer)
	}
	return parseProc(answer), nil
}

// parseProc lists the workers below the heading "# old workers".
func parseProc(answer string) []string {
	var pids []string
	old := false
	for line := range strings.Lines(answer) {
		f := strings.Fields(line)
		if len(f) > 0 && strings.HasPrefix(f[0], "#") {
			old = strings.Contains(line, "old workers")
			continue
		}
		if !old || len(f) < 2 || f[1] != "worker" {
			continue
		}
		if _, err := strconv.Atoi(f[0]); err == nil {
			pids = append(pids, f[0])
		}
	}
	return pids
}

// addOldProcesses looks on this machine for siblings of the process that answers. Their numbers of
// sessions are unknown, so each sibling counts as one session.
func (b Balancer) addOldProcesses(ctx context.Context, states []rollout.State) error {
	if b.Network != "unix" || len(states) == 0 {
		return nil
	}
	answer, err := b.ask(ctx, "show info")
	if err != nil {
		return err
	}
	for line := range strings.Lines(answer) {
		text, ok := strings.CutPrefix(line, "Pid:")
		pid, err := strconv.Atoi(strings.TrimSpace(text))
		if !ok || err != nil {
			continue
		}
		for _, old := range siblings(pid) {
			states[0].Sessions++
			states[0].Detail += fmt.Sprintf(" and process %d from before a reload may have some: "+
				"wait for its end, or set Master", old)
		}
	}
	return nil
}

// siblings returns the other haproxy processes of the same haproxy parent.
func siblings(pid int) []int {
	comm, parent, ok := procStat(pid)
	if !ok || comm != "haproxy" {
		return nil // another machine's or another name space's
	}
	if comm, _, ok := procStat(parent); !ok || comm != "haproxy" {
		return nil
	}
	files, _ := filepath.Glob("/proc/[0-9]*/stat")
	var others []int
	for _, f := range files {
		other, err := strconv.Atoi(filepath.Base(filepath.Dir(f)))
		if err != nil || other == pid {
			continue
		}
		if comm, p, ok := procStat(other); ok && p == parent && comm == "haproxy" {
			others = append(others, other)
		}
	}
	return others
}

// procStat reads name and parent of a process that runs; a zombie does not.
func procStat(pid int) (comm string, parent int, ok bool) {
	data, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return "", 0, false
	}
	head, rest, found := cutLast(string(data), ") ")
	f := strings.Fields(rest)
	_, comm, opened := strings.Cut(head, "(")
	if !found || !opened || len(f) < 2 || f[0] == "Z" {
		return "", 0, false
	}
	parent, err = strconv.Atoi(f[1])
	return comm, parent, err == nil
}

func cutLast(s, sep string) (before, after string, found bool) {
	i := strings.LastIndex(s, sep)
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+len(sep):], true
}
