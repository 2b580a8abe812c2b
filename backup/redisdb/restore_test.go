package redisdb_test

import (
	"context"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"example.com/tykupgrade/backup"
	"example.com/tykupgrade/backup/redisdb"
	redislab "example.com/tykupgrade/internal/lab/redis"
)

func TestOfflineRestore(t *testing.T) {
	t.Parallel()
	set := filledSet(t)
	for name, args := range map[string][]string{
		"plain":           nil,
		"save points":     {"--save", "1 1"},
		"AOF":             {"--appendonly", "yes"},
		"AOF off for now": {"--appendonly", "yes"},
		"AOF elsewhere": {"--appendonly", "yes", "--appenddirname", "other", "--appendfilename",
			"odd name"},
		"password": {"--requirepass", "hunter2"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			target := redislab.Start(t, args...)
			if name == "AOF off for now" { // the server reads it at its next start
				target.Do("CONFIG", "SET", "appendonly", "no")
			}
			owned := name == "plain" && os.Geteuid() == 0
			if owned { // as Debian's package has it
				if err := os.Chown(target.Dir, 12345, 54321); err != nil {
					t.Fatal(err)
				}
			}
			r := &redisdb.Offline{StateDir: t.TempDir(), Servers: []redisdb.Server{offline(target)}}
			report, err := set.Restore(t.Context(), backup.RestoreOptions{}, r)
			if err != nil || report.Components[0].State != backup.StateVerified {
				t.Fatalf("%+v %v", report, err)
			}
			if info, err := os.Stat(filepath.Join(target.Dir, "dump.rdb")); owned {
				if err != nil || info.Sys().(*syscall.Stat_t).Uid != 12345 ||
					info.Sys().(*syscall.Stat_t).Gid != 54321 || info.Mode() != 0o660 {
					t.Errorf("%+v %v", info, err)
				}
			}
			// The data survives one more restart, with what is written after.
			target.Do("SET", "written later", "1")
			if name != "plain" && name != "password" {
				target.Stop()
				target.Start()
				if n := target.Do("GET", "written later"); n != "1" {
					t.Errorf("a key written after the restore is lost: %v", n)
				}
			}
			target.Do("DEL", "written later")
			if err := (&redisdb.Source{Client: target.Client()}).Prove(t.Context(),
				stored(t, set)); err != nil {
				t.Error(err)
			}
			if left, _ := filepath.Glob(filepath.Join(target.Dir, "temp-*")); len(left) > 0 {
				t.Errorf("left over: %v", left)
			}
		})
	}
}

// What a server had comes back when its start with the new data fails.
func TestOfflineRollback(t *testing.T) {
	t.Parallel()
	set := filledSet(t)
	for _, aof := range []string{"no", "yes"} {
		t.Run("appendonly "+aof, func(t *testing.T) {
			t.Parallel()
			target := redislab.Start(t, "--save", "1 1", "--appendonly", aof)
			target.Do("SET", "mine", "1")
			before := takeRedis(t, target.Client())
			server := offline(target)
			r := &redisdb.Offline{StateDir: t.TempDir(), Servers: []redisdb.Server{server}}
			if _, err := set.Restore(t.Context(), backup.RestoreOptions{}, r); !errors.Is(err,
				backup.ErrNotEmpty) {
				t.Fatalf("a server with keys was accepted: %v", err)
			}
			r.Replace = true
			starts := 0
			r.Servers[0].Start = func(ctx context.Context) error {
				if starts++; starts == 1 {
					return errors.New("the unit is masked")
				}
				return server.Start(ctx)
			}
			report, err := set.Restore(t.Context(), backup.RestoreOptions{}, r)
			if err == nil || !strings.Contains(err.Error(), "the unit is masked") ||
				report.Components[0].State != backup.StateFailed {
				t.Fatalf("%+v %v", report, err)
			}
			if err := (&redisdb.Source{Client: target.Client()}).Prove(t.Context(),
				stored(t, before)); err != nil {
				t.Error(err)
			}
			if left, _ := filepath.Glob(filepath.Join(target.Dir, "*restore*")); len(left) > 0 {
				t.Errorf("left over: %v", left)
			}
			// The old file is kept next to it until it is accepted.
			r.Servers[0].Start = server.Start
			report, err = set.Restore(t.Context(), backup.RestoreOptions{Keep: true}, r)
			if err != nil {
				t.Fatal(err)
			}
			left, _ := filepath.Glob(filepath.Join(target.Dir, "*before-restore*"))
			if len(left) == 0 || !strings.Contains(report.Components[0].Items[0].Detail, left[0]) {
				t.Errorf("report %+v does not tell of %v", report, left)
			}
			report, err = set.Undo(t.Context(), r)
			again, e := set.Undo(t.Context(), r)
			if err != nil || e != nil || report.Components[0].State != backup.StateUndone ||
				again.Components[0].State != backup.StateNothing || target.Do("GET", "mine") != "1" {
				t.Errorf("undo: %+v %v, again %+v %v", report, err, again, e)
			}
			if _, err = set.Restore(t.Context(), backup.RestoreOptions{Keep: true}, r); err != nil {
				t.Fatal(err)
			}
			if err := set.Accept(t.Context(), r); err != nil {
				t.Fatal(err)
			}
			if left, _ := filepath.Glob(filepath.Join(target.Dir, "*restore*")); len(left) > 0 {
				t.Errorf("left over: %v", left)
			}
		})
	}
}

