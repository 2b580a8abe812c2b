package mongodb_test

import (
	"bytes"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"example.com/tykupgrade/backup"
	"example.com/tykupgrade/backup/mongodb"
	"example.com/tykupgrade/internal/lab"
	mongolab "example.com/tykupgrade/internal/lab/mongo"
)

// tool finds one of MongoDB's own tools: by variable, or on PATH.
func tool(t testing.TB, name string) string {
	t.Helper()
	variable := "TYKUPGRADE_TEST_" + strings.ToUpper(name)
	if path := os.Getenv(variable); path != "" {
		return path
	}
	path, err := exec.LookPath(name)
	if err != nil {
		lab.Unavailable(t, name+" is not on PATH and not named by "+variable+" (MongoDB Database Tools)")
	}
	return path
}

func runTool(t testing.TB, argv ...string) {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), argv[0], argv[1:]...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(argv, " "), err, out)
	}
}

// What we write is what mongodump writes, file by file and byte by byte, but
// for prelude.json, which names the tool.
func TestMongodumpWritesTheSame(t *testing.T) {
	t.Parallel()
	mongodump := tool(t, "mongodump")
	s := mongoServer(t, mongolab.Options{})
	fillMongo(t, s, "tyk_analytics")
	out := t.TempDir()
	runTool(t, mongodump, "--quiet", "--uri", s.URI(), "--db", "tyk_analytics", "--out", out)
	set, err := backup.Take(t.Context(), t.TempDir(), backup.Options{},
		&mongodb.Source{Server: mongodb.Server{URI: s.URI()}, Plain: true})
	if err != nil {
		t.Fatal(err)
	}
	ours := filepath.Join(set.Dir, "mongo")
	files := func(dir string) map[string][]byte {
		m := map[string][]byte{}
		err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			rel, err := filepath.Rel(dir, p)
			if err != nil {
				return err
			}
			m[rel], err = os.ReadFile(p)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	want, got := files(out), files(ours)
	for name, w := range want {
		g, ok := got[name]
		delete(got, name)
		if !ok {
			t.Errorf("we did not write %s", name)
		} else if !bytes.Equal(w, g) && filepath.Base(name) != "prelude.json" {
			t.Errorf("%s:\nmongodump %q\nours      %q", name, w[:min(len(w), 800)], g[:min(len(g), 800)])
		}
	}
	for name := range got {
		t.Errorf("mongodump did not write %s", name)
	}
}

func TestMongorestoreReadsOurSet(t *testing.T) {
	t.Parallel()
	mongorestore := tool(t, "mongorestore")
	from := mongoServer(t, mongolab.Options{})
	fillMongo(t, from, "tyk_analytics")
	for _, plain := range []bool{false, true} {
		set, err := backup.Take(t.Context(), t.TempDir(), backup.Options{},
			&mongodb.Source{Server: mongodb.Server{URI: from.URI()}, Plain: plain})
		if err != nil {
			t.Fatal(err)
		}
		to := mongoServer(t, mongolab.Options{})
		argv := []string{mongorestore, "--quiet", "--stopOnError", "--keepIndexVersion", "--uri",
			to.URI()}
		if !plain {
			argv = append(argv, "--gzip")
		}
		runTool(t, append(argv, filepath.Join(set.Dir, "mongo"))...)
		// mongorestore orders indexes at random and turns 2dsphere versions into 1,
		// so the proof is ours: it knows what means the same.
		target := &mongodb.Restore{Server: mongodb.Server{URI: to.URI()}, Exclude: []string{"*.indexed"}}
		if err := set.Verify(t.Context(), backup.VerifyOptions{Level: backup.LevelLive,
			Against: []backup.Prover{target}}); err != nil {
			t.Error(err)
		}
		if a, b := from.Documents("tyk_analytics", "indexed"), to.Documents("tyk_analytics",
			"indexed"); len(a) != len(b) {
			t.Errorf("%d documents, want %d", len(b), len(a))
		}
	}
}

func TestWeReadMongodump(t *testing.T) {
	t.Parallel()
	mongodump := tool(t, "mongodump")
	from := mongoServer(t, mongolab.Options{})
	fillMongo(t, from, "tyk_analytics")
	for _, form := range [][]string{{"--out"}, {"--out", "--gzip"}} {
		t.Run(strings.Join(form, " "), func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "dump")
			argv := []string{mongodump, "--quiet", "--uri", from.URI(), "--db", "tyk_analytics", form[0] +
				"=" + path}
			runTool(t, append(argv, form[1:]...)...)
			dump, err := mongodb.OpenDump(t.Context(), path, mongodb.DumpOptions{})
			if err != nil {
				t.Fatal(err)
			}
			to := mongoServer(t, mongolab.Options{})
			report, err := dump.Restore(t.Context(), backup.RestoreOptions{}, &mongodb.Restore{
				Server: mongodb.Server{URI: to.URI()}})
			if err != nil || report.State != backup.StateVerified {
				t.Fatalf("%v\n%+v", err, report)
			}
			sameServers(t, from, to, "tyk_analytics", "tyk_analytics")
		})
	}
}
