package redisdb_test

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/redis/go-redis/v9"

	"example.com/tykupgrade/backup"
	"example.com/tykupgrade/backup/backuptest"
	"example.com/tykupgrade/backup/redisdb"
	"example.com/tykupgrade/internal/lab"
	redislab "example.com/tykupgrade/internal/lab/redis"
)

// redisDetails reads what the manifest says of Redis.
func redisDetails(t *testing.T, set *backup.Set) redisdb.Details {
	t.Helper()
	var d redisdb.Details
	if err := stored(t, set).DecodeDetails(&d); err != nil {
		t.Fatal(err)
	}
	return d
}

// refused takes a set that must fail, and returns the error.
func refused(t *testing.T, r *redisdb.Source) error {
	t.Helper()
	dir := t.TempDir()
	_, err := backup.Take(t.Context(), dir, backup.Options{}, r)
	if err == nil {
		t.Fatal("a set was taken")
	}
	if sets, _ := backup.List(dir); len(sets) > 0 || len(backuptest.Leftovers(t, dir)) > 0 {
		t.Errorf("left: %v %v", sets, backuptest.Leftovers(t, dir))
	}
	return err
}

func TestManifest(t *testing.T) {
	t.Parallel()
	s, set := filled(t)
	n := redisDetails(t, set).Nodes[0]
	keys := s.Do("DBSIZE").(int64) + 1
	if n.RDB.Version != 10 || n.RDB.Keys != keys || n.RDB.Databases[3] != 1 || n.RDB.Expiring != 2 ||
		n.RDB.Functions != 1 || !n.RDB.Checksum || n.Offset < 0 || len(n.ReplID) != 40 {
		t.Errorf("%+v", n)
	}
	if c := set.Components[0]; c.Server != "redis 7.0.15" && !strings.HasPrefix(c.Server, "redis ") ||
		c.Items != keys || c.Consistency != backup.ConsistencySnapshot {
		t.Errorf("%+v", c)
	}
	// A second opinion on the file.
	check := lab.Program(t, "redis-check-rdb", "redis-tools")
	if out, err := command(check, filepath.Join(set.Dir, "redis", n.File)); err != nil {
		t.Errorf("redis-check-rdb: %v\n%s", err, out)
	}
	dump, err := backup.Take(t.Context(), t.TempDir(), backup.Options{},
		&redisdb.Source{Client: s.Client(), Method: redisdb.DUMP})
	if err != nil {
		t.Fatal(err)
	}
	if out, err := command(check, filepath.Join(dump.Dir, "redis", n.File)); err != nil {
		t.Errorf("redis-check-rdb of a file made of DUMP: %v\n%s", err, out)
	}
}

// A user that may do nothing but replicate is enough; redis-cli --rdb is
// refused there, because it wants SYNC.
func TestMinimalUser(t *testing.T) {
	t.Parallel()
	s := redislab.Start(t)
	s.Fill()
	s.Do("ACL", "SETUSER", "replicator", "on", ">pass word", "+ping", "+psync", "+replconf")
	set := takeRedis(t, s.User("replicator", "pass word"))
	if n := redisDetails(t, set).Nodes[0]; n.RDB.Keys != s.Do("DBSIZE").(int64)+1 {
		t.Errorf("%+v", n)
	}
	err := refused(t, &redisdb.Source{Client: s.User("replicator", "pass word"),
		Method: redisdb.BGSAVE})
	if !errors.Is(err, backup.ErrNotAllowed) || strings.Contains(err.Error(), "pass word") {
		t.Errorf("BGSAVE without the right: %v", err)
	}
	s.Do("ACL", "SETUSER", "nobody", "on", ">pass word", "+ping")
	if err := refused(t, &redisdb.Source{Client: s.User("nobody", "pass word")}); !errors.Is(err,
		backup.ErrNotAllowed) {
		t.Errorf("PSYNC without the right: %v", err)
	}
}

