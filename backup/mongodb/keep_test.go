package mongodb_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"go.mongodb.org/mongo-driver/bson"

	"example.com/tykupgrade/backup"
	"example.com/tykupgrade/backup/mongodb"
	mongolab "example.com/tykupgrade/internal/lab/mongo"
)

// What Replace replaced stays until it is accepted, and comes back as it was: documents,
// options, indexes, UUIDs, views, and what the set does not have.
func TestKeep(t *testing.T) {
	t.Parallel()
	from := smallMongo(t, mongolab.Options{})
	view := func(s *mongolab.Server, name, on string) {
		mongoRun(t, mongoClient(t, s), "tyk_analytics", bson.D{{Key: "create", Value: name},
			{Key: "viewOn", Value: on}, {Key: "pipeline", Value: bson.A{}}})
	}
	view(from, "view", "apis")
	view(from, "added", "apis")
	set := takeMongo(t, &mongodb.Source{Server: uri(from)})
	s := changedMongo(t)
	view(s, "view", "keys")
	view(s, "extra", "keys")
	before := state(t, s)
	keep := backup.RestoreOptions{Keep: true}
	target := func() *mongodb.Restore {
		return &mongodb.Restore{Server: uri(s), Mode: mongodb.Replace, DropExtra: true}
	}
	left := func() string {
		l, err := mongodb.Leftovers(t.Context(), uri(s))
		if err != nil {
			t.Fatal(err)
		}
		var out []string
		for _, one := range l {
			out = append(out, fmt.Sprint(one.Database, " ", one.State, " ", len(one.Collections)))
		}
		return strings.Join(out, ", ")
	}
	for _, end := range []string{"undo", "accept"} {
		if report, err := set.Restore(t.Context(), keep, target()); err != nil ||
			report.Components[0].State != backup.StateVerified {
			t.Fatalf("%v %+v", err, report)
		}
		if n := len(s.Documents("tyk_analytics", "apis")); n != 14 ||
			left() != "tyk_analytics unaccepted 3" {
			t.Errorf("%d documents, left %s", n, left())
		}
		for _, o := range []backup.RestoreOptions{{}, {DryRun: true}} {
			if _, err := set.Restore(t.Context(), o, target()); !errors.Is(err, mongodb.ErrUnaccepted) {
				t.Errorf("again: %v", err)
			}
		}
		if pruned, err := mongodb.Prune(t.Context(), uri(s), time.Hour); err != nil || len(pruned) > 0 {
			t.Errorf("%v %v", pruned, err)
		}
		other := takeMongo(t, &mongodb.Source{Server: uri(from), Include: []string{"*.apis"}})
		if report, err := other.Undo(t.Context(), target()); report.Components[0].State !=
			backup.StateFailed || !errors.Is(err, mongodb.ErrUnaccepted) {
			t.Errorf("another set's undo: %v", err)
		}
		if end == "undo" {
			report, err := set.Undo(t.Context(), target())
			if err != nil || report.Components[0].State != backup.StateUndone {
				t.Fatalf("%+v %v", report, err)
			}
			if got := state(t, s); got != before {
				t.Errorf("before:\n%.900s\nafter:\n%.900s", before, got)
			}
			continue
		}
		if err := set.Accept(t.Context(), target()); err != nil {
			t.Fatal(err)
		}
	}
	if got := fmt.Sprint(s.Collections("tyk_analytics")); got != "[added apis keys "+
		"system.views view]" || left() != "" {
		t.Errorf("collections %s, left %s", got, left())
	}
	report, err := set.Undo(t.Context(), target())
	if err = errors.Join(err, set.Accept(t.Context(), target())); err != nil ||
		report.Components[0].State != backup.StateNothing {
		t.Errorf("nothing is left to do: %+v %v", report, err)
	}
	// Prune accepts, and Drop keeps nothing.
	if _, err := set.Restore(t.Context(), keep, target()); err != nil {
		t.Fatal(err)
	}
	if pruned, err := mongodb.Prune(t.Context(), uri(s), 0); err != nil || len(pruned) != 1 ||
		left() != "" {
		t.Errorf("%v %v, left %s", pruned, err, left())
	}
	drop := &mongodb.Restore{Server: uri(s), Mode: mongodb.Drop}
	if _, err := set.Restore(t.Context(), keep, drop); err != nil {
		t.Fatal(err)
	}
	if _, err := set.Undo(t.Context(), drop); err == nil || !strings.Contains(err.Error(),
		"does not keep") {
		t.Errorf("error %v", err)
	}
	if err := set.Accept(t.Context(), drop); err != nil || left() != "" {
		t.Errorf("%v, left %s", err, left())
	}
}

