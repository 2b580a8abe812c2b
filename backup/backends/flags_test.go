package backends_test

import (
	"errors"
	"flag"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"go.mongodb.org/mongo-driver/mongo/readpref"

	"example.com/tykupgrade/backup/backends"
	"example.com/tykupgrade/backup/mongodb"
	"example.com/tykupgrade/backup/postgres"
	"example.com/tykupgrade/backup/redisdb"
)

// parse returns what the flags of a verb say.
func parse(register func(*backends.Flags, *flag.FlagSet), env map[string]string,
	args ...string) (backends.Config, error) {
	var f backends.Flags
	fs := flag.NewFlagSet("", flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	register(&f, fs)
	if err := fs.Parse(args); err != nil {
		return backends.Config{}, err
	}
	return f.Config("TEST", func(name string) string { return env[name] })
}

func secretFile(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// Each flag reaches its field.
func TestFlags(t *testing.T) {
	t.Parallel()
	uri := secretFile(t, " redis://r \n")
	env := map[string]string{"TEST_REDIS_URI": "redis://e", "TEST_MONGODB_URI": "mongodb://u@m",
		"TEST_MONGODB_PASSWORD": "mp", "TEST_POSTGRES_URI": "postgresql://p",
		"TEST_POSTGRES_PASSWORD": "pp"}
	take := (*backends.Flags).Take
	secondary, err := readpref.New(readpref.SecondaryMode)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		register func(*backends.Flags, *flag.FlagSet)
		args     string
		want     backends.Config
	}{
		{take, "", backends.Config{}},
		{take, "-config -config-name c -root /r -path /a -path /b", backends.Config{Files: []backends.Files{
			{Component: "c", Root: "/r", Paths: []string{"/a", "/b"}}}}},
		{(*backends.Flags).Restore, "-config -only /a -replace", backends.Config{Files: []backends.Files{
			{Only: []string{"/a"}}}}},
		{take, "-redis -redis-uri-file " + uri + " -redis-ca ca -redis-cert c -redis-key k -redis-name n " +
			"-redis-command psync=x -redis-command SAVE=y -redis-method save -redis-stale -redis-rdb d",
			backends.Config{Redis: &backends.Redis{Component: "n", URI: "redis://r", CA: "ca", Cert: "c",
				Key: "k", Commands: map[string]string{"PSYNC": "x", "SAVE": "y"}, Method: redisdb.SAVE,
				AllowStale: true, Path: "d"}}},
		{(*backends.Flags).Restore, "-redis -replace -redis-mode offline -redis-dir d -redis-unit u " +
			"-redis-sample 3", backends.Config{Redis: &backends.Redis{URI: "redis://e", Sample: 3,
			Commands: map[string]string{}, Replace: true, Offline: true, Dir: "d", Unit: "u"}}},
		{take, "-mongo -mongo-name n -mongo-db a -mongo-include i -mongo-exclude e -mongo-read secondary " +
			"-mongo-snapshot never -mongo-plain -mongo-parallel 2", backends.Config{Mongo: &backends.Mongo{
			Component: "n", Server: mongodb.Server{URI: "mongodb://u@m", Password: "mp"},
			Include: []string{"i"}, Exclude: []string{"e"}, Parallel: 2, Databases: []string{"a"},
			ReadPreference: secondary, Snapshot: mongodb.SnapshotNever, Plain: true}}},
		{(*backends.Flags).Restore, "-mongo -replace -mongo-no-indexes -mongo-no-options -mongo-drop-extra",
			backends.Config{Mongo: &backends.Mongo{Server: mongodb.Server{URI: "mongodb://u@m",
				Password: "mp"}, Mode: mongodb.Replace, NoIndexes: true, NoOptions: true, DropExtra: true}}},
		{(*backends.Flags).Restore, "-mongo -replace -mongo-mode new", backends.Config{
			Mongo: &backends.Mongo{Server: mongodb.Server{URI: "mongodb://u@m", Password: "mp"}}}},
		{(*backends.Flags).Undo, "-mongo -mongo-drop-extra", backends.Config{Mongo: &backends.Mongo{
			Server: mongodb.Server{URI: "mongodb://u@m", Password: "mp"}, DropExtra: true}}},
		{(*backends.Flags).RestoreDump, "-mongo -mongo-mode drop -mongo-no-prelude", backends.Config{
			Mongo: &backends.Mongo{Server: mongodb.Server{URI: "mongodb://u@m", Password: "mp"},
				Mode: mongodb.Drop, NoPrelude: true}}},
		{(*backends.Flags).Restore, "-postgres -replace -postgres-name n -postgres-bin b -postgres-db a " +
			"-postgres-end-clients -postgres-no-owner", backends.Config{Postgres: &backends.Postgres{
			Component: "n", Server: postgres.Server{URI: "postgresql://p", Password: "pp", Bin: "b"},
			Databases: []string{"a"}, NoOwner: true, Replace: true, EndClients: true}}},
	} {
		got, err := parse(c.register, env, strings.Fields(c.args)...)
		if err != nil || !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s: got %+v, %v, want %+v", c.args, got, err, c.want)
		}
	}
	service, err := parse(take, nil, "-postgres", "-postgres-service", "s")
	if err != nil || service.Postgres.Server.Service != "s" {
		t.Errorf("a service needs no URI: %+v, %v", service, err)
	}
}