// A managed service blocks everything but reading key by key.
func TestManaged(t *testing.T) {
	t.Parallel()
	s := redislab.Start(t)
	s.Fill()
	s.Do("ACL", "SETUSER", "managed", "on", ">p", "~*", "+@all", "-psync", "-sync", "-config", "-save",
		"-bgsave", "-replconf")
	src := &redisdb.Source{Client: s.User("managed", "p"), Method: redisdb.DUMP}
	set, err := backup.Take(t.Context(), t.TempDir(), backup.Options{}, src)
	if err != nil {
		t.Fatal(err)
	}
	if set.Components[0].Consistency != backup.ConsistencyPerItem {
		t.Errorf("%+v", set.Components[0])
	}
	// Without INFO a database could be overlooked.
	s.Do("ACL", "SETUSER", "blind", "on", ">p", "~*", "+@all", "-info")
	if err := refused(t, &redisdb.Source{Client: s.User("blind", "p"),
		Method: redisdb.DUMP}); !errors.Is(err, backup.ErrNotAllowed) {
		t.Errorf("without INFO: %v", err)
	}
	// The proof reads key by key as well.
	if err := src.Prove(t.Context(), stored(t, set)); err != nil {
		t.Error(err)
	}
	// And so does the restore of a target that allows nothing else.
	target := redislab.Start(t)
	target.Do("ACL", "SETUSER", "managed", "on", ">p", "~*", "+@all", "-psync", "-sync", "-config",
		"-replicaof", "-replconf")
	r := &redisdb.Live{Client: target.User("managed", "p"), StateDir: t.TempDir()}
	if _, err := set.Restore(t.Context(), backup.RestoreOptions{}, r); err != nil {
		t.Error(err)
	}
	if _, err := takeRedis(t, s.Client()).Restore(t.Context(), backup.RestoreOptions{},
		&redisdb.Live{Client: redislab.Start(t).User("default", ""), StateDir: t.TempDir()}); err != nil {
		t.Error(err)
	}
}

