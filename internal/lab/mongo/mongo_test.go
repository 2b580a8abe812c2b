package mongo_test

import (
	"errors"
	"strings"
	"testing"

	"go.mongodb.org/mongo-driver/bson"
	"go.mongodb.org/mongo-driver/bson/primitive"
	driver "go.mongodb.org/mongo-driver/mongo"
	"go.mongodb.org/mongo-driver/mongo/options"

	"example.com/tykupgrade/internal/lab/mongo"
)

func start(t *testing.T, o mongo.Options) (*mongo.Server, *driver.Client) {
	t.Helper()
	s, err := mongo.Start(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s, connect(t, s, "")
}

func connect(t *testing.T, s *mongo.Server, login string) *driver.Client {
	t.Helper()
	c, err := driver.Connect(t.Context(), options.Client().ApplyURI(strings.Replace(s.URI(),
		"mongodb://", "mongodb://"+login, 1)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Disconnect(t.Context()) })
	return c
}

func TestLogin(t *testing.T) {
	t.Parallel()
	s, stranger := start(t, mongo.Options{User: "u", Password: "p"})
	var refused driver.CommandError
	if err := stranger.Database("d").RunCommand(t.Context(), bson.D{{Key: "count", Value: "c"}}).
		Err(); !errors.As(err, &refused) || refused.Code != 13 {
		t.Errorf("without login: %v", err)
	}
	if err := connect(t, s, "u:x@").Ping(t.Context(), nil); err == nil ||
		!strings.Contains(err.Error(), "AuthenticationFailed") {
		t.Errorf("wrong password: %v", err)
	}
	if _, err := connect(t, s, "u:p@").Database("d").ListCollectionNames(t.Context(),
		bson.D{}); err != nil {
		t.Error(err)
	}
}

func TestInsertIsLikeMongod(t *testing.T) {
	t.Parallel()
	s, c := start(t, mongo.Options{})
	coll := c.Database("d").Collection("c")
	if _, err := coll.InsertMany(t.Context(), []any{bson.D{{Key: "_id", Value: 1},
		{Key: "at", Value: primitive.Timestamp{}}, {Key: "in", Value: bson.D{{Key: "at",
			Value: primitive.Timestamp{}}}}}}); err != nil {
		t.Fatal(err)
	}
	got := s.Documents("d", "c")[0]
	if sec, _ := got.Lookup("at").Timestamp(); sec == 0 {
		t.Error("a zero timestamp on top was kept")
	}
	if sec, _ := got.Lookup("in", "at").Timestamp(); sec != 0 {
		t.Error("a zero timestamp further in was replaced")
	}
	// Equal numbers of different types are one _id.
	_, err := coll.InsertMany(t.Context(), []any{bson.D{{Key: "_id", Value: 1.0}},
		bson.D{{Key: "_id", Value: 2}}, bson.D{{Key: "_id", Value: int64(1)}}},
		options.InsertMany().SetOrdered(false))
	var bulk driver.BulkWriteException
	if !errors.As(err, &bulk) || len(bulk.WriteErrors) != 2 || bulk.WriteErrors[1].Index != 2 ||
		bulk.WriteErrors[0].Code != 11000 {
		t.Errorf("error %v", err)
	}
	if n, err := coll.CountDocuments(t.Context(), bson.D{}); err != nil || n != 2 {
		t.Errorf("%d documents, %v", n, err)
	}
}

func TestSnapshotReadsThePast(t *testing.T) {
	t.Parallel()
	s, c := start(t, mongo.Options{})
	for i := range 250 {
		raw, err := bson.Marshal(bson.D{{Key: "_id", Value: i}})
		if err != nil {
			t.Fatal(err)
		}
		s.Insert("d", "c", raw)
	}
	session, err := c.StartSession(options.Session().SetSnapshot(true))
	if err != nil {
		t.Fatal(err)
	}
	defer session.EndSession(t.Context())
	err = driver.WithSession(t.Context(), session, func(ctx driver.SessionContext) error {
		coll := c.Database("d").Collection("c")
		for i := range 2 {
			cursor, err := coll.Find(ctx, bson.D{})
			if err != nil {
				return err
			}
			var all []bson.Raw
			if err := cursor.All(ctx, &all); err != nil || len(all) != 250 {
				t.Errorf("read %d: %d documents, %v", i, len(all), err)
			}
			// Outside of the session: these are not seen in it.
			if _, err := coll.DeleteMany(t.Context(), bson.D{}); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	if n := s.Cursors(); n != 0 || len(s.Documents("d", "c")) != 0 {
		t.Errorf("%d cursors, %d documents", n, len(s.Documents("d", "c")))
	}
}

func TestFaults(t *testing.T) {
	t.Parallel()
	s, c := start(t, mongo.Options{})
	for name, f := range map[string]mongo.Fault{"cut": {Cut: true}, "lose": {Lose: true},
		"code": {Code: 8, Name: "UnknownError", Msg: "m"}} {
		s.Hook(func(cmd mongo.Command) mongo.Fault {
			if cmd.Name == "create" {
				return f
			}
			return mongo.Fault{}
		})
		if err := c.Database("d").RunCommand(t.Context(), bson.D{{Key: "create", Value: name}}).
			Err(); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if got := s.Collections("d"); len(got) != 1 || got[0] != "lose" {
		t.Errorf("collections %q: a lost answer means that the command ran, and only that", got)
	}
}