// Wrong flags are refused with what was wanted.
func TestWrongFlags(t *testing.T) {
	t.Parallel()
	take, restore := (*backends.Flags).Take, (*backends.Flags).Restore
	env := map[string]string{"TEST_REDIS_URI": "redis://e", "TEST_MONGODB_URI": "mongodb://m"}
	for _, c := range []struct {
		register func(*backends.Flags, *flag.FlagSet)
		args     string
		want     string
	}{
		{take, "-redis -redis-method odd", "want psync, bgsave, save or dump"},
		{take, "-redis -redis-method=", "want psync, bgsave, save or dump"},
		{take, "-redis -redis-command PSYNC", "invalid -redis-command"},
		{take, "-redis -redis-uri-file /nowhere", "/nowhere: no such file"},
		{take, "-postgres", "-postgres needs a URI in TEST_POSTGRES_URI or -postgres-uri-file"},
		{take, "-mongo -mongo-read all", "want primary, primaryPreferred, secondary, secondaryPreferred or"},
		{take, "-mongo -mongo-snapshot maybe", "want if-possible, required or never"},
		{take, "-redis-mode live", "not defined"},
		{restore, "-mongo -mongo-mode merge", "want new, replace or drop"},
		{restore, "-mongo -mongo-drop-extra", "-mongo-drop-extra goes with -mongo-mode replace or drop"},
		{restore, "-redis -redis-mode dead", "want live or offline"},
		{(*backends.Flags).Leftovers, "-redis", "not defined"},
		{(*backends.Flags).Compare, "-redis-method psync", "not defined"},
	} {
		_, err := parse(c.register, env, strings.Fields(c.args)...)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %q", c.args, err, c.want)
		}
	}
}

// A registration forgets what an earlier one parsed, so that the verbs of a command can share Flags.
func TestFlagsAgain(t *testing.T) {
	t.Parallel()
	var f backends.Flags
	first := flag.NewFlagSet("", flag.ContinueOnError)
	f.Take(first)
	if err := first.Parse([]string{"-config", "-path", "/a"}); err != nil || f.None() {
		t.Fatal(err, f.None())
	}
	f.Restore(flag.NewFlagSet("", flag.ContinueOnError))
	if c, err := f.Config("", os.Getenv); err != nil || !f.None() || len(c.Files) > 0 {
		t.Errorf("%+v, %v", c, err)
	}
}

func TestChooseDump(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := filepath.Join(dir, "dump.rdb")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		path         string
		redis, mongo bool // before
		want         bool // Redis
	}{{file, false, false, true}, {dir, false, false, false}, {dir, true, false, true},
		{file, false, true, false}, {file, true, true, true}} {
		f := backends.Flags{Redis: c.redis, Mongo: c.mongo}
		if err := f.ChooseDump(c.path); err != nil || f.Redis != c.want || f.Mongo == c.want {
			t.Errorf("%+v: %+v, %v", c, f, err)
		}
	}
	if err := new(backends.Flags).ChooseDump(filepath.Join(dir, "none")); !errors.Is(err,
		os.ErrNotExist) {
		t.Error(err)
	}
}