func TestConfigForbidden(t *testing.T) {
	t.Parallel()
	for name, args := range map[string][]string{"renamed": {"--rename-command", "CONFIG", "hidden"},
		"gone": {"--rename-command", "CONFIG", ""}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := redislab.Start(t, args...)
			s.Fill()
			err := refused(t, &redisdb.Source{Client: s.Client(), Method: redisdb.BGSAVE})
			var e *backup.Error
			if !errors.Is(err, backup.ErrNotAllowed) || !errors.As(err, &e) {
				t.Fatalf("%v", err)
			}
			takeRedis(t, s.Client()) // PSYNC needs none of it
			src := &redisdb.Source{Client: s.Client(), Method: redisdb.BGSAVE, Path: filepath.Join(s.Dir,
				"dump.rdb")}
			set, err := backup.Take(t.Context(), t.TempDir(), backup.Options{}, src)
			if err != nil {
				t.Fatal(err)
			}
			// The offline restore needs to be told as well.
			r := &redisdb.Offline{StateDir: t.TempDir(), Servers: []redisdb.Server{offline(s)},
				Replace: true}
			if _, err := set.Restore(t.Context(), backup.RestoreOptions{}, r); !errors.Is(err,
				backup.ErrNotAllowed) {
				t.Fatalf("%v", err)
			}
			r.Servers[0].Config = map[string]string{"dir": s.Dir, "dbfilename": "dump.rdb",
				"appendonly": "no", "appendfilename": "appendonly.aof", "appenddirname": "appendonlydir"}
			if _, err := set.Restore(t.Context(), backup.RestoreOptions{}, r); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// BGSAVE answers "started" and its child fails; SAVE answers a bare ERR.
func TestSaveFails(t *testing.T) {
	t.Parallel()
	s := redislab.Start(t, "--enable-protected-configs", "yes")
	s.Fill()
	gone := filepath.Join(s.Dir, "gone")
	if err := os.Mkdir(gone, 0o700); err != nil {
		t.Fatal(err)
	}
	s.Do("CONFIG", "SET", "dir", gone)
	if err := os.Remove(gone); err != nil { // nobody, not even root, can write there
		t.Fatal(err)
	}
	for m, want := range map[redisdb.Method]string{redisdb.BGSAVE: "rdb_last_bgsave_status:err",
		redisdb.SAVE: "could not write its file"} {
		if err := refused(t, &redisdb.Source{Client: s.Client(), Method: m, Path: filepath.Join(gone,
			"dump.rdb")}); !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", m, err)
		}
	}
}

// BGSAVE waits for one that is running, and is not fooled by its file.
func TestBGSAVEWaits(t *testing.T) {
	t.Parallel()
	// A connection that is idle for a second is closed.
	s := redislab.Start(t, "--rdb-key-save-delay", "100000", "--timeout", "1")
	s.Fill()
	s.Do("BGSAVE")
	s.Do("CONFIG", "SET", "rdb-key-save-delay", "0")
	s.Do("SET", "written after the running save began", "1")
	set, err := backup.Take(t.Context(), t.TempDir(), backup.Options{},
		&redisdb.Source{Client: s.Client(), Method: redisdb.BGSAVE})
	if err != nil {
		t.Fatal(err)
	}
	if n := redisDetails(t, set).Nodes[0].RDB.Keys; n != s.Do("DBSIZE").(int64)+1 {
		t.Errorf("%d keys: the file is the earlier save's", n)
	}
}

// A file that the save did not write is not taken for it.
func TestWrongFile(t *testing.T) {
	t.Parallel()
	s, set := filled(t)
	old := filepath.Join(set.Dir, "redis", redisDetails(t, set).Nodes[0].File)
	redislab.WaitFor(t, "the second after the next", func() bool {
		now, err := s.Client().Time(t.Context()).Result()
		return err == nil && now.Unix() > redisDetails(t, set).Nodes[0].RDB.Created.Unix()+1
	})
	err := refused(t, &redisdb.Source{Client: s.Client(), Method: redisdb.BGSAVE, Path: old})
	if !strings.Contains(err.Error(), "before the save") {
		t.Error(err)
	}
}

func TestRemoteFile(t *testing.T) {
	t.Parallel()
	s := redislab.Start(t)
	s.Fill()
	var asked string
	src := &redisdb.Source{Client: s.Client(), Method: redisdb.SAVE, Open: func(_ context.Context,
		addr, path string) (io.ReadCloser, error) {
		asked = addr + " " + path
		return os.Open(path)
	}}
	set, err := backup.Take(t.Context(), t.TempDir(), backup.Options{}, src)
	if err != nil || asked != s.Addr+" "+filepath.Join(s.Dir, "dump.rdb") {
		t.Fatalf("%q %v", asked, err)
	}
	if w := set.Components[0].Warnings; len(w) != 1 || !strings.Contains(w[0], "SAVE blocked") {
		t.Errorf("warnings %q", w)
	}
}

func TestLoading(t *testing.T) {
	t.Parallel()
	s := redislab.Start(t)
	s.Do("DEBUG", "POPULATE", 30_000, "filler", 100)
	s.Do("SAVE")
	slow := redislab.Loading(t, filepath.Join(s.Dir, "dump.rdb"))
	for _, m := range []redisdb.Method{redisdb.PSYNC, redisdb.DUMP} {
		err := refused(t, &redisdb.Source{Client: slow.Client(), Method: m})
		var e *backup.Error
		if !errors.As(err, &e) || !e.Retryable() || !strings.Contains(err.Error(), "loading") {
			t.Errorf("%s: %v", m, err)
		}
	}
}

func TestChecksumOff(t *testing.T) {
	t.Parallel()
	_, set := filled(t, "--rdbchecksum", "no")
	if w := set.Components[0].Warnings; redisDetails(t, set).Nodes[0].RDB.Checksum || len(w) != 1 ||
		!strings.Contains(w[0], "rdbchecksum is off") {
		t.Errorf("warnings %q", w)
	}
}

// A snapshot taken while others write is one moment: a counter and its shadow,
// always written together, are equal in it.
func TestWritesDuringSnapshot(t *testing.T) {
	t.Parallel()
	s := redislab.Start(t)
	s.Fill()
	ctx, cancel := context.WithCancel(t.Context())
	var written atomic.Int64
	done := make(chan struct{})
	go func() {
		defer close(done)
		c := s.Client()
		for i := 1; ctx.Err() == nil; i++ {
			if c.MSet(ctx, "first", i, "a key far away", i).Err() == nil {
				written.Store(int64(i))
			}
		}
	}()
	redislab.WaitFor(t, "the writer", func() bool { return written.Load() > 10 })
	during := false
	set, err := backup.Take(t.Context(), t.TempDir(), backup.Options{Progress: func(e backup.Event) {
		if e.Phase == backup.PhaseBackup && e.Bytes > 0 && !during {
			during = true
			// The snapshot has its moment; what begins to be written now is later.
			before := written.Load()
			redislab.WaitFor(t, "a write during the snapshot", func() bool {
				return written.Load() > before+
					1
			})
		}
	}}, &redisdb.Source{Client: s.Client()})
	cancel()
	<-done
	if err != nil || !during {
		t.Fatalf("%v, %v", during, err)
	}
	target := redislab.Start(t)
	if _, err := set.Restore(t.Context(), backup.RestoreOptions{},
		&redisdb.Live{Client: target.Client(), StateDir: t.TempDir()}); err != nil {
		t.Fatal(err)
	}
	if a, b := target.Do("GET", "first"), target.Do("GET", "a key far away"); a != b {
		t.Errorf("%v and %v", a, b)
	}
}

// cutter forwards to a server and cuts a connection after so many bytes of
// replies.
func cutter(t *testing.T, to string, after int64) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("tcp", to)
			if err != nil {
				_ = in.Close()
				continue
			}
			go func() { _, _ = io.Copy(out, in); _ = out.Close() }()
			go func() { _, _ = io.CopyN(in, out, after); _ = in.Close(); _ = out.Close() }()
		}
	}()
	return l.Addr().String()
}