// A server that cannot be stopped for the way back is left with the new data,
// and what it had stays where the error says.
func TestOfflineNoWayBack(t *testing.T) {
	t.Parallel()
	set := filledSet(t)
	target := redislab.Start(t, "--save", "1 1")
	target.Do("SET", "mine", "1")
	server := offline(target)
	stops := 0
	r := &redisdb.Offline{StateDir: t.TempDir(), Replace: true, Servers: []redisdb.Server{
		{Client: server.Client, Dir: server.Dir,
			Stop: func(ctx context.Context) error {
				if stops++; stops > 1 {
					return errors.New("the unit is gone")
				}
				return server.Stop(ctx)
			},
			Start: func(ctx context.Context) error {
				return errors.Join(server.Start(ctx), errors.New("the unit is masked"))
			}}}}
	_, err := set.Restore(t.Context(), backup.RestoreOptions{}, r)
	kept, _ := filepath.Glob(filepath.Join(target.Dir, "dump.rdb.before-restore-*"))
	if err == nil || len(kept) != 1 || !strings.Contains(err.Error(), kept[0]) {
		t.Fatalf("kept %v: %v", kept, err)
	}
	target.Stop()
	if err := os.Rename(kept[0], filepath.Join(target.Dir, "dump.rdb")); err != nil {
		t.Fatal(err)
	}
	target.Start()
	if target.Do("GET", "mine") != "1" {
		t.Error("the previous data is gone")
	}
}