// Two restores into one database exclude each other.
func TestLocked(t *testing.T) {
	t.Parallel()
	set := takeMongo(t, &mongodb.Source{Server: uri(smallMongo(t, mongolab.Options{}))})
	s := changedMongo(t)
	reached, goOn := make(chan bool, 100), make(chan struct{})
	s.Hook(func(c mongolab.Command) mongolab.Fault {
		if c.Name == "insert" && c.Target != "tykupgrade_restore" {
			reached <- true
			return mongolab.Fault{Wait: goOn}
		}
		return mongolab.Fault{}
	})
	done := make(chan error)
	go func() {
		_, err := set.Restore(t.Context(), backup.RestoreOptions{}, &mongodb.Restore{Server: uri(s),
			Mode: mongodb.Replace})
		done <- err
	}()
	<-reached
	var e *backup.Error
	for _, dry := range []bool{true, false} {
		_, err := set.Restore(t.Context(), backup.RestoreOptions{DryRun: dry}, &mongodb.Restore{
			Server: uri(s), Mode: mongodb.Replace})
		if !errors.Is(err, backup.ErrLocked) || !errors.As(err, &e) || !e.Retryable() {
			t.Errorf("error %v", err)
		}
	}
	if pruned, err := mongodb.Prune(t.Context(), uri(s), 0); err != nil || len(pruned) > 0 {
		t.Errorf("%v %v", pruned, err)
	}
	close(goOn)
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// Every write waits for a majority, and every collection is read back once.
func TestWrites(t *testing.T) {
	t.Parallel()
	from := smallMongo(t, mongolab.Options{})
	mongoRun(t, mongoClient(t, from), "tyk_analytics", bson.D{{Key: "createIndexes", Value: "keys"},
		{Key: "indexes", Value: bson.A{bson.D{{Key: "key", Value: bson.D{{Key: "text", Value: 1}}},
			{Key: "name", Value: "text"}}}}})
	set := takeMongo(t, &mongodb.Source{Server: uri(from)})
	for _, mode := range []mongodb.Mode{mongodb.Replace, mongodb.Drop} {
		s := changedMongo(t)
		counts := make(chan map[string]int, 1)
		counts <- map[string]int{}
		s.Hook(func(c mongolab.Command) mongolab.Fault {
			n := <-counts
			n[c.Name]++
			counts <- n
			switch c.Name {
			case "insert", "update", "delete", "create", "createIndexes", "renameCollection", "drop":
				if w, _ := c.Body.Lookup("writeConcern", "w").StringValueOK(); w != "majority" {
					t.Errorf("%s %s waits for %q", c.Name, c.Target, w)
				}
			case "find":
				if !strings.HasPrefix(c.Target, "tykupgrade_restore") && mode == mongodb.Replace {
					t.Errorf("find in %s", c.Target)
				}
				if strings.HasPrefix(c.Target, "tykupgrade_restore_") {
					n := <-counts
					n["read back"]++
					counts <- n
				}
			}
			return mongolab.Fault{}
		})
		if _, err := set.Restore(t.Context(), backup.RestoreOptions{}, &mongodb.Restore{Server: uri(s),
			Mode: mode, DropExtra: true}); err != nil {
			t.Fatal(err)
		}
		if n := <-counts; mode == mongodb.Replace && n["read back"] != 2 {
			t.Errorf("%d collections of 2 were read back; commands %v", n["read back"], n)
		}
	}
}

// A count that an attempt added is taken back before the next one.
func TestProgressAfterRetry(t *testing.T) {
	t.Parallel()
	s := smallMongo(t, mongolab.Options{})
	s.Hook(once("getMore", 1, mongolab.Fault{Cut: true}))
	var last backup.Event
	_, err := backup.Take(t.Context(), t.TempDir(), backup.Options{Progress: func(e backup.Event) {
		if e.Phase == backup.PhaseBackup && !e.Done {
			last = e
		}
	}}, &mongodb.Source{Server: uri(s)})
	if err != nil || last.Items != 514 {
		t.Errorf("%d documents were counted, want 514 (%v)", last.Items, err)
	}
}
