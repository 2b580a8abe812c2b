package redisdb_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"

	"example.com/tykupgrade/backup"
	"example.com/tykupgrade/backup/redisdb"
	redislab "example.com/tykupgrade/internal/lab/redis"
)

// setOf takes a set of a file with this body, after REDIS0010 and before the end
// mark. Its checksum is switched off.
func setOf(t *testing.T, head, body string) *backup.Set {
	t.Helper()
	path := filepath.Join(t.TempDir(), "dump.rdb")
	if err := os.WriteFile(path, []byte(head+body+"\xff"+string(make([]byte, 8))), 0o600); err != nil {
		t.Fatal(err)
	}
	return takePlain(t, t.TempDir(), &redisdb.Dump{Path: path})
}

// moduleID is the id of a module type with a name of nine characters, as a
// length of eight bytes.
func moduleID(name string) string {
	const chars = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	var id uint64
	for _, c := range name {
		id = id<<6 | uint64(strings.IndexRune(chars, c))
	}
	return "\x81" + string(binary.BigEndian.AppendUint64(nil, id<<10))
}

// What the target cannot hold is refused by a dry run and by the restore, live
// and offline, and nothing changes.
func TestTargetCannotHold(t *testing.T) {
	t.Parallel()
	const v7, key = "REDIS0010", "\x00\x03key\x05value"
	large := "\x00\x03big" + "\x80\x00\x60\x00\x00" + strings.Repeat("x", 6<<20)
	// LZF: one x, then 264 bytes by each reference to the byte before.
	packed := "\x00x" + strings.Repeat("\xe0\xff\x00", 24_000)
	small := "\x00\x03big\xc3\x80" + string(binary.BigEndian.AppendUint32(nil, uint32(len(packed)))) +
		"\x80" + string(binary.BigEndian.AppendUint32(nil, 1+264*24_000)) + packed
	for name, c := range map[string]struct {
		head, body, args string
		kind             error
		want             string
	}{
		"database 20": {v7, "\xfe\x14" + key, "", redisdb.ErrCannotHold, "database 20"},
		"a module": {v7, "\xfe\x00\x07\x03doc" + moduleID("ReJSON-RL") + "\x05\x02{}\x00", "",
			redisdb.ErrCannotHold, "ReJSON-RL"},
		"module data": {v7, "\xf7" + moduleID("ft_index0") + "\x02\x01\x02\x05\x00\xfe\x00" + key, "",
			nil, "ft_index0"},
		"maxmemory":  {v7, "\xfe\x00" + large, "4mb", redisdb.ErrCannotHold, "maxmemory"},
		"compressed": {v7, "\xfe\x00" + small, "4mb", redisdb.ErrCannotHold, "maxmemory"},
		"newer":      {"REDIS0012", "\xfe\x00" + key, "", backup.ErrTooNew, "version 12"},
		"valkey":     {"VALKEY080", "\xfe\x00" + key, "", backup.ErrTooNew, "version 80"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			set := setOf(t, c.head, c.body)
			target := redislab.Start(t)
			target.Do("SET", "mine", "1")
			if c.args != "" {
				target.Do("CONFIG", "SET", "maxmemory", c.args, "maxmemory-policy", "allkeys-lru")
			}
			for _, r := range []backup.Restorer{
				&redisdb.Live{Client: target.Client(), Replace: true, StateDir: t.TempDir()},
				&redisdb.Offline{Servers: []redisdb.Server{offline(target)}, Replace: true,
					StateDir: t.TempDir()},
			} {
				for _, dry := range []bool{true, false} {
					_, err := set.Restore(t.Context(), backup.RestoreOptions{DryRun: dry}, r)
					if err == nil || (c.kind != nil && !errors.Is(err, c.kind)) || !strings.Contains(err.Error(),
						c.want) {
						t.Errorf("%T, dry run %v: %v", r, dry, err)
					}
				}
			}
			if target.Do("GET", "mine") != "1" || target.Do("DBSIZE") != int64(1) {
				t.Error("the previous data is gone")
			}
		})
	}
	set := setOf(t, v7, "\xfe\x00\x07\x03doc"+moduleID("ReJSON-RL")+"\x05\x02{}\x00")
	if w := strings.Join(set.Components[0].Warnings, ""); !strings.Contains(w, "ReJSON-RL") ||
		redisDetails(t, set).Nodes[0].RDB.Modules["ReJSON-RL"] != 1 {
		t.Errorf("the manifest does not name the module: %q", w)
	}
}

