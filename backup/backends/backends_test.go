package backends_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.mongodb.org/mongo-driver/bson"

	"example.com/tykupgrade/backup"
	"example.com/tykupgrade/backup/backends"
	"example.com/tykupgrade/backup/mongodb"
	"example.com/tykupgrade/backup/postgres"
	mongolab "example.com/tykupgrade/internal/lab/mongo"
	postgreslab "example.com/tykupgrade/internal/lab/postgres"
	redislab "example.com/tykupgrade/internal/lab/redis"
)

func mongoServer(t *testing.T) *mongolab.Server {
	t.Helper()
	s, err := mongolab.Start(mongolab.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

func document(t *testing.T, id int) bson.Raw {
	t.Helper()
	raw, err := bson.Marshal(bson.D{{Key: "_id", Value: id}})
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text),
		0o640)); err != nil {
		t.Fatal(err)
	}
}

// One set holds files and three databases. It is compared, restored and undone.
func TestThereAndBack(t *testing.T) {
	t.Parallel()
	r, m, p := redislab.Start(t), mongoServer(t), postgreslab.Start(t)
	root := t.TempDir()
	conf := filepath.Join(root, "opt/tyk-pump/pump.conf")
	fill := func(value string) {
		t.Helper()
		write(t, conf, value)
		r.Do("SET", "key", value)
		m.Insert("tyk_analytics", "apis", document(t, len(value)))
		p.SQL(t, "tyk_analytics", "INSERT INTO apis VALUES ('"+value+"')")
	}
	p.SQL(t, "postgres", "CREATE DATABASE tyk_analytics")
	p.SQL(t, "tyk_analytics", "CREATE TABLE apis (doc text)")
	is := func(value string, documents int) {
		t.Helper()
		if data, err := os.ReadFile(conf); err != nil || string(data) != value {
			t.Errorf("pump.conf is %q, %v, want %q", data, err, value)
		}
		if got := r.Do("GET", "key"); got != value {
			t.Errorf("the key is %v, want %q", got, value)
		}
		if got := len(m.Documents("tyk_analytics", "apis")); got != documents {
			t.Errorf("%d documents, want %d", got, documents)
		}
		if got := p.SQL(t, "tyk_analytics", "SELECT count(*) FROM apis"); got != fmt.Sprint(
			documents) {
			t.Errorf("%s rows, want %d", got, documents)
		}
	}
	fill("a")
	b, err := backends.Open(backends.Config{Files: []backends.Files{{Root: root}},
		Redis: &backends.Redis{URI: "redis://" + r.Addr, Replace: true},
		Mongo: &backends.Mongo{Server: mongodb.Server{URI: m.URI()}, Mode: mongodb.Replace},
		Postgres: &backends.Postgres{Server: postgres.Server{URI: p.Database("tyk_analytics")},
			Replace: true, EndClients: true}})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	dir := t.TempDir()
	set, err := backup.Take(t.Context(), filepath.Join(dir, "sets"), backup.Options{}, b.Sources()...)
	if err != nil {
		t.Fatal(err)
	}
	live := backup.VerifyOptions{Level: backup.LevelLive, Against: b.Provers()}
	if err := set.Verify(t.Context(), live); err != nil || len(live.Against) != 4 {
		t.Errorf("%d systems are compared: %v", len(live.Against), err)
	}
	fill("bb")
	if err := set.Verify(t.Context(), live); !errors.Is(err, backup.ErrDiffers) {
		t.Errorf("the changed systems pass: %v", err)
	}
	rescue := filepath.Join(dir, "rescued")
	report, err := set.Restore(t.Context(), backup.RestoreOptions{Keep: true}, b.Restorers(rescue)...)
	if err != nil {
		t.Fatalf("%v\n%s", err, report)
	}
	is("a", 1)
	if left, err := b.Leftovers(t.Context(), backup.Policy{DryRun: true}); err != nil || len(left) != 1 {
		t.Errorf("what was replaced is listed as %v, %v", left, err)
	}
	if report, err := set.Undo(t.Context(), b.Restorers(rescue)...); err != nil {
		t.Fatalf("%v\n%s", err, report)
	}
	is("bb", 2)
	if left, err := b.Leftovers(t.Context(), backup.Policy{DryRun: true}); err != nil || len(left) > 0 {
		t.Errorf("%v, %v", left, err)
	}
}

