package redisdb_test

import (
	"context"
	"errors"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"example.com/tykupgrade/backup"
	"example.com/tykupgrade/backup/redisdb"
	redislab "example.com/tykupgrade/internal/lab/redis"
)

// cutAt is a connection that breaks at one command.
type cutAt string

func (name cutAt) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		if cmd.Name() != string(name) {
			return next(ctx, cmd)
		}
		err := &net.OpError{Op: "read", Net: "tcp", Err: syscall.ECONNRESET}
		cmd.SetErr(err)
		return err
	}
}

func (cutAt) DialHook(next redis.DialHook) redis.DialHook { return next }

func (cutAt) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}

// Functions that could not be read are neither left out nor missing; those that
// the user may not read are left out and said to be.
func TestFunctionsUnread(t *testing.T) {
	t.Parallel()
	s, set := filled(t)
	s.Do("ACL", "SETUSER", "managed", "on", ">p", "~*", "+@all", "-psync", "-sync")
	cut := s.User("managed", "p")
	cut.AddHook(cutAt("function"))
	src := &redisdb.Source{Client: cut, Method: redisdb.DUMP}
	_, err := backup.Take(t.Context(), t.TempDir(), backup.Options{}, src)
	var e *backup.Error
	if !errors.As(err, &e) || !e.Retryable() || !strings.Contains(err.Error(), "read the functions") {
		t.Errorf("backup: %v", err)
	}
	if err := src.Prove(t.Context(), stored(t, set)); err == nil || errors.Is(err, backup.ErrDiffers) {
		t.Errorf("proof: %v", err)
	}
	s.Do("ACL", "SETUSER", "managed", "-function")
	set, err = backup.Take(t.Context(), t.TempDir(), backup.Options{},
		&redisdb.Source{Client: s.User("managed", "p"), Method: redisdb.DUMP})
	if err != nil || !strings.Contains(strings.Join(set.Components[0].Warnings, ""),
		"function libraries") {
		t.Errorf("%+v %v", set, err)
	}
}

// A count that cannot be had is not a difference, for which a restore would be
// taken back.
func TestSampleWithoutInfo(t *testing.T) {
	t.Parallel()
	s, set := filled(t)
	s.Do("ACL", "SETUSER", "blind", "on", ">p", "~*", "+@all", "-info")
	err := (&redisdb.Source{Client: s.User("blind", "p"), Sample: 3}).Prove(t.Context(),
		stored(t, set))
	if !errors.Is(err, backup.ErrNotAllowed) || errors.Is(err, backup.ErrDiffers) {
		t.Errorf("%v", err)
	}
}

// Nothing is waited for without end. Not parallel: the others have patience.
func TestPatience(t *testing.T) {
	defer redisdb.SetPatience(200 * time.Millisecond)()
	set := filledSet(t)
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	t.Run("stop does not stop", func(t *testing.T) {
		target := redislab.Start(t)
		_, err := set.Restore(ctx, backup.RestoreOptions{}, &redisdb.Offline{StateDir: t.TempDir(),
			Servers: []redisdb.Server{{Client: target.Client(), Dir: target.Dir,
				Stop:  func(context.Context) error { return nil },
				Start: func(context.Context) error { return nil }}}})
		if err == nil || ctx.Err() != nil || !strings.Contains(err.Error(), "something answers there") {
			t.Errorf("%v", err)
		}
	})
}
