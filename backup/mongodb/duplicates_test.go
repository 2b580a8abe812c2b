package mongodb_test

import (
	"fmt"
	"strings"
	"sync"
	"testing"

	"go.mongodb.org/mongo-driver/bson"

	"example.com/tykupgrade/backup"
	"example.com/tykupgrade/backup/mongodb"
	mongolab "example.com/tykupgrade/internal/lab/mongo"
)

// Without a snapshot a document can be read twice. The set says so, every restore brings
// the later version back, and the comparison agrees.
func TestDuplicates(t *testing.T) {
	t.Parallel()
	from := smallMongo(t, mongolab.Options{Standalone: true})
	c := mongoClient(t, from)
	var again sync.Once
	from.Hook(func(q mongolab.Command) mongolab.Fault {
		if q.Name == "getMore" && q.Target == "keys" {
			again.Do(func() {
				mongoRun(t, c, "tyk_analytics", bson.D{{Key: "delete", Value: "keys"}, {Key: "deletes",
					Value: bson.A{bson.D{{Key: "q", Value: bson.D{{Key: "_id", Value: 3}}}, {Key: "limit",
						Value: 1}}}}})
				from.Insert("tyk_analytics", "keys", doc(t, bson.D{{Key: "_id", Value: int64(3)}, {Key: "text",
					Value: "the later version"}}))
			})
		}
		return mongolab.Fault{}
	})
	set := takeMongo(t, &mongodb.Source{Server: uri(from), Parallel: 1})
	from.Hook(nil)
	got := details(t, set).Collections
	if got[1].Name != "keys" || got[1].Count != 501 || got[1].Duplicates != 1 ||
		got[0].Duplicates != 0 || !strings.Contains(fmt.Sprint(set.Components[0].Warnings),
		"tyk_analytics.keys: 1 documents were deleted and inserted again") {
		t.Fatalf("%+v %q", got, set.Components[0].Warnings)
	}
	for _, mode := range []mongodb.Mode{mongodb.New, mongodb.Replace, mongodb.Drop} {
		t.Run(mode.String(), func(t *testing.T) {
			t.Parallel()
			to := mongoServer(t, mongolab.Options{})
			if mode != mongodb.New {
				to = changedMongo(t)
			}
			target := &mongodb.Restore{Server: uri(to), Mode: mode}
			report, err := set.Restore(t.Context(), backup.RestoreOptions{}, target)
			if err != nil {
				t.Fatal(err)
			}
			if i := report.Components[0].Items[1]; i.Count != 500 || !strings.Contains(i.Detail,
				"1 documents were in the dump twice") {
				t.Errorf("item %+v", i)
			}
			docs := to.Documents("tyk_analytics", "keys")
			later := 0
			for _, d := range docs {
				if d.Lookup("text").StringValue() == "the later version" {
					later++
				}
			}
			if len(docs) != 500 || later != 1 {
				t.Errorf("%d documents, %d later versions", len(docs), later)
			}
			if err := set.Verify(t.Context(), backup.VerifyOptions{Level: backup.LevelLive,
				Against: []backup.Prover{target}}); err != nil {
				t.Error(err)
			}
		})
	}
}
