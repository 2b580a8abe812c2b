package backup

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"example.com/tykupgrade/backup/internal/step"
)

// dumpFooter is what DUMP puts after the value: RDB version and CRC-64.
const dumpFooter = 10

func dumpVersion(payload []byte) int {
	return int(binary.LittleEndian.Uint16(payload[len(payload)-dumpFooter:]))
}

func checkDump(payload []byte) error {
	if len(payload) < dumpFooter {
		return errors.New("the reply to DUMP is too short")
	}
	end := len(payload) - 8
	if got := binary.LittleEndian.Uint64(payload[end:]); got != 0 && got != crcUpdate(0, payload[:end]) {
		return errors.New("the checksum of the reply to DUMP is wrong")
	}
	return nil
}

// dumpPayload is what RESTORE wants of a value from an RDB file.
func dumpPayload(k *rdbKey, version int) []byte {
	p := make([]byte, 0, 1+len(k.Value)+dumpFooter)
	p = append(p, k.Type)
	p = append(p, k.Value...)
	p = binary.LittleEndian.AppendUint16(p, uint16(version))
	return binary.LittleEndian.AppendUint64(p, crcUpdate(0, p))
}

// database returns a client for one database. The pool of the given client
// must not get connections back that have another one selected.
func (n *redisNode) database(db int) *redis.Client {
	o := *n.client.Options()
	o.DB, o.PoolSize, o.MinIdleConns = db, 1, 0
	return redis.NewClient(&o)
}

// scanned is one key as DUMP and PEXPIRETIME show it.
type scanned struct {
	db      int
	key     string
	expire  int64
	payload []byte
}

// scan reads every key once, database by database.
func (n *redisNode) scan(ctx context.Context, info redisInfo, f func(scanned) error) error {
	if len(info) == 0 && n.id == "" { // a cluster has only database 0
		return &Error{Op: "list the databases of", Object: "redis " + n.addr, Err: fmt.Errorf("%w: INFO is forbidden, and only it tells which databases hold keys", ErrNotAllowed),
			Next: "give the user +info"}
	}
	dbs := []int{0}
	for db := range info.databases() {
		dbs = append(dbs, db)
	}
	slices.Sort(dbs)
	for _, db := range slices.Compact(dbs) {
		client := n.database(db)
		err := n.scanDatabase(ctx, client, db, f)
		if err = errors.Join(err, client.Close()); err != nil {
			return err
		}
	}
	return nil
}

func (n *redisNode) scanDatabase(ctx context.Context, client *redis.Client, db int, f func(scanned) error) error {
	// SCAN may return a key several times.
	seen := map[[16]byte]struct{}{}
	for cursor := uint64(0); ; {
		if err := step.Ended(ctx); err != nil {
			return err
		}
		keys, next, err := client.Scan(ctx, cursor, "", 500).Result()
		if err != nil {
			return redisError("run SCAN on", "redis "+n.addr, err)
		}
		fresh := keys[:0]
		for _, k := range keys {
			sum := sha256.Sum256([]byte(k))
			id := [16]byte(sum[:])
			if _, dup := seen[id]; !dup {
				seen[id] = struct{}{}
				fresh = append(fresh, k)
			}
		}
		for batch := range slices.Chunk(fresh, 100) {
			found, err := dumpKeys(ctx, client, db, batch)
			if err != nil {
				return redisError("run DUMP on", "redis "+n.addr, err)
			}
			for _, s := range found {
				if err := f(s); err != nil {
					return err
				}
			}
		}
		if cursor = next; cursor == 0 {
			return nil
		}
	}
}

// dumpKeys reads values with their expiry. The expiry is asked for before and
// after the value, and a key where it changed is read again: the value might
// be the old one and the expiry the new one's. Keys that are gone are left out.
func dumpKeys(ctx context.Context, client redis.UniversalClient, db int, keys []string) ([]scanned, error) {
	var found []scanned
	for round := 0; len(keys) > 0; round++ {
		if round == 100 {
			return nil, fmt.Errorf("key %.80q: %w", keys[0], ErrChanged)
		}
		before, dumps, after := make([]*redis.Cmd, len(keys)), make([]*redis.StringCmd, len(keys)), make([]*redis.Cmd, len(keys))
		pipe := client.Pipeline()
		for i, k := range keys {
			before[i] = pipe.Do(ctx, "PEXPIRETIME", k)
			dumps[i] = pipe.Dump(ctx, k)
			after[i] = pipe.Do(ctx, "PEXPIRETIME", k)
		}
		_, _ = pipe.Exec(ctx) // each command has its own error
		var again []string
		for i, k := range keys {
			payload, err := dumps[i].Bytes()
			if errors.Is(err, redis.Nil) {
				continue
			}
			if err != nil {
				return nil, err
			}
			if err := checkDump(payload); err != nil {
				return nil, fmt.Errorf("key %.80q: %w", k, err)
			}
			e1, e2, err := expiries(ctx, client, k, before[i], after[i])
			if err != nil {
				return nil, err
			}
			if e1 != e2 || e2 == -2 {
				again = append(again, k)
				continue
			}
			found = append(found, scanned{db: db, key: k, expire: max(e2, 0), payload: payload})
		}
		keys = again
	}
	return found, nil
}

