package main

import (
	"bytes"
	"context"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

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
	ctx, stop := context.WithCancel(t.Context())
	watched := make(chan string)
	go func() { watched <- leaked(ctx, canary) }()
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
	stop()
	if where := <-watched; where != "" {
		t.Errorf("a password is in %s", where)
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

// leaked looks at all processes until ctx ends, and returns where the text is in the
// arguments or the environment of one. redis-server gets its own from the test.
func leaked(ctx context.Context, text string) (where string) {
	for ctx.Err() == nil {
		for _, file := range []string{"cmdline", "environ"} {
			paths, _ := filepath.Glob("/proc/[0-9]*/" + file)
			for _, path := range paths {
				data, err := os.ReadFile(path)
				if err == nil && bytes.Contains(data, []byte(text)) && !bytes.HasPrefix(data,
					[]byte("redis-server")) && !bytes.Contains(data, []byte("/redis-server")) {
					where = path + ": " + string(bytes.ReplaceAll(data, []byte{0}, []byte{' '}))
				}
			}
		}
		time.Sleep(10 * time.Millisecond)
	}
	return where
}
