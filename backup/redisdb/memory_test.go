package redisdb_test

import (
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"testing"

	"example.com/tykupgrade/backup"
	"example.com/tykupgrade/backup/redisdb"
	redislab "example.com/tykupgrade/internal/lab/redis"
)

// Memory grows neither with the number of keys nor with the size of a value: a large
// string and a hash of many fields pass through buffers. Only DUMP holds one value at a
// time. Not parallel: the others wait meanwhile, so that what is counted is this run's.
func TestMemory(t *testing.T) {
	const mib = 1 << 20
	large := 8 // MiB of the string; TYKUPGRADE_TEST_LARGE=512 is the largest that a server takes
	if n, err := strconv.Atoi(os.Getenv("TYKUPGRADE_TEST_LARGE")); err == nil {
		large = n
	}
	defer debug.SetGCPercent(debug.SetGCPercent(20))
	run := []string{"--rdbcompression", "no", "--proto-max-bulk-len", "1gb",
		"--client-query-buffer-limit", "2gb"}
	s := redislab.Start(t, run...)
	s.Do("DEBUG", "POPULATE", 4000, "filler", 1000)
	s.Do("DEBUG", "POPULATE", 1, "string", large*mib)
	s.Do("EVAL", "for i = 1, ARGV[1] do redis.call('HSET', 'hash', 'field' .. i, 'value' .. i) end", 0,
		large*2000)
	target := redislab.Start(t, run...)
	bounded := func(name string, bound uint64, f func() error) {
		t.Helper()
		runtime.GC()
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		var peak uint64
		stop := watchMemory(&peak)
		err := f()
		stop()
		runtime.ReadMemStats(&after)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		used := max(peak, before.HeapInuse) - before.HeapInuse
		t.Logf("%s: %d KiB in use, %d KiB allocated", name, used>>10,
			(after.TotalAlloc-before.TotalAlloc)>>10)
		if used > bound {
			t.Errorf("%s: %d bytes for values of up to %d MiB", name, used, large)
		}
	}
	var set *backup.Set
	take := func(m redisdb.Method) func() error {
		return func() (err error) {
			set, err = backup.Take(t.Context(), t.TempDir(), backup.Options{},
				&redisdb.Source{Client: s.Client(), Method: m})
			return err
		}
	}
	bounded("take", 6*mib, take(redisdb.PSYNC))
	bounded("take by key", uint64(large+large/5+10)*mib, take(redisdb.DUMP))
	bounded("restore", 6*mib, func() error {
		_, err := set.Restore(t.Context(), backup.RestoreOptions{}, &redisdb.Live{Client: target.Client(),
			StateDir: t.TempDir()})
		return err
	})
	bounded("compare", 6*mib, func() error {
		return (&redisdb.Source{Client: target.Client(), Sample: 10_000}).Prove(t.Context(),
			stored(t, set))
	})
}
