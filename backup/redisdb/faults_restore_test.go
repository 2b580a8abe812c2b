package redisdb_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"example.com/tykupgrade/backup"
	"example.com/tykupgrade/backup/redisdb"
	"example.com/tykupgrade/internal/lab"
	redislab "example.com/tykupgrade/internal/lab/redis"
)

// dialer is a client whose connections wrap changes.
func dialer(t *testing.T, s *redislab.Server, wrap func(net.Conn) net.Conn) *redis.Client {
	t.Helper()
	c := redis.NewClient(&redis.Options{Addr: s.Addr, MaxRetries: -1, Dialer: func(ctx context.Context,
		network, _ string) (net.Conn, error) {
		var d net.Dialer
		raw, err := d.DialContext(ctx, network, s.Addr)
		if err != nil {
			return nil, err
		}
		return wrap(raw), nil
	}})
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// lossy loses replies: after so many bytes of them the server still answers, and
// nobody hears it; then the connection breaks.
type lossy struct {
	net.Conn
	sent   int64
	heard  int64
	cuts   *atomic.Int64 // how often that happens still
	broken func()
}

func (c *lossy) Write(p []byte) (int, error) {
	c.sent += int64(len(p))
	return c.Conn.Write(p)
}

func (c *lossy) Read(p []byte) (int, error) {
	const hear, lose = 7003, 4000
	if c.sent < 100<<10 { // it writes no keys
		return c.Conn.Read(p)
	}
	if c.heard >= hear {
		if c.cuts.Add(-1) < 0 {
			return c.Conn.Read(p)
		}
		_, err := io.CopyN(io.Discard, c.Conn, lose) // the server has carried these out
		if c.broken != nil {
			c.broken()
		}
		return 0, errors.Join(io.ErrUnexpectedEOF, err, c.Conn.Close())
	}
	n, err := c.Conn.Read(p[:min(len(p), int(hear-c.heard))])
	c.heard += int64(n)
	return n, err
}

// A connection that breaks in the middle of RESTORE: what is sent again meets its own
// keys, and nobody is told that somebody else wrote.
func TestLiveCut(t *testing.T) {
	t.Parallel()
	source := redislab.Start(t)
	source.Fill()
	source.Do("DEBUG", "POPULATE", 9000, "filler", 100)
	set := takeRedis(t, source.Client())
	target := redislab.Start(t)
	var cuts atomic.Int64
	cuts.Store(2)
	c := dialer(t, target, func(raw net.Conn) net.Conn { return &lossy{Conn: raw, cuts: &cuts} })
	if _, err := set.Restore(t.Context(), backup.RestoreOptions{}, &redisdb.Live{Client: c,
		StateDir: t.TempDir()}); err != nil {
		t.Fatal(err)
	}
	if left := cuts.Load(); left > 0 {
		t.Errorf("%d connections less were cut", left)
	}

	// Somebody who does write is told of, and what we wrote goes.
	target = redislab.Start(t)
	cuts.Store(1)
	c = dialer(t, target, func(raw net.Conn) net.Conn {
		return &lossy{Conn: raw, cuts: &cuts, broken: func() {
			other := redis.NewClient(&redis.Options{Addr: target.Addr, DB: 3})
			defer other.Close()
			if err := other.Set(t.Context(), "in database 3", "mine", 0).Err(); err != nil {
				t.Error(err)
			}
		}}
	})
	_, err := set.Restore(t.Context(), backup.RestoreOptions{}, &redisdb.Live{Client: c,
		StateDir: t.TempDir()})
	if !errors.Is(err, backup.ErrNotEmpty) || !strings.Contains(err.Error(), "somebody wrote") {
		t.Errorf("%v", err)
	}
	info, _ := target.Do("INFO", "keyspace").(string)
	if strings.Contains(info, "db0") || !strings.Contains(info, "db3:keys=1") {
		t.Errorf("left: %s", info)
	}
}

// answers changes what a server says to one command of the client library.
type answers struct {
	name string
	say  func(cmd *redis.Cmd)
}

func (a answers) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		err := next(ctx, cmd)
		words := strings.Trim(strings.ToLower(fmt.Sprint(cmd.Args())), "[]")
		if c, ok := cmd.(*redis.Cmd); ok && err == nil && words == a.name {
			a.say(c)
		}
		return err
	}
}

