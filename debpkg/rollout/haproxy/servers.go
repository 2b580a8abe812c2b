package haproxy

import (
	"context"
	"strings"
)

// Server is a server of a backend as HAProxy knows it.
type Server struct {
	Backend, Name string
	Address       string // the IP address; empty: none, or a Unix socket
}

// Servers lists the servers of all backends. It uses only the socket of b, not its Backends.
func (b Balancer) Servers(ctx context.Context) ([]Server, error) {
	const command = "show servers state"
	answer, err := b.ask(ctx, command)
	if err != nil {
		return nil, err
	}
	all, ok := parseServers(answer)
	if !ok {
		return nil, refusal(b.Address, command, answer)
	}
	return all, nil
}

// parseServers reads the answer to "show servers state". Columns are found by their heading.
func parseServers(answer string) (all []Server, ok bool) {
	column := map[string]int{}
	for line := range strings.Lines(answer) {
		f := strings.Fields(line)
		if len(f) > 1 && f[0] == "#" {
			for i, name := range f[1:] {
				column[name] = i
			}
			ok = true
			continue
		}
		field := func(name string) string {
			if i, there := column[name]; there && i < len(f) && f[i] != "-" {
				return f[i]
			}
			return ""
		}
		if s := (Server{field("be_name"), field("srv_name"), field("srv_addr")}); s.Backend != "" &&
			s.Name != "" {
			all = append(all, s)
		}
	}
	return all, ok
}
