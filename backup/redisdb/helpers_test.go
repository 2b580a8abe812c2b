package redisdb_test

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"

	"github.com/redis/go-redis/v9"

	"example.com/tykupgrade/backup"
	"example.com/tykupgrade/backup/redisdb"
	redislab "example.com/tykupgrade/internal/lab/redis"
)

func command(argv ...string) (string, error) {
	out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput()
	return string(out), err
}

// reversion takes a set again with its RDB file in another version.
func reversion(t *testing.T, set *backup.Set, version int) *backup.Set {
	t.Helper()
	again, err := backup.Take(t.Context(), t.TempDir(), backup.Options{}, reversioned{stored(t, set),
		version})
	if err != nil {
		t.Fatal(err)
	}
	return again
}

type reversioned struct {
	from    *backup.Stored
	version int
}

func (r reversioned) Name() string { return "redis" }
func (r reversioned) Plan(context.Context) (backup.Estimate, error) {
	return backup.Estimate{},
		nil
}

func (r reversioned) Backup(ctx context.Context, w *backup.Writer) (backup.Component, error) {
	c := r.from.Component
	var d redisdb.Details
	if err := c.DecodeDetails(&d); err != nil {
		return c, err
	}
	n := &d.Nodes[0]
	_, err := w.Create(ctx, n.File, nil, func(out io.Writer) error {
		f, err := r.from.Open(n.File)
		if err != nil {
			return err
		}
		defer f.Close()
		data, err := io.ReadAll(f)
		if err != nil {
			return err
		}
		copy(data, fmt.Sprintf("REDIS%04d", r.version))
		copy(data[len(data)-8:], make([]byte, 8)) // no checksum
		_, err = out.Write(data)
		return err
	})
	n.RDB.Version = r.version
	c.Bytes = 0
	if err := c.SetDetails(d); err != nil {
		return c, err
	}
	return c, err
}

// doubled is a Redis set whose file holds everything twice.
type doubled struct{ from *backup.Stored }

func (d doubled) Name() string                                  { return "redis" }
func (d doubled) Plan(context.Context) (backup.Estimate, error) { return backup.Estimate{}, nil }

func (d doubled) Backup(ctx context.Context, w *backup.Writer) (backup.Component, error) {
	c := d.from.Component
	var details redisdb.Details
	if err := c.DecodeDetails(&details); err != nil {
		return c, err
	}
	n := &details.Nodes[0]
	f, err := w.Create(ctx, n.File, nil, func(out io.Writer) error {
		f, err := d.from.Open(n.File)
		if err != nil {
			return err
		}
		defer f.Close()
		data, err := io.ReadAll(f)
		if err != nil {
			return err
		}
		// Header, body, body, end mark, no checksum.
		for _, p := range [][]byte{data[:len(data)-9], data[9 : len(data)-9], {0xff}, make([]byte, 8)} {
			if _, err := out.Write(p); err != nil {
				return err
			}
		}
		return nil
	})
	n.RDB.Keys, n.RDB.Functions, n.RDB.Size = 2*n.RDB.Keys, 2*n.RDB.Functions, f.Size
	c.Bytes, c.Items = 0, n.RDB.Keys
	if err := c.SetDetails(details); err != nil {
		return c, err
	}
	return c, err
}

// takePlain takes a set from any source.
func takePlain(t *testing.T, dir string, s backup.Source) *backup.Set {
	t.Helper()
	set, err := backup.Take(t.Context(), dir, backup.Options{}, s)
	if err != nil {
		t.Fatal(err)
	}
	return set
}

// tree describes every file below root.
func tree(t *testing.T, root string) map[string]string {
	t.Helper()
	out := map[string]string{}
	err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		data, err := os.ReadFile(p)
		out[p] = info.Mode().String() + info.ModTime().String() + string(data)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func stored(t *testing.T, set *backup.Set) *backup.Stored {
	t.Helper()
	st, ok := set.Component("redis")
	if !ok {
		t.Fatal("no component redis")
	}
	return st
}

// takeRedis backs up what the client leads to.
func takeRedis(t *testing.T, c redis.UniversalClient) *backup.Set {
	t.Helper()
	set, err := backup.Take(t.Context(), t.TempDir(), backup.Options{}, &redisdb.Source{Client: c})
	if err != nil {
		t.Fatal(err)
	}
	return set
}

func filled(t *testing.T, args ...string) (*redislab.Server, *backup.Set) {
	t.Helper()
	s := redislab.Start(t, args...)
	s.Fill()
	return s, takeRedis(t, s.Client())
}

// shared is one set of a filled server, for the tests that only read a set.
var shared struct {
	once sync.Once
	dir  string
	set  *backup.Set
}

func filledSet(t *testing.T) *backup.Set {
	t.Helper()
	shared.once.Do(func() {
		var err error
		if shared.dir, err = os.MkdirTemp("", "redis-set"); err != nil {
			t.Fatal(err)
		}
		s := redislab.Start(t)
		s.Fill()
		shared.set = takePlain(t, shared.dir, &redisdb.Source{Client: s.Client()})
	})
	if shared.set == nil {
		t.Fatal("the set of all tests could not be taken")
	}
	return shared.set
}

func offline(s *redislab.Server) redisdb.Server {
	return redisdb.Server{Client: s.Client(), Dir: s.Dir,
		Stop:  func(context.Context) error { s.Stop(); return nil },
		Start: func(context.Context) error { return s.StartE() }}
}

func TestMain(m *testing.M) {
	redis.SetLogger(quiet{})
	code := m.Run()
	_ = os.RemoveAll(shared.dir)
	os.Exit(code)
}

// quiet keeps the client library's log of servers that are being started out of the output.
type quiet struct{}

func (quiet) Printf(context.Context, string, ...any) {}
