package redisdb_test

import (
	"bytes"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"example.com/tykupgrade/backup"
	"example.com/tykupgrade/backup/redisdb"
	redislab "example.com/tykupgrade/internal/lab/redis"
)

// A user that lacks one permission loses nothing: Plan refuses, a dry run as well.
func TestLiveMissingPermission(t *testing.T) {
	t.Parallel()
	set := filledSet(t)
	for name, c := range map[string]struct {
		user []any
		want string
	}{
		"restore":     {[]any{"-restore"}, "RESTORE"},
		"flushall":    {[]any{"-flushall"}, "FLUSHALL"},
		"unlink":      {[]any{"-unlink"}, "UNLINK"},
		"dump":        {[]any{"-dump"}, "DUMP"},
		"functions":   {[]any{"-function"}, "FUNCTION"},
		"psync":       {[]any{"-psync"}, "psync"},
		"multi":       {[]any{"-multi"}, "MULTI"},
		"some keys":   {[]any{"resetkeys", "~big*", "~mine"}, "RESTORE"},
		"select":      {[]any{"-select"}, "select"},
		"no database": {[]any{"-info", "-restore"}, "RESTORE"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			target := redislab.Start(t)
			target.Do("SET", "mine", "1")
			target.Do(append([]any{"ACL", "SETUSER", "limited", "on", ">secret", "~*", "&*", "+@all"},
				c.user...)...)
			r := &redisdb.Live{Client: target.User("limited", "secret"), Replace: true,
				StateDir: t.TempDir()}
			for _, dry := range []bool{true, false} {
				_, err := set.Restore(t.Context(), backup.RestoreOptions{DryRun: dry}, r)
				if !errors.Is(err, backup.ErrNotAllowed) || !strings.Contains(err.Error(), c.want) ||
					strings.Contains(err.Error(), "secret") {
					t.Errorf("dry run %v: %v", dry, err)
				}
			}
			if target.Do("GET", "mine") != "1" || target.Do("DBSIZE") != int64(1) {
				t.Error("the previous data is gone")
			}
			if left, _ := os.ReadDir(r.StateDir); len(left) > 1 { // the lock
				t.Errorf("left %v", left)
			}
		})
	}
}

// A server that takes no writes is refused by Plan. If it begins to refuse them later,
// nothing has been removed and nothing is left to put back.
func TestLiveNoWrites(t *testing.T) {
	t.Parallel()
	set := filledSet(t)
	target := redislab.Start(t)
	target.Do("SET", "mine", "1")
	replicas := func(n int) { target.Do("CONFIG", "SET", "min-replicas-to-write", n) }
	replicas(1)
	r := &redisdb.Live{Client: target.Client(), Replace: true, StateDir: t.TempDir()}
	for _, dry := range []bool{true, false} {
		_, err := set.Restore(t.Context(), backup.RestoreOptions{DryRun: dry}, r)
		if !errors.Is(err, redisdb.ErrCannotHold) || !strings.Contains(err.Error(), "NOREPLICAS") {
			t.Errorf("dry run %v: %v", dry, err)
		}
	}
	replicas(0)
	r.Client = dialer(t, target, func(raw net.Conn) net.Conn {
		return before{raw, func(p []byte) {
			journal, _ := os.ReadFile(filepath.Join(r.StateDir, "redis.restore.json"))
			if bytes.Contains(p, []byte("FLUSHALL")) && bytes.Contains(journal, []byte("emptying")) {
				replicas(1)
			}
		}}
	})
	_, err := set.Restore(t.Context(), backup.RestoreOptions{}, r)
	if err == nil || !strings.Contains(err.Error(), "nothing was removed") ||
		strings.Contains(err.Error(), "rollback failed") {
		t.Errorf("%v", err)
	}
	if target.Do("GET", "mine") != "1" || target.Do("DBSIZE") != int64(1) {
		t.Error("the previous data is gone")
	}
	if _, err := os.Stat(filepath.Join(r.StateDir, "redis.restore.json")); err == nil {
		t.Error("a journal is left")
	}
}

// before lets something happen before each write.
type before struct {
	net.Conn
	f func([]byte)
}

func (c before) Write(p []byte) (int, error) {
	c.f(p)
	return c.Conn.Write(p)
}

// Where PSYNC is forbidden, the rescue is read as the set was.
func TestLiveRescueMethod(t *testing.T) {
	t.Parallel()
	s := redislab.Start(t)
	s.Fill()
	set, err := backup.Take(t.Context(), t.TempDir(), backup.Options{},
		&redisdb.Source{Client: s.Client(), Method: redisdb.DUMP})
	if err != nil {
		t.Fatal(err)
	}
	target := redislab.Start(t)
	target.Do("SET", "mine", "1")
	target.Do("ACL", "SETUSER", "managed", "on", ">p", "~*", "+@all", "-psync", "-sync", "-config")
	r := &redisdb.Live{Client: target.User("managed", "p"), Replace: true, StateDir: t.TempDir()}
	if _, err := set.Restore(t.Context(), backup.RestoreOptions{}, r); err != nil {
		t.Fatal(err)
	}
	kept, err := backup.List(r.StateDir)
	if err != nil || len(kept) != 1 || kept[0].Components[0].Method != "dump" ||
		kept[0].Components[0].Items != 1 {
		t.Errorf("%+v %v", kept, err)
	}
}

// Renamed commands are found under their names, and said to be missing without.
func TestRenamedCommands(t *testing.T) {
	t.Parallel()
	args := []string{}
	names := map[string]string{}
	for _, c := range []string{"PSYNC", "CONFIG", "BGSAVE", "FLUSHALL", "RESTORE", "DUMP", "INFO",
		"UNLINK"} {
		names[c] = "x-" + strings.ToLower(c)
		args = append(args, "--rename-command", c, names[c])
	}
	s := redislab.Start(t, args...)
	if err := redislab.Fill(t.Context(), s.Client()); err != nil {
		t.Fatal(err)
	}
	if err := refused(t, &redisdb.Source{Client: s.Client()}); !errors.Is(err, backup.ErrNotAllowed) ||
		!strings.Contains(err.Error(), "Commands") {
		t.Errorf("%v", err)
	}
	for _, m := range []redisdb.Method{redisdb.PSYNC, redisdb.BGSAVE, redisdb.DUMP} {
		set, err := backup.Take(t.Context(), t.TempDir(), backup.Options{},
			&redisdb.Source{Client: s.Client(), Method: m, Commands: names})
		if err != nil {
			t.Errorf("%s: %v", m, err)
			continue
		}
		r := &redisdb.Live{Client: s.Client(), Replace: true, StateDir: t.TempDir(), Commands: names}
		if _, err := set.Restore(t.Context(), backup.RestoreOptions{}, r); err != nil {
			t.Errorf("%s: %v", m, err)
		}
		o := offline(s)
		o.Commands = names
		if _, err := set.Restore(t.Context(), backup.RestoreOptions{}, &redisdb.Offline{
			Servers: []redisdb.Server{o}, Replace: true, StateDir: t.TempDir()}); err != nil {
			t.Errorf("%s, offline: %v", m, err)
		}
	}
}
