package backup_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"example.com/tykupgrade/backup"
	redislab "example.com/tykupgrade/internal/lab/redis"
)

// A restore that ends while the server is being made a replica leaves a master.
func TestRedisReplicateEndsEarly(t *testing.T) {
	t.Parallel()
	_, set := filled(t)
	target := redislab.Start(t)
	target.Do("SET", "mine", "1")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	client := target.Client()
	client.AddHook(afterReplicaof(cancel))
	r := &backup.RedisLive{Client: client, Replace: true, Rescue: t.TempDir()}
	if _, err := set.Restore(ctx, backup.RestoreOptions{}, r); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	if target.Do("ROLE").([]any)[0] != "master" || target.Do("GET", "mine") != "1" || target.Do("DBSIZE") != int64(1) {
		t.Error("the target is not what it was")
	}
}

// afterReplicaof loses the first reply to REPLICAOF to the end of a context.
type afterReplicaof context.CancelFunc

func (cancel afterReplicaof) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		err := next(ctx, cmd)
		if err == nil && cmd.Name() == "replicaof" && ctx.Err() == nil && cmd.Args()[1] != "NO" {
			cancel()
			err = ctx.Err()
			cmd.SetErr(err)
		}
		return err
	}
}

func (afterReplicaof) DialHook(next redis.DialHook) redis.DialHook { return next }

func (afterReplicaof) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}

// A user that lacks one right loses nothing: the restore is refused, or fails
// before the target is emptied.
func TestRedisLiveMissingRight(t *testing.T) {
	t.Parallel()
	_, set := filled(t)
	for name, c := range map[string]struct {
		way  backup.RedisWay
		user []any
	}{
		"replicaof":        {backup.RedisReplicate, []any{"-replicaof", "-restore"}},
		"restore":          {backup.RedisRestore, []any{"-restore"}},
		"flushall":         {backup.RedisRestore, []any{"-flushall"}},
		"info":             {backup.RedisReplicate, []any{"-info"}},
		"info, key by key": {backup.RedisRestore, []any{"-info", "-restore"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			target := redislab.Start(t)
			target.Do("SET", "mine", "1")
			target.Do(append([]any{"ACL", "SETUSER", "limited", "on", ">secret", "~*", "&*", "+@all"}, c.user...)...)
			// A restore that is not refused may wait for a server that never tells.
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			r := &backup.RedisLive{Client: target.User("limited", "secret"), Way: c.way, Replace: true, Rescue: t.TempDir()}
			_, err := set.Restore(ctx, backup.RestoreOptions{}, r)
			if err == nil || errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("%v", err)
			}
			if strings.Contains(err.Error(), "bringing back") {
				t.Errorf("nothing had to be brought back: %v", err)
			}
			if target.Do("GET", "mine") != "1" || target.Do("DBSIZE") != int64(1) {
				t.Errorf("what was there is gone after %v", err)
			}
			if stats, _ := target.Do("INFO", "commandstats").(string); strings.Contains(stats, "cmdstat_flushall:calls=") && !strings.Contains(stats, "cmdstat_flushall:calls=0") {
				t.Errorf("the target was emptied: %v", err)
			}
		})
	}
}
