package redisdb_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"
	"time"

	"example.com/tykupgrade/backup"
	"example.com/tykupgrade/backup/redisdb"
	"example.com/tykupgrade/internal/lab"
	redislab "example.com/tykupgrade/internal/lab/redis"
)

// BenchmarkSnapshot copies 1M keys of 200 random bytes with every method,
// and with redis-cli --rdb, from one server in one run.
func BenchmarkSnapshot(b *testing.B) {
	cli := lab.Program(b, "redis-cli", "redis-tools")
	s := redislab.Start(b)
	s.FillRandom(1_000_000, 200)
	clean := func(b *testing.B, path string) {
		b.StopTimer()
		if err := os.RemoveAll(path); err != nil {
			b.Fatal(err)
		}
		syscall.Sync() // so that no run pays for the one before
		b.StartTimer()
	}
	b.Run("redis-cli", func(b *testing.B) {
		for b.Loop() {
			out := filepath.Join(b.TempDir(), "dump.rdb")
			if err := exec.Command(cli, "-p", s.Port, "--rdb", out).Run(); err != nil {
				b.Fatal(err)
			}
			size(b, out)
			clean(b, out)
		}
	})
	for _, m := range []redisdb.Method{redisdb.PSYNC, redisdb.BGSAVE, redisdb.SAVE, redisdb.DUMP} {
		b.Run(string(m), func(b *testing.B) {
			src := &redisdb.Source{Client: s.Client(), Method: m}
			var copied time.Duration
			var peak uint64
			for b.Loop() {
				dir := b.TempDir()
				stop := watchMemory(&peak)
				set, err := backup.Take(b.Context(), dir, backup.Options{}, src)
				stop()
				if err != nil {
					b.Fatal(err)
				}
				c := set.Components[0]
				copied += c.End.Sub(c.Start)
				size(b, filepath.Join(set.Dir, set.Files[0].Path))
				clean(b, dir)
			}
			// The rest is the verification before the set gets its name.
			b.ReportMetric(copied.Seconds()/float64(b.N), "copy-s/op")
			b.ReportMetric(float64(peak)/(1<<20), "heap-MiB")
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

// BenchmarkProve compares 1M keys with the live server, all of them.
func BenchmarkProve(b *testing.B) {
	s := redislab.Start(b)
	s.FillRandom(1_000_000, 200)
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