func (answers) DialHook(next redis.DialHook) redis.DialHook { return next }

func (answers) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}

// Keys that expire during the comparison do not count, by the server's clock.
func TestProveNearExpiry(t *testing.T) {
	t.Parallel()
	s := redislab.Start(t)
	s.Do("SET", "stays", "1")
	take := func(seconds int) *backup.Stored {
		s.Do("SET", "goes", "1", "EX", seconds)
		st := stored(t, takeRedis(t, s.Client()))
		s.Do("DEL", "goes") // as if it had expired
		return st
	}
	// The server's clock is an hour ahead of this machine's: there the key has expired.
	ahead := s.Client()
	ahead.AddHook(answers{"time", func(c *redis.Cmd) {
		c.SetVal([]any{fmt.Sprint(time.Now().Add(time.Hour).Unix()), "0"})
	}})
	for _, sample := range []int{0, 10} {
		soon, hour := take(10*60), take(60*60)
		src := &redisdb.Source{Client: s.Client(), Sample: sample}
		if err := src.Prove(t.Context(), soon); err != nil {
			t.Errorf("sample %d: a key that may have expired is missed: %v", sample, err)
		}
		if err := src.Prove(t.Context(), hour); !errors.Is(err, backup.ErrDiffers) {
			t.Errorf("sample %d: a key that is not there: %v", sample, err)
		}
		src.Client = ahead
		if err := src.Prove(t.Context(), hour); err != nil {
			t.Errorf("sample %d: a key that has expired by the server's clock is missed: %v", sample, err)
		}
	}
}

// renumbered says that a server's snapshots have a version that nobody knows.
type renumbered struct{ net.Conn }

func (c renumbered) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if i := bytes.Index(p[:n], []byte("REDIS0010")); i >= 0 {
		copy(p[i:], "REDIS0099")
	}
	return n, err
}

// What the target holds must be readable before it goes.
func TestRescueUnreadable(t *testing.T) {
	t.Parallel()
	set := filledSet(t)
	target := redislab.Start(t, "--rdbchecksum", "no")
	target.Do("SET", "mine", "1")
	untouched := func(dir string) {
		t.Helper()
		if target.Do("GET", "mine") != "1" || target.Do("DBSIZE") != int64(1) {
			t.Error("the previous data is gone")
		}
		if sets, _ := backup.List(dir); len(sets) > 0 {
			t.Errorf("left %v", sets)
		}
		if _, err := os.Stat(filepath.Join(dir, "redis.restore.json")); err == nil {
			t.Error("a journal is left")
		}
	}
	newer := target.Client()
	newer.AddHook(answers{"function dump", func(c *redis.Cmd) {
		c.SetVal("\x0f\x00" +
			string(make([]byte, 8)))
	}})
	r := &redisdb.Live{Client: newer, Replace: true, StateDir: t.TempDir()}
	for _, dry := range []bool{true, false} {
		_, err := set.Restore(t.Context(), backup.RestoreOptions{DryRun: dry}, r)
		if !errors.Is(err, redisdb.ErrCannotHold) || !strings.Contains(err.Error(), "RDB version 15") {
			t.Errorf("dry run %v: %v", dry, err)
		}
	}
	untouched(r.StateDir)
	// The server says one version and writes another: found before anything goes.
	r = &redisdb.Live{Client: dialer(t, target, func(raw net.Conn) net.Conn {
		return renumbered{
			raw}
	}), Replace: true, StateDir: t.TempDir()}
	_, err := set.Restore(t.Context(), backup.RestoreOptions{}, r)
	if !errors.Is(err, redisdb.ErrCannotHold) || !strings.Contains(err.Error(),
		"could not be restored") {
		t.Errorf("%v", err)
	}
	untouched(r.StateDir)
}