// expiries reads two PEXPIRETIME replies. Servers before 7.0 do not know it;
// there the remaining time is asked for, which is a little less exact.
func expiries(ctx context.Context, client redis.UniversalClient, key string, before, after *redis.Cmd) (e1, e2 int64, err error) {
	e1, err1 := before.Int64()
	e2, err2 := after.Int64()
	if !redisDenied(err2) {
		return e1, e2, errors.Join(err1, err2)
	}
	ttl, err := client.PTTL(ctx, key).Result()
	if err != nil || ttl < 0 {
		return int64(ttl), int64(ttl), err
	}
	now, err := client.Time(ctx).Result()
	e1 = now.Add(ttl).UnixMilli()
	return e1, e1, err
}

// functions reads the function libraries as they stand in an RDB file. There
// are none where the server does not know of functions: before 7.0, and
// services that leave them out. Hidden are those that the user may not see.
func (n *redisNode) functions(ctx context.Context) (libs []byte, hidden bool, err error) {
	payload, err := n.client.FunctionDump(ctx).Bytes()
	var reply redis.Error
	switch {
	case err == nil:
		err = checkDump(payload)
	case errors.As(err, &reply) && strings.HasPrefix(err.Error(), "NOPERM"):
		return nil, true, nil
	case errors.As(err, &reply) && strings.HasPrefix(err.Error(), "ERR "):
		return nil, false, nil
	}
	if err != nil {
		return nil, false, redisError("read the functions of", "redis "+n.addr, err)
	}
	return payload[:len(payload)-dumpFooter], false, nil
}

// dump writes an RDB file out of what DUMP returns: the same bytes.
func (n *redisNode) dump(ctx context.Context, w *Writer, out *RedisNode) (warnings []string, err error) {
	info, err := n.info(ctx)
	if err != nil {
		return nil, err
	}
	version, err := n.rdbVersion(ctx, info)
	if err != nil {
		return nil, err
	}
	_, err = w.Create(ctx, out.File, nil, func(dst io.Writer) error {
		e := newRDBWriter(dst, version)
		e.aux("redis-ver", info["redis_version"])
		e.aux("ctime", strconv.FormatInt(time.Now().Unix(), 10))
		functions, hidden, err := n.functions(ctx)
		if err != nil {
			return err
		}
		if hidden {
			warnings = append(warnings, fmt.Sprintf("redis %s: the user may not read function libraries (FUNCTION DUMP): they are not in the set", n.addr))
		}
		e.raw(functions)
		db := -1
		err = n.scan(ctx, info, func(s scanned) error {
			if v := dumpVersion(s.payload); v > version {
				return fmt.Errorf("key %.80q is in RDB version %d, newer than %d: %w", s.key, v, version, ErrChanged)
			}
			if s.db != db {
				db = s.db
				e.selectDB(db)
			}
			e.entry(s)
			return e.err
		})
		return errors.Join(err, e.close())
	})
	if err != nil {
		return nil, err
	}
	out.RDB, err = readStoredRDB(ctx, w.Stored(), out.File, rdbVisit{})
	return warnings, err
}

// rdbWriter writes an RDB file. Its error sticks.
type rdbWriter struct {
	w   *bufio.Writer
	crc uint64
	err error
}

func newRDBWriter(w io.Writer, version int) *rdbWriter {
	e := &rdbWriter{w: bufio.NewWriterSize(w, 256<<10)}
	e.raw(fmt.Appendf(nil, "REDIS%04d", version))
	return e
}

func (e *rdbWriter) raw(p []byte) {
	if e.err == nil {
		e.crc = crcUpdate(e.crc, p)
		_, e.err = e.w.Write(p)
	}
}

func (e *rdbWriter) string(s string) {
	e.raw(appendRDBLength(nil, uint64(len(s))))
	e.raw([]byte(s))
}

func appendRDBLength(p []byte, n uint64) []byte {
	switch {
	case n < 1<<6:
		return append(p, byte(n))
	case n < 1<<14:
		return append(p, 0x40|byte(n>>8), byte(n))
	case n < 1<<32:
		return binary.BigEndian.AppendUint32(append(p, 0x80), uint32(n))
	}
	return binary.BigEndian.AppendUint64(append(p, 0x81), n)
}

func (e *rdbWriter) aux(name, value string) {
	if value != "" {
		e.raw([]byte{opAux})
		e.string(name)
		e.string(value)
	}
}

func (e *rdbWriter) selectDB(db int) { e.raw(appendRDBLength([]byte{opSelectDB}, uint64(db))) }

func (e *rdbWriter) entry(s scanned) {
	if s.expire > 0 {
		e.raw(binary.LittleEndian.AppendUint64([]byte{opExpireMS}, uint64(s.expire)))
	}
	e.raw(s.payload[:1])
	e.string(s.key)
	e.raw(s.payload[1 : len(s.payload)-dumpFooter])
}

func (e *rdbWriter) close() error {
	e.raw([]byte{opEOF})
	if e.err == nil {
		_, e.err = e.w.Write(binary.LittleEndian.AppendUint64(nil, e.crc))
	}
	return errors.Join(e.err, e.w.Flush())
}

func containsAll(s string, parts ...string) bool {
	for _, p := range parts {
		if !strings.Contains(s, p) {
			return false
		}
	}
	return true
}
