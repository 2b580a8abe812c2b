package redisdb

import (
	"context"
	"fmt"
	"strings"

	"example.com/tykupgrade/backup"
	"example.com/tykupgrade/internal/run"
)

// ParseCommands parses the names of renamed commands for Commands of [Source], [Live] and [Server].
// Each pair is COMMAND=NAME, such as PSYNC=psync-4711. Case matters only in NAME.
func ParseCommands(pairs ...string) (map[string]string, error) {
	names := map[string]string{}
	for _, pair := range pairs {
		command, name, ok := strings.Cut(pair, "=")
		if !ok || command == "" || name == "" {
			return nil, fmt.Errorf("command %q: want COMMAND=NAME, such as PSYNC=psync-4711", pair)
		}
		names[strings.ToUpper(command)] = name
	}
	return names, nil
}

// Systemd returns Stop and Start for a [Server] that is a systemd unit. They run systemctl with r,
// which must run as root on the server's machine. If r is nil, they run it as this user on this
// machine. systemctl stop returns once the process has ended.
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
