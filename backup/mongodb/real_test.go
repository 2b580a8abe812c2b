package mongodb_test

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"testing"
	"time"

	"go.mongodb.org/mongo-driver/bson"
	"go.mongodb.org/mongo-driver/bson/primitive"
	"go.mongodb.org/mongo-driver/mongo"
	"go.mongodb.org/mongo-driver/mongo/options"

	"example.com/tykupgrade/backup"
	"example.com/tykupgrade/backup/mongodb"
	"example.com/tykupgrade/internal/lab"
	mongolab "example.com/tykupgrade/internal/lab/mongo"
)

// realMongoEnv names a MongoDB server, 5.0 or newer, that tests may write to:
// they use databases of their own and drop them.
const realMongoEnv = "TYKUPGRADE_TEST_MONGODB_URI"

// What nothing but a server can answer, asked of a real one where there is one,
// and of the fake server always, so that the test itself is tested.
func TestServer(t *testing.T) {
	t.Parallel()
	t.Run("stub", func(t *testing.T) {
		t.Parallel()
		onServer(t, mongoServer(t, mongolab.Options{}).URI())
	})
	t.Run("real", func(t *testing.T) {
		t.Parallel()
		at := os.Getenv(realMongoEnv)
		if at == "" {
			lab.Unavailable(t, "a MongoDB server: "+realMongoEnv+" is not set")
		}
		onServer(t, at)
	})
}

