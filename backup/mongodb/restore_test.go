package mongodb_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"go.mongodb.org/mongo-driver/bson"
	"go.mongodb.org/mongo-driver/bson/primitive"

	"example.com/tykupgrade/backup"
	"example.com/tykupgrade/backup/mongodb"
	mongolab "example.com/tykupgrade/internal/lab/mongo"
)

func takeMongo(t testing.TB, m *mongodb.Source) *backup.Set {
	t.Helper()
	set, err := backup.Take(t.Context(), t.TempDir(), backup.Options{}, m)
	if err != nil {
		t.Fatal(err)
	}
	return set
}

// state is everything that a server holds, as text.
func state(t testing.TB, s *mongolab.Server) string {
	t.Helper()
	c := mongoClient(t, s)
	var b strings.Builder
	for _, db := range []string{"tyk_analytics", "scratch", "admin"} {
		list := mongoRun(t, c, db, bson.D{{Key: "listCollections", Value: 1}})
		values, err := list.Lookup("cursor", "firstBatch").Array().Values()
		if err != nil {
			t.Fatal(err)
		}
		for _, v := range values {
			fmt.Fprintln(&b, db, v)
			name := v.Document().Lookup("name").StringValue()
			for _, d := range s.Documents(db, name) {
				fmt.Fprintln(&b, d)
			}
			if v.Document().Lookup("type").StringValue() != "view" {
				fmt.Fprintln(&b, mongoRun(t, c, db, bson.D{{Key: "listIndexes", Value: name}}).Lookup("cursor",
					"firstBatch"))
			}
		}
	}
	return b.String()
}

// changedMongo gives every collection of smallMongo another content.
func changedMongo(t testing.TB) *mongolab.Server {
	return changed(t, smallMongo(t, mongolab.Options{}))
}

func changed(t testing.TB, s *mongolab.Server) *mongolab.Server {
	for _, n := range []string{"apis", "keys"} {
		s.Insert("tyk_analytics", n, doc(t, bson.D{{Key: "_id", Value: "added by the upgrade"}}))
	}
	s.Insert("tyk_analytics", "untouched", doc(t, bson.D{{Key: "_id", Value: 1}}))
	return s
}

