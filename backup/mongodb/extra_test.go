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

// extraMongo has a set, and the server after an upgrade added collections: one
// that the set left out, two that it would hold, one of another restore.
func extraMongo(t *testing.T) (*mongolab.Server, *backup.Set) {
	t.Helper()
	from := smallMongo(t, mongolab.Options{})
	from.Insert("tyk_analytics", "logs", doc(t, bson.D{{Key: "_id", Value: 1}}))
	set := takeMongo(t, &mongodb.Source{Server: uri(from), Exclude: []string{"*.log*"}})
	s := changedMongo(t)
	s.Insert("tyk_analytics", "logs", doc(t, bson.D{{Key: "_id", Value: 2}}))
	s.Insert("tyk_analytics", "tykupgrade_restore_0123_1", doc(t, bson.D{{Key: "_id", Value: 1}}))
	mongoRun(t, mongoClient(t, s), "tyk_analytics", bson.D{{Key: "create", Value: "new view"},
		{Key: "viewOn", Value: "apis"}, {Key: "pipeline", Value: bson.A{}}})
	return s, set
}

func actions(items []backup.Item) string {
	var b strings.Builder
	for _, i := range items {
		fmt.Fprintf(&b, "%s %s %d; ", i.Action, strings.TrimPrefix(i.Name, "tyk_analytics."), i.Count)
	}
	return b.String()
}

