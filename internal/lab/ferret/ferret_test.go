// Package ferret runs the MongoDB backup against FerretDB, a second server that speaks
// MongoDB's protocol. It is a module of its own, so that nobody who imports tykupgrade
// gets FerretDB. "make ferret" runs it.
package ferret

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"strings"
	"sync"
	"testing"

	"github.com/FerretDB/FerretDB/ferretdb"
	"go.mongodb.org/mongo-driver/bson"
	"go.mongodb.org/mongo-driver/mongo"
	"go.mongodb.org/mongo-driver/mongo/options"

	"example.com/tykupgrade/backup"
	"example.com/tykupgrade/backup/mongodb"
	mongolab "example.com/tykupgrade/internal/lab/mongo"
)

const database = "tyk_analytics"

// start runs FerretDB with SQLite in a directory of the test.
func start(t *testing.T) mongodb.Server {
	t.Helper()
	f, err := ferretdb.New(&ferretdb.Config{
		Listener:  ferretdb.ListenerConfig{TCP: "127.0.0.1:0"},
		Handler:   "sqlite",
		SQLiteURL: "file:" + t.TempDir() + "/",
		Logger:    slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- f.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("FerretDB: %v", err)
		}
	})
	return mongodb.Server{URI: f.MongoDBURI()}
}

// stub runs the stub that the other tests use.
func stub(t *testing.T) mongodb.Server {
	t.Helper()
	s, err := mongolab.Start(mongolab.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return mongodb.Server{URI: s.URI()}
}

func client(t *testing.T, s mongodb.Server) *mongo.Database {
	t.Helper()
	c, err := mongo.Connect(t.Context(), options.Client().ApplyURI(s.URI))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Disconnect(context.Background()) })
	return c.Database(database)
}

// fill writes what Tyk's dashboard keeps: definitions, keys with a unique index, a
// collection without documents, and one with an odd name.
func fill(t *testing.T, s mongodb.Server) {
	t.Helper()
	db := client(t, s)
	var keys []any
	for i := range 500 {
		keys = append(keys, bson.D{{Key: "_id", Value: int64(i)},
			{Key: "hash", Value: fmt.Sprintf("%064x", i)},
			{Key: "tags", Value: bson.A{"a", int32(i), 1.5, nil, true}}})
	}
	for name, docs := range map[string][]any{
		"keys":       keys,
		"apis":       {bson.D{{Key: "_id", Value: "a"}, {Key: "name", Value: "über"}}},
		"odd name-1": {bson.D{{Key: "_id", Value: 1}}},
	} {
		if _, err := db.Collection(name).InsertMany(t.Context(), docs); err != nil {
			t.Fatal(err)
		}
	}
	if err := db.CreateCollection(t.Context(), "empty"); err != nil {
		t.Fatal(err)
	}
	_, err := db.Collection("keys").Indexes().CreateMany(t.Context(), []mongo.IndexModel{
		{Keys: bson.D{{Key: "hash", Value: 1}}, Options: options.Index().SetUnique(true)},
		{Keys: bson.D{{Key: "tags", Value: 1}, {Key: "hash", Value: -1}}},
	})
	if err != nil {
		t.Fatal(err)
	}
}

func take(t *testing.T, s mongodb.Server) *backup.Set {
	t.Helper()
	set, err := backup.Take(t.Context(), t.TempDir(), backup.Options{}, &mongodb.Source{Server: s})
	if err != nil {
		t.Fatal(err)
	}
	return set
}

// digests are those of the documents by collection, in any order.
func digests(t *testing.T, set *backup.Set) map[string]string {
	t.Helper()
	var d mongodb.Details
	if err := set.Components[0].DecodeDetails(&d); err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	for _, c := range d.Collections {
		out[c.Name] = fmt.Sprint(c.Count, c.Bytes, c.Digest)
	}
	return out
}