func TestOfflineCluster(t *testing.T) {
	t.Parallel()
	servers, c := redislab.Cluster(t, 3)
	if err := redislab.Fill(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	set := takeRedis(t, c)
	var d redisdb.Details
	if err := stored(t, set).DecodeDetails(&d); err != nil {
		t.Fatal(err)
	}
	r := &redisdb.Offline{StateDir: t.TempDir(), Replace: true}
	for _, s := range servers {
		s.Do("FLUSHALL")
		o := offline(s)
		for _, n := range d.Nodes {
			if n.Addr == s.Addr {
				o.File = n.File
			}
		}
		r.Servers = append(r.Servers, o)
	}
	if _, err := set.Restore(t.Context(), backup.RestoreOptions{}, r); err != nil {
		t.Fatal(err)
	}
}

func TestLiveRestore(t *testing.T) {
	t.Parallel()
	set := filledSet(t)
	target := redislab.Start(t, "--appendonly", "yes")
	r := &redisdb.Live{Client: target.Client(), StateDir: t.TempDir()}
	dry, err := set.Restore(t.Context(), backup.RestoreOptions{DryRun: true}, r)
	if err != nil || dry.Components[0].State != backup.StatePlanned ||
		target.Do("DBSIZE") != int64(0) {
		t.Fatalf("%+v %v", dry, err)
	}
	if left, _ := os.ReadDir(r.StateDir); len(left) > 0 {
		t.Errorf("a dry run left %v", left)
	}
	report, err := set.Restore(t.Context(), backup.RestoreOptions{}, r)
	if err != nil || report.Components[0].State != backup.StateVerified {
		t.Fatalf("%+v %v", report, err)
	}
	// Once more: refused, unless told; then what was there is kept.
	target.Do("SET", "mine", "1")
	if _, err := set.Restore(t.Context(), backup.RestoreOptions{}, r); !errors.Is(err,
		backup.ErrNotEmpty) {
		t.Fatalf("a target with keys was accepted: %v", err)
	}
	r.Replace = true
	into := *r
	into.StateDir = filepath.Join(set.Dir, "redis")
	if _, err := set.Restore(t.Context(), backup.RestoreOptions{DryRun: true}, &into); err == nil ||
		!strings.Contains(err.Error(), "inside the set") {
		t.Errorf("state in the set: %v", err)
	}
	if _, err := set.Restore(t.Context(), backup.RestoreOptions{}, r); err != nil {
		t.Fatal(err)
	}
	kept, err := backup.List(r.StateDir)
	if err != nil || len(kept) != 1 || kept[0].Components[0].Items != set.Components[0].Items+1 {
		t.Errorf("rescued: %+v %v", kept, err)
	}
}

// A cluster's set goes into one server and back into a cluster of another
// size, key by key.
func TestLiveCluster(t *testing.T) {
	t.Parallel()
	_, c := redislab.Cluster(t, 3)
	if err := redislab.Fill(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	set := takeRedis(t, c)
	single := redislab.Start(t)
	if _, err := set.Restore(t.Context(), backup.RestoreOptions{},
		&redisdb.Live{Client: single.Client(), StateDir: t.TempDir()}); err != nil {
		t.Fatal(err)
	}
	set = takeRedis(t, single.Client())
	if _, err := set.Restore(t.Context(), backup.RestoreOptions{}, &redisdb.Live{Client: c,
		Replace: true, StateDir: t.TempDir()}); err != nil {
		t.Fatal(err)
	}
}

func TestScratch(t *testing.T) {
	t.Parallel()
	set := filledSet(t)
	dir := t.TempDir()
	p := &redisdb.Scratch{Dir: dir}
	if err := set.Verify(t.Context(), backup.VerifyOptions{Level: backup.LevelLive,
		Against: []backup.Prover{p}}); err != nil {
		t.Error(err)
	}
	// A file that reads well and that no server loads: one key twice.
	double := takePlain(t, t.TempDir(), doubled{stored(t, set)})
	err := double.Verify(t.Context(), backup.VerifyOptions{Level: backup.LevelLive,
		Against: []backup.Prover{p}})
	if err == nil || !strings.Contains(err.Error(), "did not load") {
		t.Errorf("a file that does not load: %v", err)
	}
	p.Program = "/no/such/redis-server"
	if err := p.Prove(t.Context(), stored(t, set)); err == nil || !strings.Contains(err.Error(),
		p.Program) {
		t.Errorf("no server: %v", err)
	}
	if left, _ := os.ReadDir(dir); len(left) > 0 {
		t.Errorf("left %v", left)
	}
}

// A key that appears while the set is written stops the restore; it stays, and
// what was written goes.
func TestLiveSomebodyElse(t *testing.T) {
	t.Parallel()
	source := redislab.Start(t, "--rdbcompression", "no")
	source.Fill()
	source.Do("DEBUG", "POPULATE", 40, "filler", 120_000) // more than is sent without a reply
	set := takeRedis(t, source.Client())
	target := redislab.Start(t)
	target.Do("FUNCTION", "FLUSH")
	r := &redisdb.Live{Client: target.Client(), StateDir: t.TempDir()}
	once := false
	_, err := set.Restore(t.Context(), backup.RestoreOptions{Progress: func(e backup.Event) {
		// The key of database 3 is written last.
		if e.Phase == backup.PhaseRestore && e.Items > 0 && !once {
			once = true
			c := redis.NewClient(&redis.Options{Addr: target.Addr, DB: 3})
			defer c.Close()
			if err := c.Set(t.Context(), "in database 3", "mine", 0).Err(); err != nil {
				t.Error(err)
			}
		}
	}}, r)
	if !once || !errors.Is(err, backup.ErrNotEmpty) {
		t.Fatalf("%v", err)
	}
	info, _ := target.Do("INFO", "keyspace").(string)
	if strings.Contains(info, "db0") || !strings.Contains(info, "db3:keys=1") {
		t.Errorf("left: %s", info)
	}
}

// Where the restore fails or is stopped, what was there comes back.
func TestLiveRollback(t *testing.T) {
	t.Parallel()
	source := redislab.Start(t)
	source.Fill()
	source.Do("DEBUG", "POPULATE", 3000, "filler", 100)
	set := takeRedis(t, source.Client())
	target := redislab.Start(t)
	target.Do("SET", "mine", "1")
	target.Do("FUNCTION", "LOAD", "#!lua name=mine\nredis.register_function('two', function() "+
		"return 2 end)")
	before := takeRedis(t, target.Client())
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	r := &redisdb.Live{Client: target.Client(), Replace: true, StateDir: t.TempDir()}
	_, err := set.Restore(ctx, backup.RestoreOptions{Progress: func(e backup.Event) {
		if e.Phase == backup.PhaseRestore && e.Bytes > 0 {
			cancel()
		}
	}}, r)
	if !errors.Is(err, context.Canceled) {
		t.Fatalf("%v", err)
	}
	if err := (&redisdb.Source{Client: target.Client()}).Prove(t.Context(),
		stored(t, before)); err != nil {
		t.Error(err)
	}
}

// A sample finds keys that are missing or more than they should be, and one
// that covers everything finds a changed value.
func TestSample(t *testing.T) {
	t.Parallel()
	s, set := filled(t)
	// The client's own database does not matter.
	c := redis.NewClient(&redis.Options{Addr: s.Addr, DB: 5})
	t.Cleanup(func() { _ = c.Close() })
	src := &redisdb.Source{Client: c, Sample: 3}
	for range 5 {
		if err := src.Prove(t.Context(), stored(t, set)); err != nil {
			t.Error(err)
		}
	}
	s.Do("SET", "one more", "x")
	if err := src.Prove(t.Context(), stored(t, set)); !errors.Is(err, backup.ErrDiffers) {
		t.Errorf("a key more: %v", err)
	}
	s.Do("DEL", "one more")
	src.Sample = 1000
	if err := src.Prove(t.Context(), stored(t, set)); err != nil {
		t.Error(err)
	}
	s.Do("ZADD", "zset", "1.25", "a")
	if err := src.Prove(t.Context(), stored(t, set)); !errors.Is(err, backup.ErrDiffers) ||
		!strings.Contains(err.Error(), `"zset"`) {
		t.Errorf("a changed value: %v", err)
	}
	s.Do("ZADD", "zset", "1.5", "a")
	s.Do("PERSIST", "expires in an hour")
	if err := src.Prove(t.Context(), stored(t, set)); !errors.Is(err, backup.ErrDiffers) ||
		!strings.Contains(err.Error(), "expires in an hour") {
		t.Errorf("a changed expiry: %v", err)
	}
}

// A server that is not really stopped keeps its files.
func TestOfflineStillRunning(t *testing.T) {
	t.Parallel()
	set := filledSet(t)
	target := redislab.Start(t, "--appendonly", "yes")
	target.Do("SET", "mine", "1")
	before := tree(t, target.Dir)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	r := &redisdb.Offline{StateDir: t.TempDir(), Replace: true, Servers: []redisdb.Server{
		{Client: target.Client(), Dir: target.Dir,
			Stop:  func(context.Context) error { time.AfterFunc(200*time.Millisecond, cancel); return nil },
			Start: func(context.Context) error { return nil }}}}
	if _, err := set.Restore(ctx, backup.RestoreOptions{}, r); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	after := tree(t, target.Dir)
	delete(before, filepath.Join(target.Dir, "log"))
	delete(after, filepath.Join(target.Dir, "log"))
	if !maps.Equal(before, after) {
		t.Errorf("%v\n%v", slices.Sorted(maps.Keys(before)), slices.Sorted(maps.Keys(after)))
	}
}
