package redisdb_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"path/filepath"

	"github.com/redis/go-redis/v9"

	"example.com/tykupgrade/backup"
	"example.com/tykupgrade/backup/redisdb"
)

// exampleDump is a dump.rdb with one key, in a directory of its own.
func exampleDump() (path string, remove func()) {
	dir, err := os.MkdirTemp("", "example-")
	if err != nil {
		log.Fatal(err)
	}
	path = filepath.Join(dir, "dump.rdb")
	// Header, database 0, a string, end mark; a zero checksum is one switched off.
	data := "REDIS0010\xfe\x00\x00\x03key\x05value\xff" + string(make([]byte, 8))
	if err := os.WriteFile(path, []byte(data), 0o600); err != nil {
		log.Fatal(err)
	}
	return path, func() { _ = os.RemoveAll(dir) }
}

func ExampleNewClient() {
	client, err := redisdb.NewClient(
		"redis+sentinel://:p%40ss@10.0.0.5:26379,10.0.0.6:26379/mymaster/0", nil)
	fmt.Println(client != nil, err)
	_, err = redisdb.NewClient("redis://:secret@[::1", nil)
	fmt.Println(errors.Unwrap(err) != nil, err)
	// Output:
	// true <nil>
	// false read the Redis URI: it has no host, or a port that is not a number; write it as redis://user:password@host:6379/0, rediss:// for TLS, with special characters of the password percent-encoded
}

func ExampleSource() {
	client := redis.NewClient(&redis.Options{Addr: "127.0.0.1:1", MaxRetries: -1})
	defer client.Close()
	src := &redisdb.Source{Client: client, Method: "copy"}
	_, err := src.Plan(context.Background())
	fmt.Println(err)
	// Output: unknown method "copy" (want psync, bgsave, save or dump)
}

// An existing dump.rdb becomes a set, which is restored as any other.
func ExampleDump() {
	path, remove := exampleDump()
	defer remove()
	set, err := backup.Take(context.Background(), filepath.Join(filepath.Dir(path), "sets"),
		backup.Options{}, &redisdb.Dump{Path: path})
	if err != nil {
		log.Fatal(err)
	}
	c := set.Components[0]
	fmt.Println(c.Kind, c.Items, c.Warnings[0])
	// Output: redis 1 the file has no checksum of its own, so damage from before the backup cannot be detected
}

func ExampleDump_Restore() {
	path, remove := exampleDump()
	defer remove()
	client := redis.NewClient(&redis.Options{Addr: "127.0.0.1:1", MaxRetries: -1})
	defer client.Close()
	state := filepath.Join(filepath.Dir(path), "state")
	dump := &redisdb.Dump{Path: path}
	_, err := dump.Restore(context.Background(), backup.RestoreOptions{}, state,
		&redisdb.Live{Client: client, StateDir: state})
	var e *backup.Error
	fmt.Println(errors.As(err, &e), e.Retryable()) // nothing runs there
	// Output: true true
}

// Where a restore was killed, a Live with the same StateDir continues it, or
// takes it back.
func ExampleLive() {
	client := redis.NewClient(&redis.Options{Addr: "127.0.0.1:6379"})
	defer client.Close()
	to := &redisdb.Live{Client: client, Replace: true, StateDir: "/var/lib/tykupgrade/redis"}
	goOn := func(ctx context.Context, set *backup.Set) error {
		_, err := set.Restore(ctx, backup.RestoreOptions{}, to)
		return err
	}
	takeBack := func(ctx context.Context, set *backup.Set) (backup.Report, error) {
		return set.Undo(ctx, to)
	}
	fmt.Println(to.Name(), goOn != nil, takeBack != nil)
	// Output: redis true true
}

func ExampleOffline() {
	stop, start := redisdb.Systemd("redis-server", nil)
	client := redis.NewClient(&redis.Options{Addr: "127.0.0.1:6379"})
	defer client.Close()
	to := &redisdb.Offline{StateDir: "/var/lib/tykupgrade/redis",
		Servers: []redisdb.Server{{Client: client, Dir: "/var/lib/redis", Stop: stop,
			Start: start}}}
	fmt.Println(to.Name(), len(to.Servers))
	// Output: redis 1
}

func ExampleScratch() {
	path, remove := exampleDump()
	defer remove()
	set, err := backup.Take(context.Background(), filepath.Join(filepath.Dir(path), "sets"),
		backup.Options{}, &redisdb.Dump{Path: path})
	if err != nil {
		log.Fatal(err)
	}
	err = set.Verify(context.Background(), backup.VerifyOptions{Level: backup.LevelLive,
		Against: []backup.Prover{&redisdb.Scratch{Program: "/no/such/redis-server"}}})
	fmt.Println(err != nil)
	// Output: true
}