// A slot that changes its node while the nodes are read is found: its keys could be in
// two files or in none.
func TestSlotMovesDuringBackup(t *testing.T) {
	t.Parallel()
	servers, c := redislab.Cluster(t, 2)
	if err := redislab.Fill(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	slot := 0
	for servers[0].Do("CLUSTER", "COUNTKEYSINSLOT", slot) != int64(0) {
		slot++
	}
	var once sync.Once
	_, err := backup.Take(t.Context(), t.TempDir(), backup.Options{Progress: func(e backup.Event) {
		if e.Phase == backup.PhaseBackup {
			once.Do(func() {
				id := servers[1].Do("CLUSTER", "MYID")
				servers[1].Do("CLUSTER", "SETSLOT", slot, "NODE", id)
				servers[0].Do("CLUSTER", "SETSLOT", slot, "NODE", id)
			})
		}
	}}, &redisdb.Source{Client: c})
	if !errors.Is(err, backup.ErrChanged) {
		t.Errorf("%v", err)
	}
}

// paused lets something happen before the last of the commands that it is told.
type paused struct {
	net.Conn
	at        string
	meanwhile func()
	once      *sync.Once
}

func (c *paused) Write(p []byte) (int, error) {
	i := bytes.LastIndex(p, []byte(c.at))
	if i <= 0 {
		return c.Conn.Write(p)
	}
	n, err := c.Conn.Write(p[:i])
	if err != nil {
		return n, err
	}
	c.once.Do(c.meanwhile)
	m, err := c.Conn.Write(p[i:])
	return n + m, err
}

// A key that is replaced between its value and its expiry is read again: one key's value
// with another's expiry was never there.
func TestDumpExpiryRace(t *testing.T) {
	t.Parallel()
	s := redislab.Start(t)
	s.Do("SET", "race", "old", "EX", 3600)
	c := dialer(t, s, func(raw net.Conn) net.Conn {
		return &paused{Conn: raw, at: "*2\r\n$11\r\nPEXPIRETIME\r\n$4\r\nrace", once: new(sync.Once),
			meanwhile: func() {
				redislab.WaitFor(t, "DUMP", func() bool {
					return strings.Contains(fmt.Sprint(s.Do("INFO",
						"commandstats")), "cmdstat_dump:")
				})
				s.Do("SET", "race", "new")
			}}
	})
	set, err := backup.Take(t.Context(), t.TempDir(), backup.Options{}, &redisdb.Source{Client: c,
		Method: redisdb.DUMP})
	if err != nil {
		t.Fatal(err)
	}
	target := redislab.Start(t)
	if _, err := set.Restore(t.Context(), backup.RestoreOptions{},
		&redisdb.Live{Client: target.Client(), StateDir: t.TempDir()}); err != nil {
		t.Fatal(err)
	}
	if value, ttl := target.Do("GET", "race"), target.Do("TTL", "race"); value != "new" ||
		ttl != int64(-1) {
		t.Errorf("%v expires in %v", value, ttl)
	}
}

// What would not fit on the disk is refused before anything changes: the rescue, and the
// file next to the server's own.
func TestNoRoom(t *testing.T) {
	t.Parallel()
	lab.SmallDisk(t, 1<<20, func(dir string) {
		source := redislab.Start(t)
		source.FillRandom(3000, 1000)
		set := takeRedis(t, source.Client())
		here := redislab.Start(t, "--dir", dir)
		here.Do("SET", "mine", "1")
		server := offline(here)
		server.Dir = dir
		for name, c := range map[string]struct {
			r    backup.Restorer
			held *redislab.Server
		}{
			"live": {&redisdb.Live{Client: source.Client(), Replace: true, StateDir: filepath.Join(dir,
				"state")}, source},
			"offline": {&redisdb.Offline{Servers: []redisdb.Server{server}, Replace: true,
				StateDir: t.TempDir()}, here},
		} {
			before := c.held.Do("DBSIZE")
			for _, dry := range []bool{true, false} {
				if _, err := set.Restore(t.Context(), backup.RestoreOptions{DryRun: dry}, c.r); !errors.Is(err,
					backup.ErrNoSpace) {
					t.Errorf("%s, dry run %v: %v", name, dry, err)
				}
			}
			if c.held.Do("DBSIZE") != before {
				t.Errorf("%s: the previous data is gone", name)
			}
		}
		if left, _ := filepath.Glob(filepath.Join(dir, "*restore*")); len(left) > 0 {
			t.Errorf("left %v", left)
		}
	})
}

// A value larger than the target takes in one command is refused by Plan.
func TestLargestValue(t *testing.T) {
	t.Parallel()
	source := redislab.Start(t, "--rdbcompression", "no")
	source.Do("DEBUG", "POPULATE", 1, "big", 2<<20)
	set := takeRedis(t, source.Client())
	for _, name := range []string{"proto-max-bulk-len", "client-query-buffer-limit"} {
		target := redislab.Start(t, "--"+name, "1mb")
		_, err := set.Restore(t.Context(), backup.RestoreOptions{DryRun: true},
			&redisdb.Live{Client: target.Client(), StateDir: t.TempDir()})
		if !errors.Is(err, redisdb.ErrCannotHold) || !strings.Contains(err.Error(), name) {
			t.Errorf("%v", err)
		}
	}
}

// The report says if data and password leave this machine in clear.
func TestPlaintextWarning(t *testing.T) {
	t.Parallel()
	s, _ := filled(t)
	elsewhere := redis.NewClient(&redis.Options{Addr: "192.0.2.1:6379", MaxRetries: -1,
		Dialer: func(ctx context.Context, network, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, network, s.Addr)
		}})
	t.Cleanup(func() { _ = elsewhere.Close() })
	set := takeRedis(t, elsewhere)
	if w := strings.Join(set.Components[0].Warnings, ""); !strings.Contains(w,
		"192.0.2.1:6379 is not encrypted") {
		t.Errorf("take: %q", w)
	}
	there := offline(s)
	there.Client = elsewhere
	here := offline(s)
	for _, c := range []struct {
		r    backup.Restorer
		want bool
	}{
		{&redisdb.Live{Client: elsewhere, Replace: true, StateDir: t.TempDir()}, true},
		{&redisdb.Live{Client: s.Client(), Replace: true, StateDir: t.TempDir()}, false},
		{&redisdb.Offline{Servers: []redisdb.Server{there}, Replace: true, StateDir: t.TempDir()}, true},
		{&redisdb.Offline{Servers: []redisdb.Server{here}, Replace: true, StateDir: t.TempDir()}, false},
	} {
		report, err := set.Restore(t.Context(), backup.RestoreOptions{DryRun: true}, c.r)
		if err != nil || strings.Contains(report.Components[0].Items[0].Detail,
			"is not encrypted") != c.want {
			t.Errorf("%T: %+v %v", c.r, report, err)
		}
	}
}

// remote is a connection that says it leads elsewhere.
type remote struct{ net.Conn }

func (remote) RemoteAddr() net.Addr {
	return &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 6379}
}

// A master that Sentinel names is judged by its own address: no warning of one on this machine.
func TestSentinelWarning(t *testing.T) {
	t.Parallel()
	s := redislab.Start(t)
	s.Do("SET", "key", "v")
	sentinel := redislab.Sentinel(t, s)
	for _, far := range []bool{false, true} {
		c := redis.NewFailoverClient(&redis.FailoverOptions{MasterName: "mymaster", MaxRetries: -1,
			SentinelAddrs: []string{sentinel}, Dialer: func(ctx context.Context, network,
				addr string) (net.Conn, error) {
				var d net.Dialer
				raw, err := d.DialContext(ctx, network, addr)
				if err == nil && far {
					raw = remote{raw}
				}
				return raw, err
			}})
		t.Cleanup(func() { _ = c.Close() })
		set := takeRedis(t, c)
		if w := strings.Join(set.Components[0].Warnings, ""); strings.Contains(w,
			"192.0.2.1:6379 is not encrypted") != far || strings.Contains(w, "not encrypted") != far {
			t.Errorf("far %v: %q", far, w)
		}
	}
}