// A file of a newer version goes in offline alone, and only if told.
func TestNotWalked(t *testing.T) {
	t.Parallel()
	set := setOf(t, "REDIS0010", "\xf6anything")
	target := redislab.Start(t)
	for _, r := range []backup.Restorer{
		&redisdb.Live{Client: target.Client(), StateDir: t.TempDir()},
		&redisdb.Offline{Servers: []redisdb.Server{offline(target)}, StateDir: t.TempDir()},
	} {
		_, err := set.Restore(t.Context(), backup.RestoreOptions{DryRun: true}, r)
		if err == nil || !strings.Contains(err.Error(), "Offline") && !strings.Contains(err.Error(),
			"Uncompared") {
			t.Errorf("%T: %v", r, err)
		}
	}
	r := &redisdb.Offline{Servers: []redisdb.Server{offline(target)}, StateDir: t.TempDir(),
		Uncompared: true}
	if _, err := set.Restore(t.Context(), backup.RestoreOptions{DryRun: true}, r); err != nil {
		t.Error(err)
	}
}

// Empty collections, as old servers left them, are passed over.
func TestEmptyCollections(t *testing.T) {
	t.Parallel()
	set := setOf(t, "REDIS0006", "\xfe\x00\x00\x03key\x05value\x01\x04list\x00\x04\x04hash\x00")
	target := redislab.Start(t)
	if _, err := set.Restore(t.Context(), backup.RestoreOptions{},
		&redisdb.Live{Client: target.Client(), StateDir: t.TempDir()}); err != nil {
		t.Fatal(err)
	}
	if n := target.Do("DBSIZE"); n != int64(1) {
		t.Errorf("%v keys", n)
	}
	other := redislab.Start(t)
	if _, err := set.Restore(t.Context(), backup.RestoreOptions{}, &redisdb.Offline{
		Servers: []redisdb.Server{offline(other)}, StateDir: t.TempDir()}); err != nil {
		t.Fatal(err)
	}
}

// A key that expired in 1970 or before, as a file can have it, has expired and harms nobody.
func TestPastExpiry(t *testing.T) {
	t.Parallel()
	gone := func(ms int64) string {
		return "\xfc" + string(binary.LittleEndian.AppendUint64(nil, uint64(ms)))
	}
	set := setOf(t, "REDIS0010", "\xfe\x00"+gone(-5000)+"\x00\x01a\x01v"+gone(0)+"\x00\x01b\x01v"+
		gone(-1)+"\x00\x01c\x01v"+"\xfd\x00\x00\x00\x80\x00\x01d\x01v")
	target, other := redislab.Start(t), redislab.Start(t)
	for s, r := range map[*redislab.Server]backup.Restorer{
		target: &redisdb.Live{Client: target.Client(), StateDir: t.TempDir()},
		other:  &redisdb.Offline{Servers: []redisdb.Server{offline(other)}, StateDir: t.TempDir()},
	} {
		if _, err := set.Restore(t.Context(), backup.RestoreOptions{}, r); err != nil {
			t.Errorf("%T: %v", r, err)
		}
		if keys := s.Do("KEYS", "*"); fmt.Sprint(keys) != "[c]" { // its expiry is the value for none
			t.Errorf("%T: keys %v", r, keys)
		}
	}
}

