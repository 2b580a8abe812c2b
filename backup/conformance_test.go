package backup_test

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"example.com/tykupgrade/backup"
	"example.com/tykupgrade/backup/backuptest"
	"example.com/tykupgrade/backup/hostfiles"
	"example.com/tykupgrade/backup/redisdb"
	"example.com/tykupgrade/internal/lab"
	redislab "example.com/tykupgrade/internal/lab/redis"
)

func TestKilledHelper(t *testing.T) {
	backuptest.Helper(func() []backup.Source {
		return []backup.Source{
			&hostfiles.Source{FS: os.DirFS(os.Getenv("BACKUP_TEST_ROOT"))},
			text("more", "of another source"),
		}
	})
}

func TestKilled(t *testing.T) {
	t.Parallel()
	backuptest.Kill(t, "TestKilledHelper", lab.Kills(6), "BACKUP_TEST_ROOT="+tykHost(t))
}

func TestDamaged(t *testing.T) {
	t.Parallel()
	s := redislab.Start(t)
	s.Fill()
	set, err := backup.Take(t.Context(), t.TempDir(), backup.Options{}, &hostfiles.Source{
		FS: os.DirFS(tykHost(t))}, &redisdb.Source{Client: s.Client()})
	if err != nil {
		t.Fatal(err)
	}
	backuptest.Damage(t, set, 150)
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