func TestModes(t *testing.T) {
	t.Parallel()
	from := smallMongo(t, mongolab.Options{})
	mongoRun(t, mongoClient(t, from), "tyk_analytics", bson.D{{Key: "create", Value: "view"},
		{Key: "viewOn", Value: "apis"}, {Key: "pipeline", Value: bson.A{}}})
	set := takeMongo(t, &mongodb.Source{Server: uri(from)})
	restore := func(t *testing.T, m *mongodb.Restore) (backup.ComponentReport, error) {
		report, err := set.Restore(t.Context(), backup.RestoreOptions{}, m)
		if len(report.Components) == 0 {
			return backup.ComponentReport{}, err
		}
		return report.Components[0], err
	}
	t.Run("new refuses", func(t *testing.T) {
		t.Parallel()
		s := changedMongo(t)
		before := state(t, s)
		_, err := restore(t, &mongodb.Restore{Server: uri(s)})
		if !errors.Is(err, backup.ErrNotEmpty) || !strings.Contains(err.Error(), "tyk_analytics.apis") ||
			!strings.Contains(err.Error(), "15 documents") {
			t.Errorf("error %v", err)
		}
		if state(t, s) != before {
			t.Error("something changed")
		}
	})
	for _, mode := range []mongodb.Mode{mongodb.Replace, mongodb.Drop} {
		t.Run(fmt.Sprint("mode ", mode), func(t *testing.T) {
			t.Parallel()
			s := changedMongo(t)
			before := state(t, s)
			if _, err := set.Restore(t.Context(), backup.RestoreOptions{DryRun: true}, &mongodb.Restore{
				Server: uri(s), Mode: mode}); err != nil {
				t.Fatal(err)
			}
			if state(t, s) != before {
				t.Error("a dry run changed something")
			}
			report, err := restore(t, &mongodb.Restore{Server: uri(s), Mode: mode})
			if err != nil || report.State != backup.StateVerified {
				t.Fatalf("%v %+v", err, report)
			}
			actions := map[string]backup.Action{}
			for _, i := range report.Items {
				actions[i.Name] = i.Action
			}
			if actions["tyk_analytics.apis"] != backup.ActionReplace ||
				actions["tyk_analytics.view"] != backup.ActionCreate {
				t.Errorf("items %+v", report.Items)
			}
			if n := len(s.Documents("tyk_analytics", "apis")); n != 14 {
				t.Errorf("%d documents", n)
			}
			if got := fmt.Sprint(s.Collections("tyk_analytics")); got != "[apis keys system.views "+
				"untouched view]" {
				t.Errorf("collections %s", got)
			}
			// Again: the view is the same already.
			if report, err = restore(t, &mongodb.Restore{Server: uri(s),
				Mode: mongodb.Replace}); err != nil || report.State != backup.StateVerified {
				t.Errorf("again: %v %+v", err, report)
			}
		})
	}
	t.Run("choose", func(t *testing.T) {
		t.Parallel()
		s := mongoServer(t, mongolab.Options{})
		report, err := restore(t, &mongodb.Restore{Server: uri(s), Exclude: []string{"*.keys"}})
		if err != nil || report.State != backup.StateVerified {
			t.Fatalf("%v %+v", err, report)
		}
		if got := fmt.Sprint(s.Collections("tyk_analytics")); got != "[apis system.views view]" {
			t.Errorf("collections %s", got)
		}
		for _, bad := range []*mongodb.Restore{{Include: []string{"*.nothing"}},
			{Exclude: []string{"*.*"}}} {
			bad.Server = uri(mongoServer(t, mongolab.Options{}))
			if _, err := restore(t, bad); err == nil {
				t.Errorf("%+v was accepted", bad)
			}
		}
	})
	t.Run("other kinds in the way", func(t *testing.T) {
		t.Parallel()
		s := mongoServer(t, mongolab.Options{})
		c := mongoClient(t, s)
		mongoRun(t, c, "tyk_analytics", bson.D{{Key: "create", Value: "apis"}, {Key: "viewOn",
			Value: "x"}, {Key: "pipeline", Value: bson.A{}}})
		if _, err := restore(t, &mongodb.Restore{Server: uri(s), Mode: mongodb.Replace}); !errors.Is(err,
			backup.ErrNotEmpty) {
			t.Errorf("error %v", err)
		}
		if report, err := restore(t, &mongodb.Restore{Server: uri(s), Mode: mongodb.Drop}); err != nil {
			t.Errorf("%v %+v", err, report)
		}
	})
	t.Run("time series", func(t *testing.T) {
		t.Parallel()
		s := mongoServer(t, mongolab.Options{})
		fillMongo(t, s, "tyk_analytics")
		set := takeMongo(t, &mongodb.Source{Server: uri(s), Include: []string{"*.weather"}})
		if _, err := set.Restore(t.Context(), backup.RestoreOptions{}, &mongodb.Restore{Server: uri(s),
			Mode: mongodb.Replace}); !errors.Is(err, backup.ErrNotEmpty) || !strings.Contains(err.Error(),
			"cannot be renamed") {
			t.Errorf("error %v", err)
		}
		if _, err := set.Restore(t.Context(), backup.RestoreOptions{}, &mongodb.Restore{Server: uri(s),
			Mode: mongodb.Drop}); err != nil {
			t.Error(err)
		}
	})
}

