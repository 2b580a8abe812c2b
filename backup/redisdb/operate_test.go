package redisdb_test

import (
	"context"
	"errors"
	"io"
	"maps"
	"strings"
	"testing"

	"example.com/tykupgrade/backup/redisdb"
)

func TestParseCommands(t *testing.T) {
	t.Parallel()
	got, err := redisdb.ParseCommands("psync=sync-4711", "CONFIG=Conf=x")
	want := map[string]string{"PSYNC": "sync-4711", "CONFIG": "Conf=x"}
	if err != nil || !maps.Equal(got, want) {
		t.Errorf("%v, %v", got, err)
	}
	if got, err := redisdb.ParseCommands(); err != nil || len(got) > 0 {
		t.Errorf("%v, %v", got, err)
	}
	for _, bad := range []string{"PSYNC", "=x", "PSYNC=", ""} {
		if _, err := redisdb.ParseCommands("A=b", bad); err == nil || !strings.Contains(err.Error(),
			"want COMMAND=NAME") {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

// A name of a unit is never an option, and the error of systemctl arrives.
func TestSystemd(t *testing.T) {
	t.Parallel()
	var calls []string
	broken := errors.New("no such unit")
	stop, start := redisdb.Systemd("-redis", func(_ context.Context, argv []string, _ io.Reader, _,
		_ io.Writer) error {
		calls = append(calls, strings.Join(argv, " "))
		return broken
	})
	if err := stop(t.Context()); !errors.Is(err, broken) {
		t.Error(err)
	}
	if err := start(t.Context()); !errors.Is(err, broken) {
		t.Error(err)
	}
	if got := strings.Join(calls, "; "); got != "systemctl stop -- -redis; systemctl start -- -redis" {
		t.Error(got)
	}
}
