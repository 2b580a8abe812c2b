package hostfiles_test

import (
	"context"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"example.com/tykupgrade/backup"
	"example.com/tykupgrade/backup/backuptest"
	"example.com/tykupgrade/backup/hostfiles"
	"example.com/tykupgrade/internal/lab"
	"example.com/tykupgrade/internal/run"
)

func TestConformanceFiles(t *testing.T) {
	t.Parallel()
	root := tykHost(t)
	backuptest.Run(t, backuptest.Case{
		Source: func(*testing.T) backup.Source { return &hostfiles.Source{FS: os.DirFS(root)} },
		Restorer: func(t *testing.T) backup.Restorer {
			return &hostfiles.Restore{Root: t.TempDir(), Paths: []string{"/opt", "/etc", "/lib", "/tmp"}}
		},
		Change: func(t *testing.T) {
			write(t, root, "opt/tyk-gateway/tyk.conf", `{"secret":"other"}`,
				0o644)
		},
		Broken: func(*testing.T) backup.Source {
			return &hostfiles.Source{FS: os.DirFS(root), Paths: []string{"/opt/tyk-gateway/tyk.conf",
				"/no/such/file"}}
		},
		Secret: "352d20ee67be67f6340b4c0605b044b7",
	})
}

func TestConformanceFilesRemote(t *testing.T) {
	t.Parallel()
	needGNU(t)
	root := tykHost(t)
	source := &hostfiles.Source{Runner: run.Local(run.Options{}), Paths: []string{root + "/opt/*",
		root + "/etc"}}
	backuptest.Run(t, backuptest.Case{
		Source: func(*testing.T) backup.Source { return source },
		Restorer: func(t *testing.T) backup.Restorer {
			return &hostfiles.Restore{Root: t.TempDir(), Paths: []string{"/opt", "/etc", "/lib", "/tmp"}}
		},
		Change: func(t *testing.T) {
			write(t, root, "opt/tyk-gateway/tyk.conf", `{"secret":"other"}`,
				0o644)
		},
		Broken: func(*testing.T) backup.Source {
			return &hostfiles.Source{Runner: func(ctx context.Context, argv []string, in io.Reader, out,
				errOut io.Writer) error {
				return run.Local(run.Options{})(ctx, append([]string{"false"}, argv...), in, out, errOut)
			}}
		},
		Variant: true, Cancels: 6, // each is a run of find and tar
	})
}

// A component behind a link, and directories as they were.
func TestConformanceTree(t *testing.T) {
	t.Parallel()
	t.Run("local", func(t *testing.T) {
		t.Parallel()
		backuptest.RunTree(t, backuptest.TreeCase{
			Source: func(_ *testing.T, root string) backup.Source {
				return &hostfiles.Source{FS: os.DirFS(root), Paths: []string{"/app"}}
			},
			Restorer: func(_ *testing.T, root string) backup.Restorer {
				return &hostfiles.Restore{Root: root, Paths: []string{"/app", "/data"}}
			},
		})
	})
	t.Run("remote", func(t *testing.T) {
		t.Parallel()
		needGNU(t)
		backuptest.RunTree(t, backuptest.TreeCase{
			Source: func(_ *testing.T, root string) backup.Source {
				return &hostfiles.Source{Runner: localRunner, Paths: []string{root + "/app"}}
			},
			Restorer: func(_ *testing.T, root string) backup.Restorer {
				return &hostfiles.Restore{Runner: localRunner, Paths: []string{root}}
			},
		})
	})
}

func write(t testing.TB, root, name, content string, mode os.FileMode) {
	t.Helper()
	path := filepath.Join(root, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), mode); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
}

// tykHost lays out what Tyk's packages install.
func tykHost(t testing.TB) string {
	t.Helper()
	root := t.TempDir()
	for name, content := range map[string]string{
		"opt/tyk-gateway/tyk.conf":                        `{"secret":"352d20ee67be67f6340b4c0605b044b7"}`,
		"opt/tyk-gateway/policies/policies.json":          `{}`,
		"opt/tyk-gateway/apps/app_sample.json":            `{"name":"sample"}`,
		"opt/tyk-gateway/templates/error_500.json":        `{"error":"500"}`,
		"opt/tyk-gateway/templates/playground/index":      "playground",
		"opt/tyk-gateway/middleware/sample.js":            "// edited",
		"opt/tyk-gateway/event_handlers/sample/a.js":      "// a",
		"opt/tyk-gateway/tyk":                             "the binary is not backed up",
		"opt/tyk-pump/pump.conf":                          `{"pumps":{}}`,
		"etc/default/tyk-gateway":                         "TYK_GW_SECRET=s\n",
		"etc/default/other":                               "not Tyk's",
		"lib/systemd/system/tyk-gateway.service":          "[Service]\n",
		"etc/systemd/system/tyk-gateway.service.d/x.conf": "[Service]\nLimitNOFILE=1\n",
		"opt/odd/a name with spaces\nand a \\ in it":      "odd",
	} {
		write(t, root, name, content, 0o640)
	}
	if err := os.Symlink("../../odd/a name with spaces\nand a \\ in it", filepath.Join(root,
		"opt/tyk-gateway/templates/link")); err != nil {
		t.Fatal(err)
	}
	old := time.Date(2024, 2, 6, 12, 34, 56, 789_000_000, time.UTC)
	if err := os.Chtimes(filepath.Join(root, "opt/tyk-pump/pump.conf"), old, old); err != nil {
		t.Fatal(err)
	}
	return root
}

func needGNU(t testing.TB) {
	t.Helper()
	for _, argv := range [][]string{{"tar", "--version"}, {"find", "--version"}} {
		var out strings.Builder
		if err := run.Local(run.Options{})(t.Context(), argv, nil, &out, nil); err != nil ||
			!strings.Contains(out.String(), "GNU") {
			lab.Missing(t, "GNU "+argv[0])
		}
	}
}