// Whatever fails, the live collections are as before and nothing is left over.
func TestRestoreFails(t *testing.T) {
	t.Parallel()
	from := smallMongo(t, mongolab.Options{})
	mongoRun(t, mongoClient(t, from), "tyk_analytics", bson.D{{Key: "createIndexes", Value: "keys"},
		{Key: "indexes", Value: bson.A{bson.D{{Key: "key", Value: bson.D{{Key: "text", Value: 1}}},
			{Key: "name", Value: "text"}}}}})
	from.Insert("tyk_analytics", "without documents")
	set := takeMongo(t, &mongodb.Source{Server: uri(from)})
	wrong := func(name string, n int32) func(mongolab.Command) mongolab.Fault {
		return once(name, n, mongolab.Fault{Code: 8, Name: "UnknownError", Msg: "out of luck"})
	}
	for name, n := range map[string]int32{"create": 1, "insert": 2, "createIndexes": 1,
		"renameCollection": 1} {
		for _, fresh := range []bool{false, true} {
			t.Run(fmt.Sprint(name, " fresh ", fresh), func(t *testing.T) {
				t.Parallel()
				s := changedMongo(t)
				mode := mongodb.Replace
				if fresh {
					s, mode = mongoServer(t, mongolab.Options{}), mongodb.New
				}
				before := state(t, s)
				s.Hook(wrong(name, n))
				report, err := set.Restore(t.Context(), backup.RestoreOptions{}, &mongodb.Restore{
					Server: uri(s), Mode: mode})
				if err == nil || !strings.Contains(err.Error(), "out of luck") ||
					report.Components[0].State != backup.StateFailed {
					t.Errorf("error %v, report %+v", err, report)
				}
				s.Hook(nil)
				if got := state(t, s); got != before {
					t.Errorf("before:\n%.500s\nafter:\n%.500s", before, got)
				}
			})
		}
	}
	t.Run("dropped first", func(t *testing.T) {
		t.Parallel()
		s := changedMongo(t)
		s.Hook(wrong("createIndexes", 1)) // of keys; apis has none
		report, err := set.Restore(t.Context(), backup.RestoreOptions{}, &mongodb.Restore{Server: uri(s),
			Mode: mongodb.Drop, Parallel: 1})
		if err == nil || !strings.Contains(err.Error(), "dropped before the error") {
			t.Errorf("error %v", err)
		}
		for _, i := range report.Components[0].Items {
			if i.Name == "tyk_analytics.keys" && (i.Action != backup.ActionSkip ||
				!strings.Contains(i.Detail, "only copy")) {
				t.Errorf("item %+v", i)
			}
		}
		if n := len(s.Documents("tyk_analytics", "keys")); n != 0 {
			t.Errorf("%d documents are there in parts", n)
		}
		if report, err := set.Restore(t.Context(), backup.RestoreOptions{}, &mongodb.Restore{
			Server: uri(s), Mode: mongodb.Drop}); err != nil {
			t.Errorf("again: %v %+v", err, report)
		}
	})
	t.Run("cancelled", func(t *testing.T) {
		t.Parallel()
		s := changedMongo(t)
		before := state(t, s)
		ctx, cancel := context.WithCancel(t.Context())
		s.Hook(func(c mongolab.Command) mongolab.Fault {
			if c.Name == "insert" {
				cancel()
			}
			return mongolab.Fault{}
		})
		if _, err := set.Restore(ctx, backup.RestoreOptions{}, &mongodb.Restore{Server: uri(s),
			Mode: mongodb.Replace}); !errors.Is(err, context.Canceled) {
			t.Errorf("error %v", err)
		}
		if got := state(t, s); got != before || s.Cursors() != 0 {
			t.Errorf("something changed, or %d cursors are open", s.Cursors())
		}
	})
	t.Run("a server that loses a document", func(t *testing.T) {
		t.Parallel()
		s := changedMongo(t)
		before := state(t, s)
		lied := make(chan bool, 1)
		lost := func(c mongolab.Command) mongolab.Fault {
			if c.Name != "insert" || !strings.HasPrefix(c.Target, "tykupgrade_restore_") {
				return mongolab.Fault{}
			}
			select {
			case lied <- true:
				return mongolab.Fault{Lie: true}
			default:
				return mongolab.Fault{}
			}
		}
		s.Hook(lost)
		_, err := set.Restore(t.Context(), backup.RestoreOptions{}, &mongodb.Restore{Server: uri(s),
			Mode: mongodb.Replace})
		if !errors.Is(err, backup.ErrDiffers) {
			t.Errorf("error %v", err)
		}
		s.Hook(nil)
		if state(t, s) != before {
			t.Error("something changed")
		}
	})
	t.Run("the second of two swaps", func(t *testing.T) {
		t.Parallel()
		s := changedMongo(t)
		before := state(t, s)
		s.Hook(wrong("renameCollection", 4))
		report, err := set.Restore(t.Context(), backup.RestoreOptions{}, &mongodb.Restore{Server: uri(s),
			Mode: mongodb.Replace, Parallel: 1})
		if err == nil || !strings.Contains(err.Error(), "out of luck") ||
			report.Components[0].State != backup.StateFailed {
			t.Errorf("%v %+v", err, report)
		}
		s.Hook(nil)
		if got := state(t, s); got != before {
			t.Errorf("before:\n%.500s\nafter:\n%.500s", before, got)
		}
	})
}

