package mongodb_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"go.mongodb.org/mongo-driver/bson"

	"example.com/tykupgrade/backup"
	"example.com/tykupgrade/backup/mongodb"
	mongolab "example.com/tykupgrade/internal/lab/mongo"
)

// What somebody else writes while a restore runs is not lost with it.
func TestRestoreSparesOthers(t *testing.T) {
	t.Parallel()
	from := smallMongo(t, mongolab.Options{})
	from.Insert("tyk_analytics", "system.js", doc(t, bson.D{{Key: "_id", Value: "f"}}))
	set := takeMongo(t, &mongodb.Source{Server: uri(from)})
	for _, c := range []struct {
		name, command, coll string
		mode                mongodb.Mode
		exists              bool // empty, before the restore
	}{
		{name: "created before us", command: "create", coll: "system.js"},
		{name: "created meanwhile", command: "insert", coll: "apis"},
		{name: "created meanwhile, replace", command: "insert", coll: "apis", mode: mongodb.Replace},
		{name: "no longer empty", command: "insert", coll: "apis", exists: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := mongoServer(t, mongolab.Options{})
			if c.exists {
				mongoRun(t, mongoClient(t, s), "tyk_analytics", bson.D{{Key: "create", Value: c.coll}})
			}
			s.Hook(func(q mongolab.Command) mongolab.Fault {
				ours := c.command != "insert" || strings.HasPrefix(q.Target, "tykupgrade_restore_")
				if q.Name == c.command && ours && len(s.Documents("tyk_analytics", c.coll)) == 0 {
					s.Insert("tyk_analytics", c.coll, doc(t, bson.D{{Key: "_id", Value: "a gateway's"}}))
				}
				return mongolab.Fault{}
			})
			_, err := set.Restore(t.Context(), backup.RestoreOptions{}, &mongodb.Restore{Server: uri(s),
				Mode: c.mode, Parallel: 1})
			if err == nil || !strings.Contains(err.Error(), c.coll) {
				t.Errorf("error %v", err)
			}
			if n := len(s.Documents("tyk_analytics", c.coll)); n != 1 {
				t.Errorf("%d documents", n)
			}
			for _, n := range s.Collections("tyk_analytics") {
				if strings.HasPrefix(n, "tykupgrade_") {
					t.Errorf("left over: %s", n)
				}
			}
		})
	}
}

func TestRestoreKeepsViews(t *testing.T) {
	t.Parallel()
	view := func(t *testing.T, s *mongolab.Server, on string) {
		mongoRun(t, mongoClient(t, s), "tyk_analytics", bson.D{{Key: "create", Value: "view"},
			{Key: "viewOn", Value: on}, {Key: "pipeline", Value: bson.A{}}})
	}
	from := smallMongo(t, mongolab.Options{})
	view(t, from, "apis")
	set := takeMongo(t, &mongodb.Source{Server: uri(from), Include: []string{"*.view", "*.apis"}})
	refused := mongolab.Fault{Code: 13, Name: "Unauthorized", Msg: "not authorized"}
	for _, command := range []string{"drop", "create"} {
		for _, f := range []mongolab.Fault{refused, {Cut: true}, {Lose: true}} {
			for _, live := range []bool{true, false} {
				t.Run(fmt.Sprintf("%s %+v live %v", command, f, live), func(t *testing.T) {
					t.Parallel()
					s := mongoServer(t, mongolab.Options{})
					if live {
						view(t, s, "another")
					} else if command == "drop" {
						return // there is none
					}
					seen := false // commands come one after the other here
					s.Hook(func(c mongolab.Command) mongolab.Fault {
						if c.Name != command || c.Target != "view" || seen {
							return mongolab.Fault{}
						}
						seen = true
						return f
					})
					_, err := set.Restore(t.Context(), backup.RestoreOptions{}, &mongodb.Restore{Server: uri(s),
						Mode: mongodb.Replace})
					if err == nil || strings.Contains(err.Error(), "rollback failed") {
						t.Errorf("error %v", err)
					}
					c := mongoClient(t, s)
					if live {
						if def := definition(t, c, "tyk_analytics", "view"); !strings.Contains(def, "another") {
							t.Errorf("view %s", def)
						}
					} else if got := fmt.Sprint(s.Collections("tyk_analytics")); strings.Contains(got, " view") {
						t.Errorf("collections %s", got)
					}
				})
			}
		}
	}
}

// With Drop the report says what is gone, and only that.
func TestDropReport(t *testing.T) {
	t.Parallel()
	from := smallMongo(t, mongolab.Options{})
	mongoRun(t, mongoClient(t, from), "tyk_analytics", bson.D{{Key: "create", Value: "view"},
		{Key: "viewOn", Value: "apis"}, {Key: "pipeline", Value: bson.A{}}})
	set := takeMongo(t, &mongodb.Source{Server: uri(from), Include: []string{"*.view", "*.apis"}})
	for command, target := range map[string]string{"drop": "apis", "create": "view"} {
		t.Run(command, func(t *testing.T) {
			t.Parallel()
			s := mongoServer(t, mongolab.Options{})
			for _, n := range []string{"apis", "view"} {
				s.Insert("tyk_analytics", n, doc(t, bson.D{{Key: "_id", Value: "live"}}))
			}
			s.Hook(func(c mongolab.Command) mongolab.Fault {
				if c.Name == command && c.Target == target {
					return mongolab.Fault{Code: 13, Name: "Unauthorized", Msg: "not authorized"}
				}
				return mongolab.Fault{}
			})
			report, err := set.Restore(t.Context(), backup.RestoreOptions{}, &mongodb.Restore{Server: uri(s),
				Mode: mongodb.Drop})
			if !errors.Is(err, backup.ErrNotAllowed) {
				t.Fatalf("error %v", err)
			}
			for _, i := range report.Components[0].Items {
				_, name, _ := strings.Cut(i.Name, ".")
				gone := len(s.Documents("tyk_analytics", name)) == 0
				if gone != strings.Contains(i.Detail, "only copy") {
					t.Errorf("gone %v: %+v", gone, i)
				}
			}
		})
	}
}
