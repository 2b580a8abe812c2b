package mongodb_test

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"go.mongodb.org/mongo-driver/bson"

	"example.com/tykupgrade/backup"
	"example.com/tykupgrade/backup/mongodb"
	mongolab "example.com/tykupgrade/internal/lab/mongo"
)

// numbered has n collections of one document, each with a second index if indexed.
func numbered(t *testing.T, n int, indexed bool) *mongolab.Server {
	t.Helper()
	s := mongoServer(t, mongolab.Options{})
	c := mongoClient(t, s)
	for i := range n {
		name := fmt.Sprint("c", i)
		s.Insert("tyk_analytics", name, doc(t, bson.D{{Key: "_id", Value: 1}, {Key: "x", Value: i}}))
		if indexed {
			mongoRun(t, c, "tyk_analytics", bson.D{{Key: "createIndexes", Value: name}, {Key: "indexes",
				Value: bson.A{bson.D{{Key: "key", Value: bson.D{{Key: "x", Value: 1}}}, {Key: "name",
					Value: "x"}}}}})
		}
	}
	return s
}

// A small collection costs three commands to take: indexes, documents, indexes again. It
// costs three to restore: insert, read back, rename. Indexes cost two more.
func TestCommandsPerCollection(t *testing.T) {
	t.Parallel()
	const n, fixed = 40, 30
	for _, indexed := range []bool{false, true} {
		s, to := numbered(t, n, indexed), mongoServer(t, mongolab.Options{})
		asked := countCommands(s)
		set := takeMongo(t, &mongodb.Source{Server: uri(s)})
		if got := asked.Load(); got > 3*n+fixed {
			t.Errorf("take, indexed %v: %d commands for %d collections", indexed, got, n)
		}
		most := int32(3*n + fixed)
		if indexed {
			most += 2 * n
		}
		asked = countCommands(to)
		if _, err := set.Restore(t.Context(), backup.RestoreOptions{}, &mongodb.Restore{
			Server: uri(to)}); err != nil {
			t.Fatal(err)
		}
		if got := asked.Load(); got > most {
			t.Errorf("restore, indexed %v: %d commands for %d collections", indexed, got, n)
		}
	}
}

// Small collections are requested sixteen at a time: each command waits until it is one of
// sixteen.
func TestManyAtATime(t *testing.T) {
	t.Parallel()
	const n = 16
	s, to := numbered(t, n, true), mongoServer(t, mongolab.Options{})
	gather := func(s *mongolab.Server) {
		var mu sync.Mutex
		waiting, full := map[string]int{}, map[string]chan struct{}{}
		s.Hook(func(c mongolab.Command) mongolab.Fault {
			switch c.Name {
			case "find", "insert", "listIndexes", "createIndexes", "renameCollection":
			default:
				return mongolab.Fault{}
			}
			// Neither the journal, nor the look whether the server reads snapshots.
			if c.Target == "tykupgrade_restore" || !c.Body.Lookup("limit").IsZero() {
				return mongolab.Fault{}
			}
			mu.Lock()
			defer mu.Unlock()
			if full[c.Name] == nil {
				all := make(chan struct{})
				full[c.Name] = all
				late := time.AfterFunc(time.Minute, func() {
					mu.Lock()
					defer mu.Unlock()
					if waiting[c.Name] < n {
						t.Errorf("%s: %d at a time, want %d", c.Name, waiting[c.Name], n)
						waiting[c.Name] = n
						close(all)
					}
				})
				t.Cleanup(func() { late.Stop() })
			}
			if waiting[c.Name]++; waiting[c.Name] == n {
				close(full[c.Name])
			}
			return mongolab.Fault{Wait: full[c.Name]}
		})
	}
	gather(s)
	set := takeMongo(t, &mongodb.Source{Server: uri(s)})
	gather(to)
	if _, err := set.Restore(t.Context(), backup.RestoreOptions{}, &mongodb.Restore{
		Server: uri(to)}); err != nil {
		t.Fatal(err)
	}
}

// A server that leaves out a part of an index is found out before anything is replaced.
func TestOtherIndex(t *testing.T) {
	t.Parallel()
	set := takeMongo(t, &mongodb.Source{Server: uri(numbered(t, 1, true))})
	to := mongoServer(t, mongolab.Options{})
	to.Insert("tyk_analytics", "c0", doc(t, bson.D{{Key: "_id", Value: "mine"}}))
	to.Hook(func(c mongolab.Command) mongolab.Fault {
		return mongolab.Fault{Lie: c.Name == "createIndexes"}
	})
	_, err := set.Restore(t.Context(), backup.RestoreOptions{}, &mongodb.Restore{Server: uri(to),
		Mode: mongodb.Replace})
	if err == nil || !strings.Contains(err.Error(), `it lacks the index "x"`) {
		t.Errorf("error %v", err)
	}
	if docs := fmt.Sprint(to.Documents("tyk_analytics", "c0")); !strings.Contains(docs, "mine") {
		t.Errorf("the live collection holds %s", docs)
	}
}
