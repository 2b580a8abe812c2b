package redisdb

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/redis/go-redis/v9"

	"example.com/tykupgrade/backup"
	"example.com/tykupgrade/backup/internal/step"
	"example.com/tykupgrade/backup/redisdb/internal/rdb"
)

// do runs one command, possibly twice. A restarted server has closed the connections in the
// client's pool, and the first attempts may use those.
func (n *node) do(ctx context.Context, args ...any) *redis.Cmd {
	if name, ok := args[0].(string); ok {
		args[0] = renamed(n.names, name)
	}
	for try := 0; ; try++ {
		cmd := n.client.Do(ctx, args...)
		err := cmd.Err()
		stale := errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) ||
			errors.Is(err, syscall.EPIPE)
		if !stale || try == 20 || ctx.Err() != nil {
			return cmd
		}
	}
}

// serverInfo has the lines of INFO. It is empty if the user may not read INFO.
type serverInfo map[string]string

func (i serverInfo) int(name string) int64 {
	n, _ := strconv.ParseInt(i[name], 10, 64)
	return n
}

// databases returns the keys of each database.
func (i serverInfo) databases() map[int]int64 {
	dbs := map[int]int64{}
	for name, value := range i {
		num, ok := strings.CutPrefix(name, "db")
		db, err := strconv.Atoi(num)
		if !ok || err != nil {
			continue
		}
		for _, f := range strings.Split(value, ",") {
			if keys, ok := strings.CutPrefix(f, "keys="); ok {
				dbs[db], _ = strconv.ParseInt(keys, 10, 64)
			}
		}
	}
	return dbs
}

func (i serverInfo) keys() (n int64) {
	for _, keys := range i.databases() {
		n += keys
	}
	return n
}

// version returns the version of the product. Valkey has 7.2.4 as its redis_version.
func (i serverInfo) version() (product string, major, minor int) {
	product, text := "redis", i["redis_version"]
	if v := i["valkey_version"]; v != "" {
		product, text = "valkey", v
	}
	_, _ = fmt.Sscanf(text, "%d.%d", &major, &minor)
	return product, major, minor
}

// info reads INFO. A missing permission is not an error: a snapshot does not need INFO, and the
// server itself refuses PSYNC while it loads or has no master.
func (n *node) info(ctx context.Context) (serverInfo, error) {
	info := serverInfo{}
	text, err := n.do(ctx, "INFO").Text()
	if denied(err) {
		// Another command must show that the server can be reached and accepts the login.
		err = n.do(ctx, "PING").Err()
	}
	if err != nil && !denied(err) {
		return nil, n.unreachable(ctx, "read INFO of", err)
	}
	for line := range strings.Lines(text) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), ":"); ok {
			info[name] = value
		}
	}
	return info, nil
}

// unreachable explains why a server does not answer. A server that refuses a connection sends the
// reason and closes it (7.0). The client library sees that only if it has not written yet.
func (n *node) unreachable(ctx context.Context, op string, err error) error {
	if isReply(err) || step.Ended(ctx) != nil {
		return serverError(op, n.object(), ctxFirst(ctx, err))
	}
	o := n.client.Options()
	if raw, e := o.Dialer(ctx, o.Network, o.Addr); e == nil {
		_ = raw.SetDeadline(time.Now().Add(time.Second))
		line, _ := bufio.NewReader(io.LimitReader(raw, 1<<10)).ReadString('\n')
		_ = raw.Close()
		if strings.HasPrefix(line, "-") {
			return serverError(op, n.object(), replyError(strings.TrimSpace(line[1:])))
		}
	}
	e := serverError(op, n.object(), err)
	var known *backup.Error
	var badName *tls.CertificateVerificationError
	if !errors.As(e, &known) {
		return e
	}
	switch timedOut := errors.Is(err, os.ErrDeadlineExceeded) ||
		errors.Is(err, context.DeadlineExceeded); {
	case errors.As(err, &badName):
		known.Next = "check the certificate authority and the name in the certificate"
	case o.TLSConfig == nil && errors.Is(err, io.EOF):
		known.Next += "; a server with only TLS needs rediss://"
	case o.TLSConfig != nil && timedOut:
		known.Next += "; a server without TLS needs redis://"
	}
	return e
}

// config reads one setting. ok is false if the server does not allow it.
func (n *node) config(ctx context.Context, name string) (value string, ok bool, err error) {
	all, err := n.do(ctx, "CONFIG", "GET", name).Slice()
	if err != nil {
		// With RESP3 the reply is a map.
		if m, e := n.do(ctx, "CONFIG", "GET", name).Result(); e == nil {
			all = nil
			if pairs, isMap := m.(map[any]any); isMap {
				for k, v := range pairs {
					all = append(all, k, v)
				}
				err = nil
			}
		}
	}
	if denied(err) {
		return "", false, nil
	}
	if err != nil {
		return "", false, serverError("read CONFIG of", n.object(), err)
	}
	for i := 0; i+1 < len(all); i += 2 {
		if fmt.Sprint(all[i]) == name {
			return fmt.Sprint(all[i+1]), true, nil
		}
	}
	return "", false, nil
}

