package redisdb_test

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"example.com/tykupgrade/backup"
	"example.com/tykupgrade/backup/redisdb"
	"example.com/tykupgrade/backup/redisdb/internal/rdb"
	"example.com/tykupgrade/internal/lab"
	redislab "example.com/tykupgrade/internal/lab/redis"
)

// BenchmarkSnapshot takes a verified set of keys of 200 random bytes with every method, next to
// redis-cli --rdb, from one server in one run.
func BenchmarkSnapshot(b *testing.B) {
	cli := lab.Program(b, "redis-cli", "redis-tools")
	for _, keys := range benchKeys() {
		b.Run(fmt.Sprintf("n=%d", keys), func(b *testing.B) { benchSnapshot(b, cli, keys) })
	}
}

func benchSnapshot(b *testing.B, cli string, keys int) {
	s := redislab.Start(b)
	s.FillRandom(keys, 200)
	run := func(name string, f func(b *testing.B, dir string) (path string)) {
		b.Run(name, func(b *testing.B) {
			var client, server time.Duration
			var peak uint64
			for b.Loop() {
				dir := b.TempDir()
				stop := watchMemory(&peak)
				c, v := lab.CPU(b), serverCPU(b, s)
				path := f(b, dir)
				b.StopTimer()
				client += lab.CPU(b) - c
				server += serverCPU(b, s) - v
				stop()
				size(b, path)
				if err := os.RemoveAll(dir); err != nil {
					b.Fatal(err)
				}
				syscall.Sync() // so that no run pays for the one before
				b.StartTimer()
			}
			b.ReportMetric(client.Seconds()/float64(b.N), "client-cpu-s/op")
			b.ReportMetric(server.Seconds()/float64(b.N), "server-cpu-s/op")
			b.ReportMetric(float64(peak)/(1<<20), "heap-MiB")
		})
	}
	run("redis-cli", func(b *testing.B, dir string) string {
		out := filepath.Join(dir, "dump.rdb")
		if err := exec.Command(cli, "-p", s.Port, "--rdb", out).Run(); err != nil {
			b.Fatal(err)
		}
		return out
	})
	for _, m := range redisdb.Methods() {
		run(string(m), func(b *testing.B, dir string) string {
			set, err := backup.Take(b.Context(), dir, backup.Options{},
				&redisdb.Source{Client: s.Client(), Method: m})
			if err != nil {
				b.Fatal(err)
			}
			return filepath.Join(set.Dir, set.Files[0].Path)
		})
	}
}

func size(b *testing.B, path string) {
	info, err := os.Stat(path)
	if err != nil {
		b.Fatal(err)
	}
	b.SetBytes(info.Size())
}

// watchMemory notes the largest heap until it is stopped.
func watchMemory(peak *uint64) (stop func()) {
	done, gone := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(gone)
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-done:
				return
			case <-tick.C:
				var m runtime.MemStats
				runtime.ReadMemStats(&m)
				*peak = max(*peak, m.HeapInuse)
			}
		}
	}()
	return func() { close(done); <-gone }
}

// BenchmarkProve compares all keys with the live server.
func BenchmarkProve(b *testing.B) {
	for _, keys := range benchKeys() {
		b.Run(fmt.Sprintf("n=%d", keys), func(b *testing.B) { benchProve(b, keys) })
	}
}

func benchProve(b *testing.B, keys int) {
	s := redislab.Start(b)
	s.FillRandom(keys, 200)
	src := &redisdb.Source{Client: s.Client()}
	set, err := backup.Take(b.Context(), b.TempDir(), backup.Options{}, src)
	if err != nil {
		b.Fatal(err)
	}
	st, _ := set.Component("redis")
	for b.Loop() {
		if err := src.Prove(b.Context(), st); err != nil {
			b.Fatal(err)
		}
	}
}

// benchKeys are the numbers of keys; TYKUPGRADE_BENCH_KEYS chooses one.
func benchKeys() []int {
	if n, err := strconv.Atoi(os.Getenv("TYKUPGRADE_BENCH_KEYS")); err == nil {
		return []int{n}
	}
	return []int{100_000, 300_000, 1_000_000}
}

// BenchmarkRestore writes keys of 200 random bytes into an empty server: the writing alone,
// and everything (verification, plan, writing, comparison), next to redis-cli --pipe fed with
// the same RESTORE commands.
func BenchmarkRestore(b *testing.B) {
	cli := lab.Program(b, "redis-cli", "redis-tools")
	for _, keys := range benchKeys() {
		b.Run(fmt.Sprintf("n=%d", keys), func(b *testing.B) { benchRestore(b, cli, keys) })
	}
}

