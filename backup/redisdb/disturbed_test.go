package redisdb_test

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/redis/go-redis/v9"

	"example.com/tykupgrade/backup"
	"example.com/tykupgrade/backup/redisdb"
	redislab "example.com/tykupgrade/internal/lab/redis"
)

// midway calls f once, when the first keys of a restore are confirmed.
func midway(f func()) func(backup.Event) {
	var once sync.Once
	return func(e backup.Event) {
		if e.Phase == backup.PhaseRestore && e.Items > 0 {
			once.Do(f)
		}
	}
}

// heavy is a set of more than a restore sends without a reply.
func heavy(t *testing.T) *backup.Set {
	t.Helper()
	s := redislab.Start(t, "--rdbcompression", "no")
	s.Do("DEBUG", "POPULATE", 40, "filler", 120_000)
	return takeRedis(t, s.Client())
}

// A target whose settings make the set larger than Plan could know runs out of memory: it
// refuses keys, or evicts those that it has confirmed. What it held comes back.
func TestLiveOutOfMemory(t *testing.T) {
	t.Parallel()
	source := redislab.Start(t)
	source.Do("EVAL", "for i = 1, 8000 do redis.call('HSET', 'h' .. i, 'a', 1, 'b', 2) end", 0)
	set := takeRedis(t, source.Client())
	limit := redisDetails(t, set).Nodes[0].Memory + 2<<20
	for policy, want := range map[string]string{"noeviction": "OOM", "allkeys-lru": "evicted"} {
		target := redislab.Start(t, "--hash-max-listpack-entries", "0", "--maxmemory",
			fmt.Sprint(limit), "--maxmemory-policy", policy)
		target.Do("SET", "mine", "1")
		_, err := set.Restore(t.Context(), backup.RestoreOptions{}, &redisdb.Live{
			Client: target.Client(), StateDir: t.TempDir(), Replace: true})
		if !errors.Is(err, redisdb.ErrCannotHold) || !strings.Contains(err.Error(), want) ||
			!strings.Contains(err.Error(), "raise maxmemory") {
			t.Errorf("%s: %v", policy, err)
		}
		if target.Do("GET", "mine") != "1" || target.Do("DBSIZE") != int64(1) {
			t.Errorf("%s: the previous data is not restored", policy)
		}
	}
}

// A server that is killed and started again may have lost what it had confirmed.
func TestLiveRestarted(t *testing.T) {
	t.Parallel()
	set := heavy(t)
	for _, keys := range []int64{0, 1} {
		target := redislab.Start(t)
		if keys > 0 {
			target.Do("SET", "mine", "1")
			target.Do("SAVE")
		}
		_, err := set.Restore(t.Context(), backup.RestoreOptions{Progress: midway(func() {
			target.Kill()
			target.Start()
		})}, &redisdb.Live{Client: target.Client(), StateDir: t.TempDir(), Replace: true})
		if !errors.Is(err, redisdb.ErrRestarted) || strings.Contains(err.Error(), "rollback") {
			t.Errorf("%v", err)
		}
		if n := target.Do("DBSIZE"); n != keys {
			t.Errorf("%v keys instead of %d", n, keys)
		}
	}
}

// says is true once INFO replication has this line.
func says(t *testing.T, s *redislab.Server, line string) func() bool {
	c := s.Client() // a promotion cuts connections
	return func() bool {
		return strings.Contains(c.Info(t.Context(), "replication").Val(), line)
	}
}

// failover makes Sentinel promote the replica, and waits until it names it.
func failover(t *testing.T, sentinel *redis.Client, replica *redislab.Server) {
	t.Helper()
	redislab.WaitFor(t, "the failover", func() bool {
		return sentinel.Do(t.Context(), "SENTINEL", "FAILOVER", "mymaster").Err() == nil
	})
	redislab.WaitFor(t, "the promotion", func() bool {
		now := sentinel.Do(t.Context(), "SENTINEL", "GET-MASTER-ADDR-BY-NAME", "mymaster")
		return strings.Contains(fmt.Sprint(now), replica.Port)
	})
}