func count(t *testing.T, s mongodb.Server, name string) int64 {
	t.Helper()
	n, err := client(t, s).Collection(name).CountDocuments(t.Context(), bson.D{})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// What is dumped of FerretDB comes back to another FerretDB, to the stub, and from the
// stub to FerretDB, with its indexes.
func TestThereAndBack(t *testing.T) {
	from := start(t)
	fill(t, from)
	set := take(t, from)
	c := set.Components[0]
	t.Logf("%s, %s: consistency %q, %d documents, warnings %q", c.Server, c.Topology,
		c.Consistency, c.Items, c.Warnings)
	if c.Items != 502 || c.Consistency != backup.ConsistencyNone {
		t.Errorf("%d documents, consistency %q", c.Items, c.Consistency)
	}
	live := func(s mongodb.Server, set *backup.Set) {
		t.Helper()
		if err := set.Verify(t.Context(), backup.VerifyOptions{Level: backup.LevelLive,
			Against: []backup.Prover{&mongodb.Source{Server: s}}}); err != nil {
			t.Error(err)
		}
	}
	live(from, set)
	other := start(t)
	into := func(s mongodb.Server, set *backup.Set) error {
		_, err := set.Restore(t.Context(), backup.RestoreOptions{}, &mongodb.Restore{Server: s})
		return err
	}
	if err := into(other, set); err != nil {
		t.Fatal(err)
	}
	live(other, set)
	if err := into(other, set); !errors.Is(err, backup.ErrNotEmpty) {
		t.Errorf("a second time: %v", err)
	}
	at := stub(t)
	if err := into(at, set); err != nil {
		t.Fatal(err)
	}
	live(at, set)
	again := take(t, at)
	if a, b := digests(t, set), digests(t, again); len(a) != 4 || !maps.Equal(a, b) {
		t.Errorf("FerretDB's dump and the stub's differ:\n%v\n%v", a, b)
	}
	third := start(t)
	if err := into(third, again); err != nil {
		t.Fatal(err)
	}
	live(third, again)
	if n := count(t, third, "keys"); n != 500 {
		t.Errorf("%d keys", n)
	}
}

// Replace puts the restored collections in place of changed ones, and Undo puts those
// back, also through FerretDB's renames.
func TestReplaceAndUndo(t *testing.T) {
	s := start(t)
	fill(t, s)
	set := take(t, s)
	if _, err := client(t, s).Collection("keys").DeleteMany(t.Context(),
		bson.D{{Key: "_id", Value: bson.D{{Key: "$gte", Value: int64(10)}}}}); err != nil {
		t.Fatal(err)
	}
	to := &mongodb.Restore{Server: s, Mode: mongodb.Replace}
	if report, err := set.Restore(t.Context(), backup.RestoreOptions{Keep: true}, to); err != nil {
		t.Fatalf("%v %+v", err, report)
	}
	if n := count(t, s, "keys"); n != 500 {
		t.Errorf("%d keys after the restore", n)
	}
	if _, err := set.Undo(t.Context(), to); err != nil {
		t.Fatal(err)
	}
	if n := count(t, s, "keys"); n != 10 {
		t.Errorf("%d keys after Undo", n)
	}
	left, err := mongodb.Leftovers(t.Context(), s)
	if err != nil || len(left) > 0 {
		t.Errorf("left %+v, %v", left, err)
	}
	if _, err := set.Restore(t.Context(), backup.RestoreOptions{}, to); err != nil {
		t.Fatal(err)
	}
	if n := count(t, s, "keys"); n != 500 {
		t.Errorf("%d keys after the second restore", n)
	}
}

// A document that a dump without a snapshot holds twice comes back once, in its later
// version.
func TestDuplicates(t *testing.T) {
	from, err := mongolab.Start(mongolab.Options{Standalone: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(from.Close)
	at := mongodb.Server{URI: from.URI()}
	fill(t, at)
	keys := client(t, at).Collection("keys")
	var once sync.Once
	from.Hook(func(q mongolab.Command) mongolab.Fault {
		if q.Name == "getMore" && q.Target == "keys" {
			once.Do(func() {
				if _, err := keys.DeleteOne(t.Context(), bson.D{{Key: "_id", Value: int64(3)}}); err != nil {
					t.Error(err)
				}
				if _, err := keys.InsertOne(t.Context(), bson.D{{Key: "_id", Value: int64(3)},
					{Key: "hash", Value: "later"}}); err != nil {
					t.Error(err)
				}
			})
		}
		return mongolab.Fault{}
	})
	set := take(t, at)
	from.Hook(nil)
	if n := set.Components[0].Items; n != 503 {
		t.Fatalf("%d documents: none was read twice", n)
	}
	to := start(t)
	if _, err := set.Restore(t.Context(), backup.RestoreOptions{},
		&mongodb.Restore{Server: to}); err != nil {
		t.Fatal(err)
	}
	var got struct{ Hash string }
	err = client(t, to).Collection("keys").FindOne(t.Context(),
		bson.D{{Key: "_id", Value: int64(3)}}).Decode(&got)
	if n := count(t, to, "keys"); err != nil || n != 500 || got.Hash != "later" {
		t.Errorf("%d keys, %+v, %v", n, got, err)
	}
}

// What FerretDB 1.24 does not take is refused with the name of the collection and the
// next step, and nothing is left.
func TestRefused(t *testing.T) {
	at := stub(t)
	db := client(t, at)
	for _, c := range []struct{ name, command, what string }{
		{"ttl", "createIndexes", "index"}, {"checked", "create", "options"},
	} {
		cmd := bson.D{{Key: c.command, Value: c.name},
			{Key: "validator", Value: bson.D{{Key: "a", Value: 1}}}}
		if c.command == "createIndexes" {
			cmd[1] = bson.E{Key: "indexes", Value: bson.A{bson.D{{Key: "name", Value: "ttl"},
				{Key: "key", Value: bson.D{{Key: "at", Value: 1}}}, {Key: "expireAfterSeconds", Value: 0}}}}
		}
		if err := db.RunCommand(t.Context(), cmd).Err(); err != nil {
			t.Fatal(err)
		}
		set, err := backup.Take(t.Context(), t.TempDir(), backup.Options{},
			&mongodb.Source{Server: at, Include: []string{"*." + c.name}})
		if err != nil {
			t.Fatal(err)
		}
		ferret := start(t)
		_, err = set.Restore(t.Context(), backup.RestoreOptions{}, &mongodb.Restore{Server: ferret})
		var e *backup.Error
		if !errors.As(err, &e) || !strings.Contains(err.Error(), c.name) ||
			!strings.Contains(err.Error(), c.what) || e.Hint() == "" {
			t.Errorf("%s: %v", c.name, err)
		}
		if left, err := mongodb.Leftovers(t.Context(), ferret); err != nil || len(left) > 0 {
			t.Errorf("%s: left %+v, %v", c.name, left, err)
		}
		to := &mongodb.Restore{Server: ferret, NoIndexes: true, NoOptions: true}
		if _, err := set.Restore(t.Context(), backup.RestoreOptions{}, to); err != nil {
			t.Errorf("%s: without indexes and options: %v", c.name, err)
		}
	}
}
