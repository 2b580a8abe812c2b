package mongodb_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.mongodb.org/mongo-driver/bson"

	"example.com/tykupgrade/backup"
	"example.com/tykupgrade/backup/mongodb"
	mongolab "example.com/tykupgrade/internal/lab/mongo"
)

// smallMongo is a server with one database of two collections.
func smallMongo(t testing.TB, o mongolab.Options) *mongolab.Server {
	t.Helper()
	return mongoWith(t, o, 500)
}

// mongoWith has 14 APIs and a number of keys: few where a test restores often.
func mongoWith(t testing.TB, o mongolab.Options, keys int) *mongolab.Server {
	t.Helper()
	s := mongoServer(t, o)
	s.Fill("tyk_analytics", "apis", 14, func(i int) bson.Raw {
		return doc(t, bson.D{{Key: "_id", Value: i}, {Key: "name", Value: fmt.Sprintf("api number %d",
			i)}})
	})
	s.Fill("tyk_analytics", "keys", keys, func(i int) bson.Raw {
		return doc(t, bson.D{{Key: "_id", Value: i}, {Key: "text", Value: strings.Repeat("x", i)}})
	})
	return s
}

func uri(s *mongolab.Server) mongodb.Server { return mongodb.Server{URI: s.URI()} }

// plainDump writes the tree that mongodump would write, and returns its path.
func plainDump(t testing.TB, s *mongolab.Server, gzip bool) string {
	t.Helper()
	set, err := backup.Take(t.Context(), t.TempDir(), backup.Options{}, &mongodb.Source{Server: uri(s),
		Plain: !gzip})
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "dump")
	if err := os.CopyFS(dir, os.DirFS(filepath.Join(set.Dir, "mongo"))); err != nil {
		t.Fatal(err)
	}
	return dir
}

// reopen opens a dump and, where that works, restores it to an empty server.
func reopen(t testing.TB, dir string) error {
	t.Helper()
	dump, err := mongodb.OpenDump(t.Context(), dir, mongodb.DumpOptions{})
	if err != nil {
		return err
	}
	to := mongoServer(t, mongolab.Options{})
	_, err = dump.Restore(t.Context(), backup.RestoreOptions{}, &mongodb.Restore{Server: uri(to)})
	return err
}

