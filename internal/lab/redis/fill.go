package redis

import (
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"strings"

	"github.com/redis/go-redis/v9"
)

// Fill writes every type in each of its encodings, keys with and without an
// expiry, two databases and a function library.
func (s *Server) Fill() {
	s.t.Helper()
	if err := Fill(s.t.Context(), s.Client()); err != nil {
		s.t.Fatal(err)
	}
	s.Do("FUNCTION", "LOAD", "REPLACE", "#!lua name=lab\nredis.register_function('one', function() "+
		"return 1 end)")
	other := redis.NewClient(&redis.Options{Addr: s.Addr, Password: s.Password, TLSConfig: s.TLS,
		DB: 3})
	defer other.Close()
	if err := other.Set(s.t.Context(), "in database 3", "x", 0).Err(); err != nil {
		s.t.Fatal(err)
	}
}

// Fill writes the same keys through any client, to database 0 alone.
func Fill(ctx context.Context, c redis.UniversalClient) error {
	long := strings.Repeat("long text ", 30)
	commands := [][]any{
		{"SET", "string", "value"},
		{"SET", "integer", "-12345"},
		{"SET", "compressible", strings.Repeat("ab", 50_000)},
		{"SET", "binary \x00\xff\r\n", "\x00\x01\xfe\xff\r\n"},
		{"SET", "empty", ""},
		{"SET", "expires in an hour", "v", "EX", "3600"},
		{"RPUSH", "list", "a", "1", "-1", "70000", "-9000000000", long},
		{"RPUSH", "list with a large element", strings.Repeat("x", 20_000), "y"},
		{"SADD", "intset", "1", "2", "70000", "9000000000"},
		{"SADD", "set", "a", "b", long},
		{"ZADD", "zset", "1.5", "a", "-2", "b", "inf", "c", "0.1", "d"},
		{"HSET", "hash", "f", "v", "n", "12"},
		{"HSET", "hash with expiry", "f", "v"},
		{"EXPIRE", "hash with expiry", "7200"},
		{"XADD", "stream", "1-1", "field", "value", "number", "7"},
	}
	for i := range 300 {
		commands = append(commands,
			[]any{"RPUSH", "big list", fmt.Sprint(i, long)},
			[]any{"SADD", "big set", fmt.Sprint("member ", i, long)},
			[]any{"ZADD", "big zset", fmt.Sprint(float64(i) / 3), fmt.Sprint("member ", i)},
			[]any{"HSET", "big hash", fmt.Sprint("field ", i), long},
			[]any{"XADD", "big stream", fmt.Sprint(i+1, "-0"), "n", i, "text", long})
	}
	commands = append(commands, []any{"XGROUP", "CREATE", "big stream", "group", "0"},
		[]any{"XREADGROUP", "GROUP", "group", "consumer", "COUNT", "10", "STREAMS", "big stream", ">"},
		[]any{"XDEL", "big stream", "3-0"})
	_, err := c.Pipelined(ctx, func(p redis.Pipeliner) error {
		for _, args := range commands {
			p.Do(ctx, args...)
		}
		return nil
	})
	return err
}

// FillRandom writes n keys of size random bytes each, which nothing compresses.
func (s *Server) FillRandom(n, size int) {
	s.t.Helper()
	c := s.Client()
	random := rand.New(rand.NewPCG(1, 2))
	value := make([]byte, size+8)
	for done := 0; done < n; {
		_, err := c.Pipelined(s.t.Context(), func(p redis.Pipeliner) error {
			for range min(10_000, n-done) {
				for i := 0; i < size; i += 8 {
					binary.LittleEndian.PutUint64(value[i:], random.Uint64())
				}
				p.Set(s.t.Context(), fmt.Sprintf("key:%09d", done), string(value[:size]), 0)
				done++
			}
			return nil
		})
		if err != nil {
			s.t.Fatal(err)
		}
	}
}