func onServer(t *testing.T, at string) {
	c, err := mongo.Connect(t.Context(), options.Client().ApplyURI(at))
	if err != nil {
		t.Fatal(err)
	}
	token := make([]byte, 4)
	_, _ = rand.Read(token)
	db := "tykupgrade_test_" + hex.EncodeToString(token)
	ctx := t.Context()
	t.Cleanup(func() {
		_ = c.Database(db).RunCommand(t.Context(), bson.D{{Key: "dropDatabase", Value: 1}}).Err()
		_ = c.Disconnect(t.Context())
	})
	insert := func(coll string, docs ...any) {
		t.Helper()
		if _, err := c.Database(db).Collection(coll).InsertMany(ctx, docs); err != nil {
			t.Fatal(err)
		}
	}
	collation := bson.D{{Key: "locale", Value: "de"}, {Key: "strength", Value: 2}}
	insert("types", bson.D{{Key: "_id", Value: 1}, {Key: "decimal",
		Value: primitive.NewDecimal128(0x3040_0000_0000_0000, 100)}, {Key: "regex",
		Value: primitive.Regex{Pattern: "a", Options: "i"}},
		{Key: "min", Value: primitive.MinKey{}}, {Key: "code", Value: primitive.CodeWithScope{Code: "f()",
			Scope: bson.D{{Key: "a", Value: 1}}}}, {Key: "symbol", Value: primitive.Symbol("s")},
		{Key: "time", Value: primitive.Timestamp{T: 1, I: 2}}, {Key: "old binary",
			Value: primitive.Binary{Subtype: 2, Data: []byte{1}}}, {Key: "inner", Value: bson.D{{Key: "zero",
			Value: primitive.Timestamp{}}}}})
	insert("a b/c%d:ü", bson.D{{Key: "_id", Value: "x"}})
	var many []any
	for i := range 5000 {
		many = append(many, bson.D{{Key: "n", Value: i},
			{Key: "at", Value: time.Now().Add(10000 * time.Hour)}, {Key: "t", Value: fmt.Sprint("text ", i)},
			{Key: "g", Value: bson.D{{Key: "type", Value: "Point"}, {Key: "coordinates", Value: bson.A{1.5,
				2.5}}}}})
	}
	insert("indexed", many...)
	mongoRun(t, c, db, bson.D{{Key: "createIndexes", Value: "indexed"}, {Key: "indexes", Value: bson.A{
		bson.D{{Key: "key", Value: bson.D{{Key: "z", Value: 1}, {Key: "a", Value: -1}}}, {Key: "name",
			Value: "compound"}},
		bson.D{{Key: "key", Value: bson.D{{Key: "n", Value: 1}}}, {Key: "name", Value: "unique"},
			{Key: "unique", Value: true}},
		bson.D{{Key: "key", Value: bson.D{{Key: "at", Value: 1}}}, {Key: "name", Value: "ttl"},
			{Key: "expireAfterSeconds", Value: 0}},
		bson.D{{Key: "key", Value: bson.D{{Key: "p", Value: 1}}}, {Key: "name", Value: "partial"},
			{Key: "partialFilterExpression", Value: bson.D{{Key: "p", Value: bson.D{{Key: "$gt",
				Value: 5}}}}}},
		bson.D{{Key: "key", Value: bson.D{{Key: "t", Value: "text"}}}, {Key: "name", Value: "text"}},
		bson.D{{Key: "key", Value: bson.D{{Key: "g", Value: "2dsphere"}}}, {Key: "name", Value: "geo"}},
		bson.D{{Key: "key", Value: bson.D{{Key: "h", Value: "hashed"}}}, {Key: "name", Value: "hashed"}},
		bson.D{{Key: "key", Value: bson.D{{Key: "$**", Value: 1}}}, {Key: "name", Value: "wildcard"}},
		bson.D{{Key: "key", Value: bson.D{{Key: "c", Value: 1}}}, {Key: "name", Value: "collated"},
			{Key: "collation", Value: collation}},
	}}})
	mongoRun(t, c, db, bson.D{{Key: "create", Value: "capped"}, {Key: "capped", Value: true},
		{Key: "size", Value: 1 << 20}, {Key: "max", Value: 100}})
	insert("capped", many[:300]...)
	mongoRun(t, c, db, bson.D{{Key: "create", Value: "collated"}, {Key: "collation",
		Value: collation}})
	mongoRun(t, c, db, bson.D{{Key: "createIndexes", Value: "collated"}, {Key: "indexes",
		Value: bson.A{
			bson.D{{Key: "key", Value: bson.D{{Key: "s", Value: 1}}}, {Key: "name", Value: "simple"},
				{Key: "collation", Value: bson.D{{Key: "locale", Value: "simple"}}}}}}})
	mongoRun(t, c, db, bson.D{{Key: "create", Value: "validated"}, {Key: "validator",
		Value: bson.D{{Key: "$jsonSchema", Value: bson.D{{Key: "required", Value: bson.A{"name"}}}}}}})
	insert("validated", bson.D{{Key: "name", Value: "x"}})
	mongoRun(t, c, db, bson.D{{Key: "create", Value: "view"}, {Key: "viewOn", Value: "indexed"},
		{Key: "pipeline", Value: bson.A{bson.D{{Key: "$match", Value: bson.D{{Key: "n",
			Value: bson.D{{Key: "$lt", Value: 5}}}}}}}}})
	mongoRun(t, c, db, bson.D{{Key: "create", Value: "weather"}, {Key: "timeseries",
		Value: bson.D{{Key: "timeField", Value: "at"}, {Key: "metaField", Value: "where"}}}})

	server := mongodb.Server{URI: at}
	src := &mongodb.Source{Server: server, Databases: []string{db}}
	set := takeMongo(t, src)
	t.Logf("%s, %s: consistency %q, %d documents, warnings %q", set.Components[0].Server,
		set.Components[0].Topology, set.Components[0].Consistency, set.Components[0].Items,
		set.Components[0].Warnings)
	if err := set.Verify(ctx, backup.VerifyOptions{Level: backup.LevelLive, Against: []backup.Prover{
		src}}); err != nil {
		t.Error(err)
	}
	mongoRun(t, c, db, bson.D{{Key: "dropDatabase", Value: 1}})
	second := &mongodb.Restore{Server: server}
	if report, err := set.Restore(ctx, backup.RestoreOptions{}, second); err != nil {
		t.Fatalf("%v %+v", err, report)
	}
	if _, err := set.Restore(ctx, backup.RestoreOptions{}, second); !errors.Is(err,
		backup.ErrNotEmpty) {
		t.Errorf("a second time: %v", err)
	}
	insert("types", bson.D{{Key: "_id", Value: "by the upgrade"}})
	if err := set.Verify(ctx, backup.VerifyOptions{Level: backup.LevelLive, Against: []backup.Prover{
		src}}); !errors.Is(err, backup.ErrDiffers) {
		t.Errorf("after a change: %v", err)
	}
	if report, err := set.Restore(ctx, backup.RestoreOptions{}, &mongodb.Restore{Server: server,
		Mode: mongodb.Replace, Exclude: []string{"*.weather"}}); err != nil {
		t.Fatalf("%v %+v", err, report)
	}
}
