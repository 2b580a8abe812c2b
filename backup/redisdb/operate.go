package redisdb

import (
	"context"
	"fmt"
	"strings"

	"example.com/tykupgrade/backup"
	"example.com/tykupgrade/internal/run"
)

// ParseCommands parses the names of renamed commands for Commands of [Source], [Live] and [Server]:
// each pair is COMMAND=NAME, as PSYNC=psync-4711. Case matters in NAME only.
func ParseCommands(pairs ...string) (map[string]string, error) {
	names := map[string]string{}
	for _, pair := range pairs {
		command, name, ok := strings.Cut(pair, "=")
		if !ok || command == "" || name == "" {
			return nil, fmt.Errorf("command %q: want COMMAND=NAME, as PSYNC=psync-4711", pair)
		}
		names[strings.ToUpper(command)] = name
	}
	return names, nil
}

// Systemd returns Stop and Start of a [Server] that is a unit of systemd. They run systemctl with
// r, as root on the server's machine; nil: as this user on this machine. systemctl stop returns
// when the process has ended.
func Systemd(unit string, r backup.Runner) (stop, start func(context.Context) error) {
	if r == nil {
		r = run.Local(run.Options{})
	}
	systemctl := func(verb string) func(context.Context) error {
		return func(ctx context.Context) error {
			return r(ctx, []string{"systemctl", verb, "--", unit}, nil, nil, nil)
		}
	}
	return systemctl("stop"), systemctl("start")
}