// The eleven cases in which mongodump or mongorestore report success although
// data is lost, or worse (mongo-tools 100.18). Each is an error here.
func TestFailures(t *testing.T) {
	t.Parallel()
	wantErr := func(t *testing.T, err error, is error, texts ...string) {
		t.Helper()
		if err == nil {
			t.Fatal("no error")
		}
		if is != nil && !errors.Is(err, is) {
			t.Errorf("error %v does not match %v", err, is)
		}
		for _, x := range texts {
			if !strings.Contains(err.Error(), x) {
				t.Errorf("error %q does not say %q", err, x)
			}
		}
	}
	take := func(t *testing.T, m *mongodb.Source) error {
		dir := t.TempDir()
		_, err := backup.Take(t.Context(), dir, backup.Options{}, m)
		if sets, _ := backup.List(dir); len(sets) > 0 {
			t.Errorf("a set is there: %s", sets[0].Dir)
		}
		return err
	}
	remove := func(t *testing.T, path string) {
		t.Helper()
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}

	t.Run("1 database or collection that does not exist", func(t *testing.T) {
		t.Parallel()
		s := smallMongo(t, mongolab.Options{})
		wantErr(t, take(t, &mongodb.Source{Server: uri(s), Databases: []string{"tyk_analitics"}}), nil,
			"tyk_analitics", "does not exist")
		wantErr(t, take(t, &mongodb.Source{Server: uri(s), Include: []string{"tyk_analytics.apps"}}), nil,
			"tyk_analytics.apps", "no collection has such a name")
		wantErr(t, take(t, &mongodb.Source{Server: uri(s), Exclude: []string{"*.*"}}), nil,
			"every collection is excluded")
	})
	t.Run("2 stopped in the middle", func(t *testing.T) {
		t.Parallel()
		s := smallMongo(t, mongolab.Options{})
		stopped := errors.New("stopped by the operator")
		ctx, cancel := context.WithCancelCause(t.Context())
		s.Hook(func(c mongolab.Command) mongolab.Fault {
			if c.Name == "getMore" {
				cancel(stopped)
				return mongolab.Fault{Wait: t.Context().Done()}
			}
			return mongolab.Fault{}
		})
		dir := t.TempDir()
		_, err := backup.Take(ctx, dir, backup.Options{}, &mongodb.Source{Server: uri(s)})
		wantErr(t, err, stopped)
		wantErr(t, err, context.Canceled)
		left, err := filepath.Glob(filepath.Join(dir, "*T*Z*"))
		if err != nil || len(left) > 0 {
			t.Errorf("left over: %q %v", left, err)
		}
		// mongodump's own remains: files that end between two documents, no prelude.
		dump := plainDump(t, s2(t), false)
		remove(t, filepath.Join(dump, "tyk_analytics", "prelude.json"))
		wantErr(t, reopen(t, dump), backup.ErrDamaged, "prelude.json", "interrupted")
	})
	t.Run("3 killed before the first flush", func(t *testing.T) {
		t.Parallel()
		dump := plainDump(t, s2(t), false)
		remove(t, filepath.Join(dump, "tyk_analytics", "prelude.json"))
		if err := os.Truncate(filepath.Join(dump, "tyk_analytics", "keys.bson"), 0); err != nil {
			t.Fatal(err)
		}
		wantErr(t, reopen(t, dump), backup.ErrDamaged, "prelude.json")
	})
	t.Run("4 and 5 cut at a boundary and a byte changed in a string", func(t *testing.T) {
		t.Parallel()
		s := smallMongo(t, mongolab.Options{})
		for _, damage := range []func([]byte) []byte{
			func(b []byte) []byte { return b[:len(b)-len(s.Documents("tyk_analytics", "keys")[499])] },
			func(b []byte) []byte { b[bytes.LastIndexByte(b, 'x')] = 'y'; return b },
		} {
			set, err := backup.Take(t.Context(), t.TempDir(), backup.Options{},
				&mongodb.Source{Server: uri(s), Plain: true})
			if err != nil {
				t.Fatal(err)
			}
			file := filepath.Join(set.Dir, "mongo", "tyk_analytics", "keys.bson")
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(file, damage(data), 0o600); err != nil {
				t.Fatal(err)
			}
			to := mongoServer(t, mongolab.Options{})
			_, err = set.Restore(t.Context(), backup.RestoreOptions{}, &mongodb.Restore{Server: uri(to)})
			wantErr(t, err, backup.ErrDamaged, "keys.bson", "nothing was changed")
			if c := to.Collections("tyk_analytics"); len(c) > 0 {
				t.Errorf("written although damaged: %q", c)
			}
		}
	})
	t.Run("6 documents missing", func(t *testing.T) {
		t.Parallel()
		dump := plainDump(t, s2(t), false)
		remove(t, filepath.Join(dump, "tyk_analytics", "keys.bson"))
		wantErr(t, reopen(t, dump), backup.ErrDamaged, "keys.bson is missing")
	})
	t.Run("7 metadata missing", func(t *testing.T) {
		t.Parallel()
		dump := plainDump(t, s2(t), true)
		remove(t, filepath.Join(dump, "tyk_analytics", "keys.metadata.json.gz"))
		wantErr(t, reopen(t, dump), backup.ErrDamaged, "keys.metadata.json", "is missing")
	})
	t.Run("8 compressed or not, a level too deep or too high, empty", func(t *testing.T) {
		t.Parallel()
		for _, gzip := range []bool{true, false} {
			dump := plainDump(t, s2(t), gzip)
			if err := reopen(t, dump); err != nil { // found without a message
				t.Error(err)
			}
			wantErr(t, reopen(t, filepath.Join(dump, "tyk_analytics")), nil, "name the directory above")
			wantErr(t, reopen(t, filepath.Dir(dump)), nil,
				"name the directory that was given to mongodump --out")
		}
		wantErr(t, reopen(t, t.TempDir()), nil, "empty")
		wantErr(t, reopen(t, filepath.Join(t.TempDir(), "nothing")), fs.ErrNotExist)
		mixed := plainDump(t, s2(t), false)
		if err := os.CopyFS(filepath.Join(mixed, "tyk_analytics"),
			os.DirFS(filepath.Join(plainDump(t, s2(t), true), "tyk_analytics"))); err != nil {
			t.Fatal(err)
		}
		wantErr(t, reopen(t, mixed), nil, "remains of two dumps")
	})
	t.Run("10 wrong credentials", func(t *testing.T) {
		t.Parallel()
		s := smallMongo(t, mongolab.Options{User: "tyk", Password: "right"})
		const secret = "s3cr%2Ft-word"
		at := strings.Replace(s.URI(), "mongodb://", "mongodb://tyk:"+secret+"@", 1)
		for _, server := range []mongodb.Server{
			{URI: at}, {URI: strings.Replace(s.URI(), "mongodb://", "mongodb://tyk@", 1),
				Password: "s3cr/t-word"},
			{URI: at + "&authMechanism=NONSENSE"}, {URI: strings.Replace(at, "%2F", "/", 1)},
			{URI: strings.Replace(at, "%2F", "%2", 1)},
			{URI: strings.Replace(at, "mongodb:", "mongo:", 1)}, {URI: strings.Replace(at, "127.0.0.1",
				"a b", 1) + "&serverSelectionTimeoutMS=200"}, {URI: "mongodb://tyk:" + secret + "@"},
			{URI: at + "&tlsCAFile=/nonexistent/s3cr%2Ft-word"},
		} {
			err := take(t, &mongodb.Source{Server: server})
			wantErr(t, err, nil)
			for e := err; e != nil; e = errors.Unwrap(e) {
				for _, part := range []string{"s3cr", "t-word", "%2t"} {
					if strings.Contains(e.Error(), part) {
						t.Errorf("the error shows the password: %v", e)
					}
				}
			}
		}
		wantErr(t, take(t, &mongodb.Source{Server: mongodb.Server{URI: at}}), nil,
			"check user, password and authSource")
	})
	t.Run("11 readable by others", func(t *testing.T) {
		t.Parallel()
		set, err := backup.Take(t.Context(), t.TempDir(), backup.Options{},
			&mongodb.Source{Server: uri(smallMongo(t, mongolab.Options{}))})
		if err != nil {
			t.Fatal(err)
		}
		err = filepath.WalkDir(set.Dir, func(p string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			info, err := d.Info()
			if err == nil && info.Mode().Perm()&0o077 != 0 {
				t.Errorf("%s has mode %v", p, info.Mode())
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	})
}

func s2(t testing.TB) *mongolab.Server { return smallMongo(t, mongolab.Options{}) }