func benchRestore(b *testing.B, cli string, keys int) {
	source := redislab.Start(b)
	source.FillRandom(keys, 200)
	set, err := backup.Take(b.Context(), b.TempDir(), backup.Options{},
		&redisdb.Source{Client: source.Client()})
	if err != nil {
		b.Fatal(err)
	}
	source.Kill()
	st, _ := set.Component("redis")
	commands := filepath.Join(b.TempDir(), "commands")
	writeCommands(b, st, commands)
	target := redislab.Start(b)
	run := func(name string, f func() error) {
		b.Run(name, func(b *testing.B) {
			var peak uint64
			var client, server time.Duration
			for b.Loop() {
				stop := watchMemory(&peak)
				c, s := lab.CPU(b), serverCPU(b, target)
				err := f()
				stop()
				if err != nil {
					b.Fatal(err)
				}
				b.StopTimer()
				client += lab.CPU(b) - c
				server += serverCPU(b, target) - s
				if n := target.Do("DBSIZE"); n != int64(keys) {
					b.Fatalf("%v keys", n)
				}
				target.Do("FLUSHALL")
				b.StartTimer()
			}
			b.ReportMetric(float64(peak)/(1<<20), "heap-MiB")
			b.ReportMetric(client.Seconds()/float64(b.N), "client-cpu-s/op")
			b.ReportMetric(server.Seconds()/float64(b.N), "server-cpu-s/op")
		})
	}
	live := func(b *testing.B) *redisdb.Live {
		return &redisdb.Live{Client: target.Client(), StateDir: b.TempDir()}
	}
	run("redis-cli", func() error {
		f, err := os.Open(commands)
		if err != nil {
			return err
		}
		defer f.Close()
		cmd := exec.Command(cli, "-p", target.Port, "--pipe")
		cmd.Stdin = f
		return cmd.Run()
	})
	run("writing", func() error {
		_, err := live(b).Restore(b.Context(), st, func(backup.Event) {})
		return err
	})
	run("everything", func() error {
		_, err := set.Restore(b.Context(), backup.RestoreOptions{}, live(b))
		return err
	})
}

func serverCPU(b *testing.B, s *redislab.Server) (sum time.Duration) {
	b.Helper()
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", s.Pid()))
	if err != nil {
		b.Fatal(err)
	}
	f := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')'):]))
	for _, ticks := range f[12:16] { // user and system, its own and of children that ended
		n, _ := strconv.ParseInt(ticks, 10, 64)
		sum += time.Duration(n) * 10 * time.Millisecond
	}
	return sum
}

// BenchmarkValue restores and compares one string of n MiB, and one hash with 4,000 fields for
// each: heap-MiB shows whether a value is held.
func BenchmarkValue(b *testing.B) {
	for _, mib := range []int{32, 128, 512} {
		b.Run(fmt.Sprintf("n=%d", mib), func(b *testing.B) {
			run := []string{"--rdbcompression", "no", "--proto-max-bulk-len", "1gb",
				"--client-query-buffer-limit", "2gb"}
			s := redislab.Start(b, run...)
			s.Do("DEBUG", "POPULATE", 1, "string", mib<<20)
			s.Do("EVAL", "for i = 1, ARGV[1] do redis.call('HSET', 'hash', 'field' .. i, 'value' .. i) end",
				0, mib*4000)
			set, err := backup.Take(b.Context(), b.TempDir(), backup.Options{},
				&redisdb.Source{Client: s.Client()})
			if err != nil {
				b.Fatal(err)
			}
			s.Kill()
			target := redislab.Start(b, run...)
			var peak uint64
			for b.Loop() {
				stop := watchMemory(&peak)
				_, err := set.Restore(b.Context(), backup.RestoreOptions{},
					&redisdb.Live{Client: target.Client(), StateDir: b.TempDir(), Sample: 2})
				stop()
				if err != nil {
					b.Fatal(err)
				}
				b.StopTimer()
				target.Do("FLUSHALL")
				b.StartTimer()
			}
			b.ReportMetric(float64(peak)/(1<<20), "heap-MiB")
		})
	}
}

// writeCommands writes a file of RESTORE commands, one for each key.
func writeCommands(b *testing.B, st *backup.Stored, path string) {
	b.Helper()
	var d redisdb.Details
	if err := st.DecodeDetails(&d); err != nil {
		b.Fatal(err)
	}
	src, err := st.Open(d.Nodes[0].File)
	if err != nil {
		b.Fatal(err)
	}
	defer src.Close()
	dst, err := os.Create(path)
	if err != nil {
		b.Fatal(err)
	}
	w := bufio.NewWriter(dst)
	_, err = rdb.Read(b.Context(), src, rdb.Visit{Key: func(k *rdb.Key) error {
		value := append([]byte{k.Type}, k.Raw...)
		value = rdb.AppendFooter(value, d.Nodes[0].RDB.Version, rdb.CRC(0, value))
		_, err := fmt.Fprintf(w, "*4\r\n$7\r\nRESTORE\r\n$%d\r\n%s\r\n$1\r\n0\r\n$%d\r\n%s\r\n",
			len(k.Name), k.Name, len(value), value)
		return err
	}})
	if err := errors.Join(err, w.Flush(), dst.Close()); err != nil {
		b.Fatal(err)
	}
}