// The directory that a server names is not an order: it must be the server's own.
func TestOfflineDirectory(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("needs root, to have a server of another user")
	}
	set := filledSet(t)
	target := redislab.Start(t) // runs as root
	server := offline(target)
	server.Dir = ""
	r := &redisdb.Offline{Servers: []redisdb.Server{server}, StateDir: t.TempDir()}
	_, err := set.Restore(t.Context(), backup.RestoreOptions{}, r)
	if err == nil || !strings.Contains(err.Error(), "Server.Dir") {
		t.Errorf("a directory that root's server named was believed: %v", err)
	}
	if left, _ := filepath.Glob(filepath.Join(target.Dir, "*.rdb")); len(left) > 0 {
		t.Errorf("left %v", left)
	}
}

// A dump.rdb goes into a server without a set of the caller's.
func TestDumpRestore(t *testing.T) {
	t.Parallel()
	s := redislab.Start(t)
	s.Fill()
	s.Do("SAVE")
	target := redislab.Start(t)
	dump := &redisdb.Dump{Path: filepath.Join(s.Dir, "dump.rdb")}
	state := t.TempDir()
	to := &redisdb.Live{Client: target.Client(), StateDir: state}
	if _, err := dump.Restore(t.Context(), backup.RestoreOptions{DryRun: true}, state,
		to); err != nil || target.Do("DBSIZE") != int64(0) {
		t.Fatal(err)
	}
	if _, err := dump.Restore(t.Context(), backup.RestoreOptions{}, state, to); err != nil {
		t.Fatal(err)
	}
	if target.Do("DBSIZE") != s.Do("DBSIZE") {
		t.Errorf("%v keys of %v", target.Do("DBSIZE"), s.Do("DBSIZE"))
	}
	if sets, _ := backup.List(state); len(sets) > 0 {
		t.Errorf("left %v", sets)
	}
	cut := filepath.Join(t.TempDir(), "cut.rdb")
	data, err := os.ReadFile(dump.Path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(cut, data[:len(data)/2], 0o600); err != nil {
		t.Fatal(err)
	}
	to.Replace = true
	if _, err := (&redisdb.Dump{Path: cut}).Restore(t.Context(), backup.RestoreOptions{}, state,
		to); err == nil || target.Do("DBSIZE") != s.Do("DBSIZE") {
		t.Errorf("a cut file: %v", err)
	}
}

// A target whose functions would be in the way is refused; a failure leaves none.
func TestFunctionsLeftBehind(t *testing.T) {
	t.Parallel()
	source := redislab.Start(t, "--rdbcompression", "no")
	source.Fill()
	source.Do("DEBUG", "POPULATE", 40, "filler", 120_000) // more than is sent without a reply
	set := takeRedis(t, source.Client())
	target := redislab.Start(t)
	target.Do("FUNCTION", "LOAD", "#!lua name=mine\nredis.register_function('two', function() "+
		"return 2 end)")
	r := &redisdb.Live{Client: target.Client(), StateDir: t.TempDir()}
	if _, err := set.Restore(t.Context(), backup.RestoreOptions{}, r); !errors.Is(err,
		backup.ErrNotEmpty) {
		t.Errorf("%v", err)
	}
	target.Do("FUNCTION", "FLUSH")
	once := false
	_, err := set.Restore(t.Context(), backup.RestoreOptions{Progress: func(e backup.Event) {
		if e.Phase == backup.PhaseRestore && e.Items > 0 && !once {
			once = true
			c := redis.NewClient(&redis.Options{Addr: target.Addr, DB: 3})
			defer c.Close()
			c.Set(t.Context(), "in database 3", "mine", 0)
		}
	}}, r)
	if !errors.Is(err, backup.ErrNotEmpty) {
		t.Fatalf("%v", err)
	}
	if list, _ := target.Do("FUNCTION", "LIST").([]any); len(list) > 0 {
		t.Errorf("functions are left: %v", list)
	}
	if n := target.Do("DBSIZE"); n != int64(0) {
		t.Errorf("%v keys are left", n)
	}
}
