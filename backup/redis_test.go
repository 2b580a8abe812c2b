package backup_test

import (
	"testing"
	"time"

	"example.com/tykupgrade/backup"
	redislab "example.com/tykupgrade/internal/lab/redis"
)

func TestRedisMethods(t *testing.T) {
	t.Parallel()
	s := redislab.Start(t)
	s.Fill()
	for _, m := range []backup.RedisMethod{backup.RedisPSYNC, backup.RedisBGSAVE, backup.RedisSAVE, backup.RedisDUMP} {
		t.Run(string(m), func(t *testing.T) {
			start := time.Now()
			src := &backup.Redis{Client: s.Client(), Method: m}
			set, err := backup.Take(t.Context(), t.TempDir(), backup.Options{}, src)
			if err != nil {
				t.Fatal(err)
			}
			t.Logf("%v %+v", time.Since(start), string(set.Components[0].Details))
			if err := set.Verify(t.Context(), backup.VerifyOptions{Level: backup.LevelLive, Against: []backup.Prover{src}}); err != nil {
				t.Error(err)
			}
			src.Sample = 5
			if err := set.Verify(t.Context(), backup.VerifyOptions{Level: backup.LevelLive, Against: []backup.Prover{src}}); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestCluster(t *testing.T) {
	t.Parallel()
	_, c := redislab.Cluster(t, 3)
	if err := redislab.Fill(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	src := &backup.Redis{Client: c}
	set, err := backup.Take(t.Context(), t.TempDir(), backup.Options{}, src)
	if err != nil {
		t.Fatal(err)
	}
	t.Log(string(set.Components[0].Details))
	if err := set.Verify(t.Context(), backup.VerifyOptions{Level: backup.LevelLive, Against: []backup.Prover{src}}); err != nil {
		t.Error(err)
	}
}
