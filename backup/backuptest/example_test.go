package backuptest_test

import (
	"os"
	"path/filepath"
	"testing"

	"example.com/tykupgrade/backup"
	"example.com/tykupgrade/backup/backuptest"
	"example.com/tykupgrade/backup/hostfiles"
)

// The conformance suite in a test of your own source. Here the source is that of package hostfiles;
// use yours instead.
func ExampleRun() {
	var t *testing.T // the argument of your test function
	root := t.TempDir()
	conf := filepath.Join(root, "conf")
	backuptest.Run(t, backuptest.Case{
		Source: func(*testing.T) backup.Source {
			return &hostfiles.Source{FS: os.DirFS(root), Paths: []string{"/conf"}}
		},
		Restorer: func(t *testing.T) backup.Restorer {
			return &hostfiles.Restore{Root: t.TempDir(), Paths: []string{"/conf"}}
		},
		Change: func(t *testing.T) {
			if err := os.WriteFile(conf, []byte("changed"), 0o600); err != nil {
				t.Fatal(err)
			}
		},
		Broken: func(*testing.T) backup.Source {
			return &hostfiles.Source{FS: os.DirFS(root), Paths: []string{"/nothing/there"}}
		},
	})
}

// A test that kills a source at work: the named test runs again in processes of its own,
// where Helper takes one set after the other.
func ExampleKill() {
	_ = func(t *testing.T) { // TestHelper
		backuptest.Helper(func() []backup.Source {
			return []backup.Source{&hostfiles.Source{FS: os.DirFS(os.Getenv("ROOT"))}}
		})
	}
	_ = func(t *testing.T) { // TestKilled
		backuptest.Kill(t, "TestHelper", 50, "ROOT=/srv/testdata")
	}
}