// What a newer version added stays and is named, or goes where that is asked.
func TestExtra(t *testing.T) {
	t.Parallel()
	for _, mode := range []mongodb.Mode{mongodb.Replace, mongodb.Drop} {
		t.Run(fmt.Sprint("mode ", mode), func(t *testing.T) {
			t.Parallel()
			s, set := extraMongo(t)
			live := backup.VerifyOptions{Level: backup.LevelLive, Against: []backup.Prover{&mongodb.Source{
				Server: uri(s)}}}
			report, err := set.Restore(t.Context(), backup.RestoreOptions{}, &mongodb.Restore{Server: uri(s),
				Mode: mode})
			if err != nil {
				t.Fatal(err)
			}
			if got := actions(report.Components[0].Items); got != "replace apis 14; replace keys 500; "+
				"keep new view 0; keep untouched 1; keep tykupgrade_restore_0123_1 0; " {
				t.Errorf("without being asked: %s", got)
			}
			if err := set.Verify(t.Context(), live); !errors.Is(err, backup.ErrDiffers) ||
				!strings.Contains(err.Error(), "compare tyk_analytics.untouched") ||
				!strings.Contains(err.Error(), "compare tyk_analytics.new view") ||
				strings.Contains(err.Error(), "logs") {
				t.Errorf("compared with what runs: %v", err)
			}
			before := state(t, s)
			m := &mongodb.Restore{Server: uri(s), Mode: mode, DropExtra: true}
			for _, dry := range []bool{true, false} {
				report, err = set.Restore(t.Context(), backup.RestoreOptions{DryRun: dry}, m)
				if err != nil {
					t.Fatal(err)
				}
				if got := actions(report.Components[0].Items); got != "replace apis 14; replace keys 500; "+
					"drop new view 0; drop untouched 1; keep tykupgrade_restore_0123_1 0; " {
					t.Errorf("dry run %v: %s", dry, got)
				}
				if dry && state(t, s) != before {
					t.Error("the dry run changed something")
				}
			}
			if got := fmt.Sprint(s.Collections("tyk_analytics")); got != "[apis keys logs system.views "+
				"tykupgrade_restore_0123_1]" {
				t.Errorf("collections %s", got)
			}
			if err := set.Verify(t.Context(), live); err != nil {
				t.Errorf("compared with what runs: %v", err)
			}
		})
	}
	t.Run("not chosen", func(t *testing.T) {
		t.Parallel()
		s, set := extraMongo(t)
		report, err := set.Restore(t.Context(), backup.RestoreOptions{},
			&mongodb.Restore{Server: uri(s), Mode: mongodb.Replace, DropExtra: true, Exclude: []string{
				"*.untouched", "*.keys"}})
		if err != nil {
			t.Fatal(err)
		}
		if got := actions(report.Components[0].Items); got != "replace apis 14; drop new view 0; keep "+
			"tykupgrade_restore_0123_1 0; " || len(s.Documents("tyk_analytics", "untouched")) != 1 {
			t.Errorf("items %s", got)
		}
	})
	t.Run("may not", func(t *testing.T) {
		t.Parallel()
		s, set := extraMongo(t)
		before := state(t, s)
		s.Hook(func(c mongolab.Command) mongolab.Fault {
			if c.Name == "renameCollection" && c.Target == "tyk_analytics.untouched" {
				return mongolab.Fault{Code: 13, Name: "Unauthorized", Msg: "not authorized"}
			}
			return mongolab.Fault{}
		})
		report, err := set.Restore(t.Context(), backup.RestoreOptions{}, &mongodb.Restore{Server: uri(s),
			Mode: mongodb.Replace, DropExtra: true})
		if !errors.Is(err, backup.ErrNotAllowed) || !strings.Contains(err.Error(),
			"drop tyk_analytics.untouched") {
			t.Errorf("error %v", err)
		}
		if got := actions(report.Components[0].Items); got != "skip apis 14; skip keys 500; keep new "+
			"view 0; keep untouched 1; keep tykupgrade_restore_0123_1 0; " {
			t.Errorf("items %s", got)
		}
		s.Hook(nil)
		if state(t, s) != before {
			t.Error("something changed")
		}
	})
	t.Run("made meanwhile", func(t *testing.T) {
		t.Parallel()
		s, set := extraMongo(t)
		s.Hook(func(c mongolab.Command) mongolab.Fault {
			if c.Name == "renameCollection" && len(s.Documents("tyk_analytics", "newer")) == 0 {
				s.Insert("tyk_analytics", "newer", doc(t, bson.D{{Key: "_id", Value: 1}}))
			}
			return mongolab.Fault{}
		})
		report, err := set.Restore(t.Context(), backup.RestoreOptions{}, &mongodb.Restore{Server: uri(s),
			Mode: mongodb.Replace, DropExtra: true})
		if !errors.Is(err, backup.ErrDiffers) || !strings.Contains(err.Error(), "tyk_analytics.newer") ||
			report.Components[0].State != backup.StateUndone || len(s.Documents("tyk_analytics",
			"newer")) == 0 {
			t.Errorf("%v %+v", err, report)
		}
	})
	t.Run("lost answer", func(t *testing.T) {
		t.Parallel()
		s, set := extraMongo(t)
		s.Hook(once("drop", 1, mongolab.Fault{Lose: true}))
		if _, err := set.Restore(t.Context(), backup.RestoreOptions{}, &mongodb.Restore{Server: uri(s),
			Mode: mongodb.Replace, DropExtra: true}); err != nil {
			t.Error(err)
		}
	})
	t.Run("refused", func(t *testing.T) {
		t.Parallel()
		s, set := extraMongo(t)
		before := state(t, s)
		for _, m := range []*mongodb.Restore{
			{},
		} {
			m.Server, m.DropExtra = uri(s), true
			if _, err := set.Restore(t.Context(), backup.RestoreOptions{}, m); err == nil {
				t.Errorf("%+v was accepted", m)
			}
		}
		// mongodump may have been told to leave collections out.
		dump, err := mongodb.OpenDump(t.Context(), plainDump(t, smallMongo(t, mongolab.Options{}), false),
			mongodb.DumpOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := dump.Restore(t.Context(), backup.RestoreOptions{}, &mongodb.Restore{Server: uri(s),
			Mode: mongodb.Replace, DropExtra: true}); err == nil || !strings.Contains(err.Error(),
			"does not record") {
			t.Errorf("error %v", err)
		}
		if state(t, s) != before {
			t.Error("something changed")
		}
	})
}
