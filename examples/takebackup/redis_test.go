package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	redislab "example.com/tykupgrade/internal/lab/redis"
)

func TestRedis(t *testing.T) {
	t.Parallel()
	s := redislab.Start(t, "--requirepass", "sesame")
	s.Fill()
	dir := t.TempDir()
	uri := "redis://:sesame@" + s.Addr + "/0"
	c := cmd{t: t, env: map[string]string{"TAKEBACKUP_REDIS_URI": uri}}
	c.run(0, "take", "-dir", dir, "-redis", "-config", "-root", host(t))
	if _, msg := c.run(2, "take", "-dir", dir, "-redis", "-redis-method",
		"odd"); !strings.Contains(msg, "psync, bgsave, save or dump") {
		t.Error(msg)
	}
	if out, _ := c.run(0, "verify", "-dir", dir, "latest"); strings.Contains(out, "sesame") {
		t.Error(out)
	}
	uriFile := filepath.Join(t.TempDir(), "uri")
	if err := os.WriteFile(uriFile, []byte(uri+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	c.env = nil
	if _, msg := c.run(5, "restore", "-dir", dir, "-redis", "-redis-uri-file", uriFile,
		"latest"); !strings.Contains(msg, "not empty") {
		t.Error(msg)
	}
	if _, msg := c.run(5, "restore", "-dir", dir, "-redis", "-redis-uri-file", uriFile, "-redis-mode",
		"offline", "-redis-dir", s.Dir, "latest"); !strings.Contains(msg, "not empty") {
		t.Error(msg)
	}
	s.Do("SET", "string", "changed")
	out, _ := c.run(0, "restore", "-dir", dir, "-redis", "-redis-uri-file", uriFile, "-replace",
		"latest")
	if !strings.Contains(out, "verified") || !strings.Contains(out, "not requested") ||
		s.Do("GET", "string") != "value" {
		t.Error(out)
	}
	c.env = map[string]string{"TAKEBACKUP_REDIS_URI": "redis://:wrong@" + s.Addr}
	v := c.json(1, "take", "-dir", dir, "-redis")
	if msg := v["error"].(string); strings.Contains(msg, "wrong@") || strings.Contains(msg,
		":wrong") || v["hint"] != "check user and password" {
		t.Errorf("%v", v)
	}
}

// A restore that is kept can be undone or accepted later; a dump.rdb needs no set.
func TestRedisThereAndBack(t *testing.T) {
	t.Parallel()
	source, target := redislab.Start(t, "--rename-command", "PSYNC", "sync-4711"), redislab.Start(t)
	source.Fill()
	dir := t.TempDir()
	from := cmd{t: t, env: map[string]string{"TAKEBACKUP_REDIS_URI": "redis://" + source.Addr}}
	to := cmd{t: t, env: map[string]string{"TAKEBACKUP_REDIS_URI": "redis://" + target.Addr}}
	if _, msg := from.run(1, "take", "-dir", dir, "-redis"); !strings.Contains(msg, "-redis-command") {
		t.Error(msg)
	}
	from.run(0, "take", "-dir", dir, "-redis", "-redis-command", "psync=sync-4711")
	target.Do("SET", "mine", "1")
	if v := to.json(5, "restore", "-dir", dir, "-redis", "latest"); !strings.Contains(
		v["hint"].(string), "-replace") {
		t.Error(v)
	}
	undo := []string{"-dir", dir, "-redis", "-replace", "latest"}
	to.run(0, append([]string{"restore", "-keep"}, undo...)...)
	if target.Do("GET", "string") != "value" {
		t.Error("not restored")
	}
	out, _ := to.run(0, "undo", "-dir", dir, "-redis", "latest")
	if !strings.Contains(out, "redis: the previous state is restored") || target.Do("GET",
		"mine") != "1" || target.Do("DBSIZE") != int64(1) {
		t.Error("not undone")
	}
	to.run(0, append([]string{"restore", "-keep"}, undo...)...)
	to.run(0, "accept", "-dir", dir, "-redis", "latest")
	out, _ = to.run(0, "undo", "-dir", dir, "-redis", "latest")
	if !strings.Contains(out, "redis: there was nothing to undo") {
		t.Error(out)
	}
	if target.Do("GET", "string") != "value" {
		t.Error("accepted, and gone")
	}

	source.Do("SAVE")
	dump := filepath.Join(source.Dir, "dump.rdb")
	state := t.TempDir()
	to.run(5, "restore-dump", "-rescue", state, dump)
	target.Do("FLUSHALL")
	target.Do("FUNCTION", "FLUSH")
	if out, _ := to.run(0, "restore-dump", "-rescue", state, "-dry-run", dump); !strings.Contains(out,
		"dry run") || target.Do("DBSIZE") != int64(0) {
		t.Error(out)
	}
	if out, _ := to.run(0, "restore-dump", "-rescue", state, dump); !strings.Contains(out,
		"verified") || target.Do("DBSIZE") != source.Do("DBSIZE") {
		t.Error(out)
	}
	if err := os.Truncate(dump, 100); err != nil {
		t.Fatal(err)
	}
	to.run(5, "restore-dump", "-rescue", state, "-replace", dump)
}
