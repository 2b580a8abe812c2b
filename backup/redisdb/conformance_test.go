package redisdb_test

import (
	"testing"

	"github.com/redis/go-redis/v9"

	"example.com/tykupgrade/backup"
	"example.com/tykupgrade/backup/backuptest"
	"example.com/tykupgrade/backup/redisdb"
	redislab "example.com/tykupgrade/internal/lab/redis"
)

func TestConformance(t *testing.T) {
	t.Parallel()
	for _, m := range []redisdb.Method{redisdb.PSYNC, redisdb.BGSAVE, redisdb.SAVE, redisdb.DUMP} {
		t.Run(string(m), func(t *testing.T) { t.Parallel(); conform(t, m) })
	}
}

func conform(t *testing.T, m redisdb.Method) {
	const secret = "correct horse battery staple"
	s := redislab.Start(t, "--requirepass", secret)
	s.Fill()
	backuptest.Run(t, backuptest.Case{
		Source: func(t *testing.T) backup.Source {
			return &redisdb.Source{Client: s.Client(),
				Method: m}
		},
		Restorer: func(t *testing.T) backup.Restorer {
			return &redisdb.Live{Client: redislab.Start(t).Client(), StateDir: t.TempDir()}
		},
		Change: func(*testing.T) { s.Do("HSET", "big hash", "field 7", "changed") },
		Broken: func(t *testing.T) backup.Source {
			c := redis.NewClient(&redis.Options{Addr: s.Addr, Password: secret + " not", MaxRetries: -1})
			t.Cleanup(func() { _ = c.Close() })
			return &redisdb.Source{Client: c, Method: m}
		},
		Secret: secret, Variant: m != redisdb.PSYNC && m != redisdb.DUMP,
	})
}
