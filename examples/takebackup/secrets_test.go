package main

import (
	"bytes"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	secrets "example.com/tykupgrade/internal/lab/canary"
	mongolab "example.com/tykupgrade/internal/lab/mongo"
	redislab "example.com/tykupgrade/internal/lab/redis"
)

// Passwords are neither in the arguments or the environment of any process, nor in
// output, logs, reports, journals or manifests.
func TestSecretsStay(t *testing.T) {
	t.Parallel()
	const canary = "c4n4ry-9f27"
	s := redislab.Start(t, "--requirepass", canary+"r")
	s.Fill()
	m := mongoServer(t, mongolab.Options{User: "tyk", Password: canary + "m"})
	fillMongo(t, m, 0, 20)
	tmp := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(tmp, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	dir := filepath.Join(tmp, "sets")
	parts := []string{"-dir", dir, "-v", "-redis", "-mongo", "-redis-uri-file", write("redis",
		"redis://:"+canary+"r@"+s.Addr),
		"-mongo-uri-file", write("mongo", strings.Replace(m.URI(), "mongodb://", "mongodb://tyk@", 1)),
		"-mongo-password-file", write("password", canary+"m")}
	wrong := []string{"-dir", dir, "-v", "-redis", "-redis-uri-file", write("wrong", "redis://:"+
		canary+"w@"+s.Addr+"/0")}
	secrets.Watch(t, func(p secrets.Process) bool { // redis-server gets its own from the test
		own := bytes.Contains(p.Args, []byte("redis-server"))
		return !own && (bytes.Contains(p.Args, []byte(canary)) || bytes.Contains(p.Env, []byte(canary)))
	})
	for _, c := range []struct {
		code int
		args []string
	}{
		{0, append([]string{"take"}, parts...)},
		{0, append([]string{"verify", "latest", "-level", "live"}, parts...)},
		{5, append([]string{"restore", "latest"}, parts...)},
		{0, append([]string{"restore", "latest", "-json", "-replace", "-keep"}, parts...)},
		{0, append([]string{"undo", "latest"}, parts...)},
		{0, append([]string{"restore", "latest", "-replace"}, parts...)},
		{1, append([]string{"take"}, wrong...)},
		{1, append([]string{"take", "-json"}, wrong...)},
		{3, append([]string{"verify", "latest", "-level", "live"}, wrong...)},
	} {
		command := exec.CommandContext(t.Context(), os.Args[0], c.args...)
		command.Env = append(os.Environ(), "TAKEBACKUP_TEST_MAIN=1")
		out, _ := command.CombinedOutput()
		if command.ProcessState.ExitCode() != c.code {
			t.Errorf("%v: exit code %d, want %d\n%s", c.args[0], command.ProcessState.ExitCode(), c.code,
				out)
		}
		if bytes.Contains(out, []byte(canary)) {
			t.Errorf("%v tells a password:\n%s", c.args[0], out)
		}
	}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		if bytes.Contains(data, []byte(canary)) {
			t.Errorf("a password is in %s", path)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}