// clock returns the server's time, because the server decides whether a key has expired. If TIME is
// forbidden, it returns this machine's time.
func (n *node) clock(ctx context.Context) (time.Time, error) {
	parts, err := n.do(ctx, "TIME").StringSlice()
	if denied(err) {
		return time.Now(), nil
	}
	if err != nil {
		return time.Time{}, serverError("read the clock of", n.object(), ctxFirst(ctx, err))
	}
	if len(parts) == 2 {
		sec, err1 := strconv.ParseInt(parts[0], 10, 64)
		usec, err2 := strconv.ParseInt(parts[1], 10, 64)
		if err1 == nil && err2 == nil {
			return time.Unix(sec, usec*1000), nil
		}
	}
	return time.Time{}, serverError("read the clock of", n.object(),
		fmt.Errorf("TIME was answered with %q", parts))
}

// functions returns the function libraries in the form of FUNCTION DUMP. Servers before 7.0 and
// some services have none. hidden reports that the user may not read them.
func (n *node) functions(ctx context.Context) (payload []byte, hidden bool, err error) {
	text, err := n.do(ctx, "FUNCTION", "DUMP").Text()
	switch {
	case err == nil:
		err = rdb.CheckDump([]byte(text))
	case isReply(err) && strings.HasPrefix(err.Error(), "NOPERM"):
		return nil, true, nil
	case isReply(err) && strings.HasPrefix(err.Error(), "ERR "):
		return nil, false, nil
	}
	if err != nil {
		return nil, false, serverError("read the functions of", n.object(), err)
	}
	return []byte(text), false, nil
}

func (n *node) holdsFunctions(ctx context.Context) (bool, error) {
	payload, _, err := n.functions(ctx)
	return len(payload) > rdb.Footer, err
}

// rdbVersion returns the RDB version that the server writes, which is also the newest that it
// loads. Redis 7.0 and newer show it without a key. For the others there is a table.
func (n *node) rdbVersion(ctx context.Context, info serverInfo) (int, error) {
	if payload, err := n.do(ctx, "FUNCTION", "DUMP").Text(); err == nil && len(payload) >= rdb.Footer {
		return rdb.DumpVersion([]byte(payload)), nil
	}
	product, major, minor := info.version()
	for _, row := range []struct {
		product           string
		major, minor, rdb int
	}{
		{"valkey", 9, 0, 80}, {"valkey", 7, 2, 11},
		{"redis", 8, 10, 15}, {"redis", 8, 8, 14}, {"redis", 8, 6, 13}, {"redis", 7, 4, 12}, {"redis", 7,
			2, 11}, {"redis", 7, 0, 10},
		{"redis", 5, 0, 9}, {"redis", 4, 0, 8}, {"redis", 3, 2, 7}, {"redis", 2, 6, 6},
	} {
		if row.product == product && (major > row.major || (major == row.major && minor >= row.minor)) {
			return row.rdb, nil
		}
	}
	if len(info) > 0 {
		return 0, fmt.Errorf("%s: version %q is older than 2.6", n.object(), info["redis_version"])
	}
	if key, err := n.do(ctx, "RANDOMKEY").Text(); err == nil {
		if payload, err := n.do(ctx, "DUMP", key).Text(); err == nil && len(payload) >= rdb.Footer {
			return rdb.DumpVersion([]byte(payload)), nil
		}
	}
	return 0, &backup.Error{Op: "find the RDB version of", Object: n.object(),
		Kind: backup.ErrNotAllowed, Err: fmt.Errorf("FUNCTION DUMP, DUMP and INFO are forbidden"),
		Next: "grant the user one of these permissions"}
}

// modules returns the modules that the server has loaded. ok is false if the server does not allow
// it.
func (n *node) modules(ctx context.Context, info serverInfo) (names map[string]bool, ok bool) {
	names = map[string]bool{}
	list, err := n.do(ctx, "MODULE", "LIST").Slice()
	if err == nil {
		for _, m := range list {
			addModule(names, m)
		}
		return names, true
	}
	// INFO modules has lines "module:name=…,ver=…". Some releases leave them out of INFO alone.
	text, err := n.do(ctx, "INFO", "modules").Text()
	if err != nil {
		return nil, false
	}
	for line := range strings.Lines(text) {
		if rest, found := strings.CutPrefix(line, "module:name="); found {
			name, _, _ := strings.Cut(rest, ",")
			names[strings.ToLower(strings.TrimSpace(name))] = true
		}
	}
	return names, true
}

// addModule reads one entry of MODULE LIST: a list of pairs, or with RESP3 a map.
func addModule(names map[string]bool, entry any) {
	switch e := entry.(type) {
	case []any:
		for i := 0; i+1 < len(e); i += 2 {
			if fmt.Sprint(e[i]) == "name" {
				names[strings.ToLower(fmt.Sprint(e[i+1]))] = true
			}
		}
	case map[any]any:
		for k, v := range e {
			if fmt.Sprint(k) == "name" {
				names[strings.ToLower(fmt.Sprint(v))] = true
			}
		}
	}
}

// pollEvery is the interval at which poll calls done.
const pollEvery = 50 * time.Millisecond

// poll calls done until it returns true.
func poll(ctx context.Context, done func() (bool, error)) error {
	for {
		if ok, err := done(); ok || err != nil {
			return err
		}
		if err := step.Pause(ctx, pollEvery); err != nil {
			return err
		}
	}
}