// Answers that get lost are no failure and no duplicate.
func TestRestoreAgain(t *testing.T) {
	t.Parallel()
	set := takeMongo(t, &mongodb.Source{Server: uri(smallMongo(t, mongolab.Options{}))})
	for _, name := range []string{"insert", "renameCollection", "createIndexes", "find"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := changedMongo(t)
			seen := map[string]int{}
			hook := make(chan map[string]int, 1)
			hook <- seen
			s.Hook(func(c mongolab.Command) mongolab.Fault {
				seen := <-hook
				defer func() { hook <- seen }()
				// The driver itself sends a write once more: lose that answer, too.
				if seen[c.Name]++; c.Name == name && seen[c.Name] <= 2 {
					return mongolab.Fault{Lose: true}
				}
				return mongolab.Fault{}
			})
			report, err := set.Restore(t.Context(), backup.RestoreOptions{}, &mongodb.Restore{Server: uri(s),
				Mode: mongodb.Replace})
			if err != nil || report.Components[0].State != backup.StateVerified {
				t.Errorf("%v %+v", err, report)
			}
		})
	}
}

// Documents that the server rejects are errors, distinguished and counted, without the values of
// their fields.
func TestRejected(t *testing.T) {
	t.Parallel()
	// A validator and a unique index that came after the documents, as may be.
	from := mongoServer(t, mongolab.Options{})
	c := mongoClient(t, from)
	mongoRun(t, c, "tyk_analytics", bson.D{{Key: "create", Value: "strict"}, {Key: "validator",
		Value: bson.D{{Key: "$jsonSchema", Value: bson.D{{Key: "required", Value: bson.A{"name"}}}}}}})
	for i := range 30 {
		from.Insert("tyk_analytics", "strict", doc(t, bson.D{{Key: "_id", Value: primitive.ObjectID{
			byte(i)}}, {Key: "api_key", Value: "top secret"}}))
	}
	set := takeMongo(t, &mongodb.Source{Server: uri(from)})
	s := mongoServer(t, mongolab.Options{})
	// The server held them, so that its validator is not asked.
	if _, err := set.Restore(t.Context(), backup.RestoreOptions{}, &mongodb.Restore{
		Server: uri(s)}); err != nil {
		t.Error(err)
	}
	sameServers(t, from, s, "tyk_analytics", "tyk_analytics")
	// One that ignores the wish rejects all, and every one is counted.
	s = mongoServer(t, mongolab.Options{AskValidators: true})
	_, err := set.Restore(t.Context(), backup.RestoreOptions{}, &mongodb.Restore{Server: uri(s)})
	if !errors.Is(err, mongodb.ErrRejected) || !strings.Contains(err.Error(), ": 30:") ||
		!strings.Contains(err.Error(), "failed validation (code 121)") || !strings.Contains(err.Error(),
		"25 more") {
		t.Errorf("error %v", err)
	}
	if strings.Contains(err.Error(), "secret") {
		t.Errorf("the error shows a field: %v", err)
	}
	if got := s.Collections("tyk_analytics"); len(got) > 0 {
		t.Errorf("left over: %q", got)
	}

	// No _id: the server would invent one.
	bare := mongoServer(t, mongolab.Options{})
	bare.Insert("tyk_analytics", "bare", doc(t, bson.D{{Key: "n", Value: 1}}))
	set = takeMongo(t, &mongodb.Source{Server: uri(bare)})
	_, err = set.Restore(t.Context(), backup.RestoreOptions{}, &mongodb.Restore{
		Server: uri(mongoServer(t, mongolab.Options{}))})
	if !errors.Is(err, mongodb.ErrRejected) || !strings.Contains(err.Error(), "no _id") {
		t.Errorf("error %v", err)
	}

	// So does an index that is built after the documents.
	twice := mongoServer(t, mongolab.Options{})
	mongoRun(t, mongoClient(t, twice), "tyk_analytics", bson.D{{Key: "createIndexes", Value: "users"},
		{Key: "indexes", Value: bson.A{
			bson.D{{Key: "key", Value: bson.D{{Key: "api_key", Value: 1}}}, {Key: "name", Value: "by key"},
				{Key: "unique", Value: true}}}}})
	for i := range 2 {
		twice.Insert("tyk_analytics", "users", doc(t, bson.D{{Key: "_id", Value: i}, {Key: "api_key",
			Value: "top secret"}}))
	}
	set = takeMongo(t, &mongodb.Source{Server: uri(twice)})
	s = mongoServer(t, mongolab.Options{})
	_, err = set.Restore(t.Context(), backup.RestoreOptions{}, &mongodb.Restore{Server: uri(s)})
	if !errors.Is(err, mongodb.ErrRejected) || !strings.Contains(err.Error(), "unique index") ||
		strings.Contains(err.Error(), "secret") || len(s.Collections("tyk_analytics")) > 0 {
		t.Errorf("error %v", err)
	}
}