// A failover in the middle of a restore loses what the old master had confirmed. What it
// held comes back on the new one. A finished restore can be undone after a failover as well.
func TestLiveFailover(t *testing.T) {
	t.Parallel()
	set := heavy(t)
	for _, finished := range []bool{false, true} {
		a := redislab.Start(t)
		a.Do("SET", "mine", "1")
		b := redislab.Start(t, "--replicaof", "127.0.0.1 "+a.Port)
		redislab.WaitFor(t, "the replica", says(t, b, "master_link_status:up"))
		addr := redislab.Sentinel(t, a) // asks for replicas now, and again in ten seconds
		sentinel := redis.NewClient(&redis.Options{Addr: addr})
		t.Cleanup(func() { _ = sentinel.Close() })
		// It does nothing by itself on a busy machine.
		if err := sentinel.Do(t.Context(), "SENTINEL", "SET", "mymaster", "down-after-milliseconds",
			600_000).Err(); err != nil {
			t.Fatal(err)
		}
		redislab.WaitFor(t, "Sentinel to know the replica", func() bool {
			known := sentinel.Do(t.Context(), "SENTINEL", "REPLICAS", "mymaster")
			return strings.Contains(fmt.Sprint(known), b.Port)
		})
		c := redis.NewFailoverClient(&redis.FailoverOptions{MasterName: "mymaster",
			SentinelAddrs: []string{addr}})
		t.Cleanup(func() { _ = c.Close() })
		r := &redisdb.Live{Client: c, StateDir: t.TempDir(), Replace: true}
		o := backup.RestoreOptions{Keep: true}
		if !finished {
			o.Progress = midway(func() { failover(t, sentinel, b) })
		}
		_, err := set.Restore(t.Context(), o, r)
		if finished && err == nil {
			failover(t, sentinel, b)
			_, err = set.Undo(t.Context(), r)
		}
		if finished && err != nil || !finished && !errors.Is(err, redisdb.ErrRestarted) ||
			err != nil && strings.Contains(err.Error(), "rollback") {
			t.Errorf("finished %v: %v", finished, err)
		}
		if b.Do("GET", "mine") != "1" || b.Do("DBSIZE") != int64(1) {
			t.Errorf("finished %v: the previous data is not restored", finished)
		}
	}
}

// Own keys that expire while they are recognised are no sign of somebody else.
func TestLiveCutExpiring(t *testing.T) {
	t.Parallel()
	source := redislab.Start(t)
	source.Do("EVAL", "for i = 1, 9000 do redis.call('SET', 'k' .. i, ('x'):rep(99), 'EX', 3600) end",
		0)
	set := takeRedis(t, source.Client())
	target := redislab.Start(t)
	var cuts atomic.Int64
	cuts.Store(1)
	var expire sync.Once
	c := dialer(t, target, func(raw net.Conn) net.Conn {
		return before{&lossy{Conn: raw, cuts: &cuts}, func(p []byte) {
			if cuts.Load() <= 0 && bytes.Contains(p, []byte("PEXPIRETIME")) {
				expire.Do(func() { target.Do("FLUSHALL") })
			}
		}}
	})
	_, err := set.Restore(t.Context(), backup.RestoreOptions{}, &redisdb.Live{Client: c,
		StateDir: t.TempDir()})
	if !errors.Is(err, backup.ErrDiffers) || errors.Is(err, backup.ErrNotEmpty) {
		t.Errorf("%v", err)
	}
}

// A server that refuses the connection says why, and that is what the user reads.
func TestConnectionRefused(t *testing.T) {
	t.Parallel()
	full := redislab.Start(t, "--maxclients", "1")
	held := full.Client()
	if err := held.Ping(t.Context()).Err(); err != nil {
		t.Fatal(err)
	}
	secret := redislab.StartTLS(t)
	plain := redis.NewClient(&redis.Options{Addr: secret.Addr, MaxRetries: -1})
	t.Cleanup(func() { _ = plain.Close() })
	another := redis.NewClient(&redis.Options{Addr: full.Addr, MaxRetries: -1})
	cases := map[redis.UniversalClient]string{another: "raise maxclients", plain: "rediss://"}
	// Without TLS the server waits for the end of a line, or answers that there is no such command.
	silent := redislab.Start(t)
	for _, uri := range []string{"rediss://", "rediss+cluster://"} {
		c, err := redisdb.NewClient(uri+silent.Addr, nil)
		if err != nil {
			t.Fatal(err)
		}
		cases[c] = "speaks no TLS; write redis://"
	}
	addrs, _ := net.InterfaceAddrs()
	for _, a := range addrs {
		if ip, ok := a.(*net.IPNet); ok && ip.IP.To4() != nil && !ip.IP.IsLoopback() {
			s := redislab.Start(t, "--bind", "0.0.0.0")
			cases[redis.NewClient(&redis.Options{Addr: net.JoinHostPort(ip.IP.String(), s.Port),
				MaxRetries: -1})] = "protected mode"
			break
		}
	}
	for c, want := range cases {
		err := refused(t, &redisdb.Source{Client: c})
		if !strings.Contains(err.Error(), want) || len(err.Error()) > 250 {
			t.Errorf("%v", err)
		}
		_ = c.Close()
	}
}