// Wrong settings are refused before anything is connected.
func TestOpenRefuses(t *testing.T) {
	t.Parallel()
	text := filepath.Join(t.TempDir(), "text")
	write(t, text, "text")
	run := func(context.Context, []string, io.Reader, io.Writer, io.Writer) error { return nil }
	for _, c := range []struct {
		conf backends.Config
		want string
	}{
		{backends.Config{Files: []backends.Files{{Root: "/", Runner: run}}}, "both Root and Runner"},
		{backends.Config{Redis: &backends.Redis{URI: "host:6379"}}, "write it as redis://"},
		{backends.Config{Redis: &backends.Redis{URI: "redis://h", CA: text}}, "no certificate"},
		{backends.Config{Redis: &backends.Redis{URI: "redis://h", CA: text + "2"}}, "no such file"},
		{backends.Config{Redis: &backends.Redis{URI: "redis://h", Cert: text}}, "a certificate and its key"},
		{backends.Config{Redis: &backends.Redis{URI: "redis+cluster://h", Offline: true}}, "one server"},
		{backends.Config{Mongo: &backends.Mongo{}}, "write it as mongodb://"},
		{backends.Config{Mongo: &backends.Mongo{Server: mongodb.Server{URI: "mongodb://h",
			Password: "secret"}}}, "has no user"},
		{backends.Config{Mongo: &backends.Mongo{Server: mongodb.Server{URI: "mongodb+srv://h:x"}}},
			"a host of the URI"},
		{backends.Config{Mongo: &backends.Mongo{Server: mongodb.Server{URI: "mongodb://h/?authMechanism=NONSENSE"}}},
			"authMechanism"},
		{backends.Config{Postgres: &backends.Postgres{Server: postgres.Server{URI: "http://h"}}},
			"the connection URI"},
	} {
		b, err := backends.Open(c.conf)
		if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "secret") {
			t.Errorf("got %v, want %q", err, c.want)
		}
		if b != nil {
			t.Error("backends are open after an error")
		}
	}
	b, err := backends.Open(backends.Config{Redis: &backends.Redis{URI: "redis://h"}, Mongo: &backends.Mongo{
		Server: mongodb.Server{URI: "mongodb+srv://cluster.example/?srvMaxHosts=2"}}})
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Close(); err != nil {
		t.Error(err)
	}
}

// A dump belongs to the one database that is configured, or to the one that its form names.
func TestRestoreDump(t *testing.T) {
	t.Parallel()
	r := redislab.Start(t)
	r.Do("SET", "key", "value")
	r.Do("SAVE")
	dump := filepath.Join(r.Dir, "dump.rdb")
	r.Do("FLUSHALL")
	b, err := backends.Open(backends.Config{Redis: &backends.Redis{URI: "redis://" + r.Addr},
		Mongo: &backends.Mongo{Server: mongodb.Server{URI: "mongodb://127.0.0.1:1"}}})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	rescue := filepath.Join(t.TempDir(), "rescued")
	report, err := b.RestoreDump(t.Context(), dump, rescue, backup.RestoreOptions{})
	if err != nil || report.Components[0].State != backup.StateVerified || r.Do("GET", "key") != "value" {
		t.Errorf("%v\n%s", err, report)
	}
	if report, err := b.RestoreDump(t.Context(), dump, rescue, backup.RestoreOptions{}); !errors.Is(err,
		backup.ErrNotEmpty) || !report.Untouched() {
		t.Errorf("%v\n%s", err, report)
	}
	if _, err := b.RestoreDump(t.Context(), t.TempDir(), "", backup.RestoreOptions{}); err == nil ||
		!strings.Contains(err.Error(), "open ") {
		t.Errorf("an empty directory is a dump of MongoDB: %v", err)
	}
	if _, err := b.RestoreDump(t.Context(), dump+"2", "", backup.RestoreOptions{}); !errors.Is(err,
		os.ErrNotExist) {
		t.Error(err)
	}
	none, err := backends.Open(backends.Config{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := none.RestoreDump(t.Context(), dump, "", backup.RestoreOptions{}); err == nil ||
		!strings.Contains(err.Error(), "neither Redis nor MongoDB") {
		t.Error(err)
	}
	if left, err := none.Leftovers(t.Context(), backup.Policy{}); err != nil || left != nil {
		t.Errorf("%v, %v", left, err)
	}
}