// What a TTL index has removed or is about to remove does not make a restored
// collection differ; anything else does.
func TestTTL(t *testing.T) {
	t.Parallel()
	from := mongoServer(t, mongolab.Options{})
	at := func(id int, when time.Time) bson.Raw {
		return doc(t, bson.D{{Key: "_id", Value: id}, {Key: "expireAt", Value: when}})
	}
	from.Insert("tyk_analytics", "logs", at(1, time.Now().Add(-time.Hour)),
		at(2, time.Now().Add(time.Hour)), at(3, time.Now().Add(1000*time.Hour)),
		doc(t, bson.D{{Key: "_id", Value: 4}}))
	mongoRun(t, mongoClient(t, from), "tyk_analytics", bson.D{{Key: "createIndexes", Value: "logs"},
		{Key: "indexes", Value: bson.A{
			bson.D{{Key: "key", Value: bson.D{{Key: "expireAt", Value: 1}}}, {Key: "name", Value: "ttl"},
				{Key: "expireAfterSeconds", Value: 0}}}}})
	set := takeMongo(t, &mongodb.Source{Server: uri(from)})
	to := mongoServer(t, mongolab.Options{})
	target := &mongodb.Restore{Server: uri(to)}
	if _, err := set.Restore(t.Context(), backup.RestoreOptions{}, target); err != nil {
		t.Fatal(err)
	}
	if n := len(to.Documents("tyk_analytics", "logs")); n != 4 {
		t.Errorf("%d documents were restored", n)
	}
	c := mongoClient(t, to)
	gone := func(id int) error {
		mongoRun(t, c, "tyk_analytics", bson.D{{Key: "delete", Value: "logs"}, {Key: "deletes",
			Value: bson.A{bson.D{{Key: "q", Value: bson.D{{Key: "_id", Value: id}}}, {Key: "limit",
				Value: 1}}}}})
		return set.Verify(t.Context(), backup.VerifyOptions{Level: backup.LevelLive,
			Against: []backup.Prover{target}})
	}
	for _, id := range []int{1, 2} {
		if err := gone(id); err != nil {
			t.Errorf("after document %d expired: %v", id, err)
		}
	}
	if err := gone(3); !errors.Is(err, backup.ErrDiffers) {
		t.Errorf("a document vanished before its time: %v", err)
	}
}

// What a killed restore left is not taken for data, and not for nothing.
func TestLeftovers(t *testing.T) {
	t.Parallel()
	s := smallMongo(t, mongolab.Options{})
	s.Insert("tyk_analytics", "tykupgrade_restore_0a0b0c0d_1", doc(t, bson.D{{Key: "_id", Value: 1}}))
	set := takeMongo(t, &mongodb.Source{Server: uri(s)})
	if c := set.Components[0]; c.Items != 514 || !strings.Contains(strings.Join(c.Warnings, "\n"),
		"belongs to a restore") {
		t.Errorf("%d documents, warnings %q", c.Items, c.Warnings)
	}
}
