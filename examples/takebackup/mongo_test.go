package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.mongodb.org/mongo-driver/bson"

	"example.com/tykupgrade/backup"
	"example.com/tykupgrade/backup/mongodb"
	mongolab "example.com/tykupgrade/internal/lab/mongo"
)

func mongoServer(t *testing.T, o mongolab.Options) *mongolab.Server {
	t.Helper()
	s, err := mongolab.Start(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

func fillMongo(t *testing.T, s *mongolab.Server, from, n int) {
	t.Helper()
	s.Fill("tyk_analytics", "apis", n, func(i int) bson.Raw {
		raw, err := bson.Marshal(bson.D{{Key: "_id", Value: from + i}})
		if err != nil {
			t.Fatal(err)
		}
		return raw
	})
}

func TestMongo(t *testing.T) {
	t.Parallel()
	s := mongoServer(t, mongolab.Options{User: "tyk", Password: "sesame"})
	fillMongo(t, s, 0, 200)
	dir := t.TempDir()
	uri := strings.Replace(s.URI(), "mongodb://", "mongodb://tyk@", 1)
	c := cmd{t: t, env: map[string]string{"TAKEBACKUP_MONGODB_URI": uri,
		"TAKEBACKUP_MONGODB_PASSWORD": "sesame"}}
	out, _ := c.run(0, "take", "-dir", dir, "-mongo")
	if !strings.Contains(out, "MongoDB 7.0.14") || !strings.Contains(out, "snapshot") ||
		!strings.Contains(out, "200") || strings.Contains(out, "sesame") {
		t.Error(out)
	}
	c.run(0, "verify", "-dir", dir, "-level", "live", "-mongo", "latest")
	if _, msg := c.run(5, "restore", "-dir", dir, "-mongo", "latest"); !strings.Contains(msg,
		"200 documents") {
		t.Error(msg)
	}
	if v := c.json(5, "restore", "-dir", dir, "-mongo", "latest"); !strings.Contains(
		v["hint"].(string), "-replace") {
		t.Error(v)
	}
	c.run(1, "take", "-dir", dir, "-mongo", "-mongo-parallel", "100")
	c.run(1, "take", "-dir", dir, "-mongo", "-mongo-db", "admin")
	fillMongo(t, s, 1000, 1)
	c.run(1, "verify", "-dir", dir, "-level", "live", "-mongo", "latest")
	if out, _ := c.run(0, "restore", "-dir", dir, "-mongo", "-replace", "latest"); !strings.Contains(
		out, "replace") || !strings.Contains(out, "verified") {
		t.Error(out)
	}
	if n := len(s.Documents("tyk_analytics", "apis")); n != 200 {
		t.Errorf("%d documents", n)
	}
	// What a newer version added is named, and goes when that is asked.
	s.Insert("tyk_analytics", "new", bson.Raw{5, 0, 0, 0, 0})
	if _, msg := c.run(1, "verify", "-dir", dir, "-level", "live", "-mongo",
		"latest"); !strings.Contains(msg, "tyk_analytics.new: the target differs") {
		t.Error(msg)
	}
	if out, _ := c.run(0, "restore", "-dir", dir, "-mongo", "-replace", "latest"); !strings.Contains(
		out, "keep") || !strings.Contains(out, "-mongo-drop-extra drops it") {
		t.Error(out)
	}
	if out, _ := c.run(0, "restore", "-dir", dir, "-mongo", "-replace", "-mongo-drop-extra",
		"latest"); !strings.Contains(out, "drop ") || strings.Contains(out, "-mongo-drop-extra") {
		t.Error(out)
	}
	c.run(0, "verify", "-dir", dir, "-level", "live", "-mongo", "latest")
	// What a killed restore left is named, and goes when that is asked.
	s.Insert("tyk_analytics", "tykupgrade_restore_0a0b0c0d_1", bson.Raw{5, 0, 0, 0, 0})
	if out, _ := c.run(0, "prune", "-mongo", "-dry-run"); !strings.Contains(out,
		"tykupgrade_restore_0a0b0c0d_1") {
		t.Error(out)
	}
	if out, _ := c.run(0, "prune", "-mongo"); !strings.Contains(out, "removed") ||
		strings.Contains(fmt.Sprint(s.Collections("tyk_analytics")), "tykupgrade_") {
		t.Error(out)
	}
	for _, args := range [][]string{
		{"-mongo-read", "all"}, {"-mongo-snapshot", "maybe"},
	} {
		c.run(2, append([]string{"take", "-dir", dir, "-mongo"}, args...)...)
	}
	for _, args := range [][]string{{"-mongo-mode", "x"}, {"-mongo-mode", "merge"},
		{"-mongo-drop-extra"}} {
		c.run(2, append(append([]string{"restore", "-dir", dir, "-mongo"}, args...), "latest")...)
	}
	if _, msg := c.run(2, "take", "-dir", dir, "-config", "-mongo-db",
		"tyk_analytics"); !strings.Contains(msg, "needs -mongo") {
		t.Error(msg)
	}
	if _, msg := c.run(2, "restore", "-dir", dir, "-config", "-mongo-mode", "drop",
		"latest"); !strings.Contains(msg, "needs -mongo") {
		t.Error(msg)
	}
	c.run(1, "take", "-dir", dir, "-mongo", "-mongo-db", "no_such_database")
	c.env["TAKEBACKUP_MONGODB_PASSWORD"] = "wrong sesame"
	if v := c.json(1, "take", "-dir", dir, "-mongo"); strings.Contains(v["error"].(string),
		"sesame") || v["hint"] != "check user, password and authSource" {
		t.Errorf("%v", v)
	}
	file := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(file, []byte("sesame\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	c.run(0, "take", "-dir", dir, "-mongo", "-mongo-password-file", file, "-mongo-plain")
	c.env = nil
	c.run(2, "take", "-dir", dir, "-mongo")
}

func TestRestoreDump(t *testing.T) {
	t.Parallel()
	from, to := mongoServer(t, mongolab.Options{}), mongoServer(t, mongolab.Options{})
	fillMongo(t, from, 0, 10)
	set, err := backup.Take(t.Context(), t.TempDir(), backup.Options{},
		&mongodb.Source{Server: mongodb.Server{URI: from.URI()}})
	if err != nil {
		t.Fatal(err)
	}
	dump := filepath.Join(set.Dir, "mongo") // is what mongodump --out writes
	c := cmd{t: t, env: map[string]string{"TAKEBACKUP_MONGODB_URI": to.URI()}}
	if out, _ := c.run(0, "restore-dump", "-dry-run", dump); !strings.Contains(out, "dry run") ||
		len(to.Collections("tyk_analytics")) > 0 {
		t.Error(out)
	}
	if out, _ := c.run(0, "restore-dump", dump); !strings.Contains(out, "verified") ||
		len(to.Documents("tyk_analytics", "apis")) != 10 {
		t.Error(out)
	}
	c.run(5, "restore-dump", dump)
	c.run(5, "restore-dump", filepath.Join(dump, "tyk_analytics"))
	if err := os.Remove(filepath.Join(dump, "tyk_analytics", "prelude.json.gz")); err != nil {
		t.Fatal(err)
	}
	c.run(5, "restore-dump", dump)
	c.run(0, "restore-dump", "-mongo-no-prelude", "-replace", dump)
}