func TestConnectionCut(t *testing.T) {
	t.Parallel()
	for _, diskless := range []string{"yes", "no"} {
		t.Run("diskless "+diskless, func(t *testing.T) {
			t.Parallel()
			s := redislab.Start(t, "--repl-diskless-sync", diskless)
			s.Fill()
			s.Do("DEBUG", "POPULATE", 20000, "filler", 100)
			c := redis.NewClient(&redis.Options{Addr: cutter(t, s.Addr, 200_000), MaxRetries: -1})
			t.Cleanup(func() { _ = c.Close() })
			err := refused(t, &redisdb.Source{Client: c})
			var e *backup.Error
			if !errors.As(err, &e) || !e.Retryable() || !strings.Contains(err.Error(),
				"the connection was cut") || !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Error(err)
			}
		})
	}
}

func TestDiskFull(t *testing.T) {
	t.Parallel()
	lab.SmallDisk(t, 300<<10, func(dir string) {
		s := redislab.Start(t)
		s.Do("DEBUG", "POPULATE", 20000, "filler", 100)
		sets := filepath.Join(dir, "sets")
		src := &redisdb.Source{Client: s.Client()}
		_, err := backup.Take(t.Context(), sets, backup.Options{}, src)
		if !errors.Is(err, backup.ErrNoSpace) {
			t.Errorf("preflight: %v", err)
		}
		_, err = backup.Take(t.Context(), sets, backup.Options{Reserve: -1}, hideEstimate{src})
		var e *backup.Error
		if !errors.As(err, &e) || !strings.Contains(err.Error(), "no space left on device") ||
			e.Hint() == "" {
			t.Errorf("full: %v", err)
		}
		if left := backuptest.Leftovers(t, sets); len(left) > 0 {
			t.Errorf("left %v", left)
		}
	})
}

// hideEstimate is a source that does not know how much is to come.
type hideEstimate struct{ backup.Source }

func (hideEstimate) Plan(context.Context) (backup.Estimate, error) { return backup.Estimate{}, nil }

// An RDB file of a newer version is refused before anything changes.
func TestTooNew(t *testing.T) {
	t.Parallel()
	set := filledSet(t)
	dir := filepath.Join(t.TempDir(), set.ID)
	if err := os.CopyFS(dir, os.DirFS(set.Dir)); err != nil {
		t.Fatal(err)
	}
	newer := reversion(t, set, 11)
	target := redislab.Start(t)
	for _, r := range []backup.Restorer{
		&redisdb.Live{Client: target.Client(), StateDir: t.TempDir()},
		&redisdb.Offline{StateDir: t.TempDir(), Servers: []redisdb.Server{offline(target)}},
	} {
		if _, err := newer.Restore(t.Context(), backup.RestoreOptions{}, r); !errors.Is(err,
			backup.ErrTooNew) {
			t.Errorf("%T: %v", r, err)
		}
	}
}
