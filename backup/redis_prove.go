package backup

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"example.com/tykupgrade/backup/internal/step"
)

// proofSpan is how far in the future a key must expire to be compared: it must
// still be there when the last server has been read.
const proofSpan = 15 * time.Minute

// redisSum sums up a data set so that two of them can be compared in constant
// memory. A difference in one key shows in that key's bucket.
type redisSum struct {
	cutoff  int64 // keys that expire up to then do not count; Unix time in ms
	keys    map[int]int64
	buckets [4096]digest
	libs    map[digest]bool
}

func newRedisSum(now time.Time) *redisSum {
	return &redisSum{cutoff: now.Add(proofSpan).UnixMilli(), keys: map[int]int64{}, libs: map[digest]bool{}}
}

func (s *redisSum) visit() rdbVisit {
	return rdbVisit{digest: true, key: s.add, function: func(lib []byte) error {
		sum := sha256.Sum256(lib)
		s.libs[toDigest(sum[:])] = true
		return nil
	}}
}

func (s *redisSum) add(k *rdbKey) error {
	if k.Expire != 0 && k.Expire <= s.cutoff {
		return nil
	}
	s.keys[k.DB]++
	where := fnv.New32a()
	_, _ = where.Write(k.Key)
	s.buckets[where.Sum32()%uint32(len(s.buckets))].add(keyDigest(k))
	return nil
}

func keyDigest(k *rdbKey) digest {
	b := make([]byte, 0, 128)
	b = binary.BigEndian.AppendUint64(b, uint64(k.DB))
	b = binary.BigEndian.AppendUint64(b, uint64(k.Expire))
	b = append(b, k.Digest.bytes()...)
	b = append(b, k.Key...)
	sum := sha256.Sum256(b)
	return toDigest(sum[:])
}

// diff describes how a live data set differs from s; empty: not at all.
func (s *redisSum) diff(live *redisSum) string {
	var found []string
	dbs := map[int]bool{}
	for db := range s.keys {
		dbs[db] = true
	}
	for db := range live.keys {
		dbs[db] = true
	}
	for db := range dbs {
		if a, b := s.keys[db], live.keys[db]; a != b {
			found = append(found, fmt.Sprintf("database %d holds %d keys, the set %d", db, b, a))
		}
	}
	slices.Sort(found)
	n := 0
	for i := range s.buckets {
		if s.buckets[i] != live.buckets[i] {
			n++
		}
	}
	if n > 0 {
		found = append(found, fmt.Sprintf("at least %d keys are missing, new or different", n))
	}
	for lib := range s.libs {
		if !live.libs[lib] {
			found = append(found, "a function library is missing or different")
			break
		}
	}
	return strings.Join(found, "; ")
}

// Prove compares every key of the set - or a sample - with the live data:
// value, type and expiry. Keys that expire within a quarter of an hour are left
// out. All keys are read with PSYNC, or with SCAN and DUMP where that is not
// allowed.
func (r *Redis) Prove(ctx context.Context, s *Stored) error {
	topo, err := redisTopology(ctx, r.Client)
	if err != nil {
		return err
	}
	return proveRedis(ctx, topo.nodes, r.Client, s, r.Sample)
}

func proveRedis(ctx context.Context, nodes []*redisNode, client redis.UniversalClient, s *Stored, sample int) error {
	var d RedisDetails
	if err := s.DecodeDetails(&d); err != nil {
		return err
	}
	for _, n := range d.Nodes {
		if n.RDB.NotWalked != "" {
			return fmt.Errorf("%s cannot be compared: %s", n.File, n.RDB.NotWalked)
		}
	}
	if sample > 0 {
		return proveSample(ctx, nodes, client, s, d, sample)
	}
	now := time.Now()
	want, have := newRedisSum(now), newRedisSum(now)
	err := step.Together(ctx, 2, func(ctx context.Context, side int) error {
		if side == 0 {
			for _, n := range d.Nodes {
				if _, err := readStoredRDB(ctx, s, n.File, want.visit()); err != nil {
					return err
				}
			}
			return nil
		}
		for _, n := range nodes {
			if err := n.sum(ctx, have); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	if diff := want.diff(have); diff != "" {
		return fmt.Errorf("%w: %s", ErrDiffers, diff)
	}
	return nil
}

// sum adds the live data of one node.
func (n *redisNode) sum(ctx context.Context, into *redisSum) error {
	object := "redis " + n.addr
	conn, err := n.dial(ctx)
	if err != nil {
		return redisError("connect to", object, ctxFirst(ctx, err))
	}
	defer conn.close()
	rdb, _, _, err := conn.snapshot()
	if redisDenied(err) {
		return n.sumByKey(ctx, into)
	}
	if err == nil {
		_, err = readRDB(ctx, rdb, into.visit())
	}
	if err != nil {
		return redisError("read back", object, ctxFirst(ctx, err))
	}
	return nil
}

func (n *redisNode) sumByKey(ctx context.Context, into *redisSum) error {
	info, err := n.info(ctx)
	if err != nil {
		return err
	}
	functions, _, err := n.functions(ctx)
	if err != nil {
		return err
	}
	c := bytesCursor(ctx, functions)
	for c.fill(1) && c.byte() == opFunction {
		if err := into.visit().function(c.string()); err != nil {
			return err
		}
	}
	return n.scan(ctx, info, func(s scanned) error {
		k, err := s.parse(ctx)
		if err != nil {
			return err
		}
		return into.add(k)
	})
}

func bytesCursor(ctx context.Context, p []byte) *rdbCursor {
	return &rdbCursor{ctx: ctx, r: bytes.NewReader(p), buf: make([]byte, min(max(64, 2*len(p)), 256<<10))}
}

// parse sums up a value that DUMP returned.
func (s scanned) parse(ctx context.Context) (*rdbKey, error) {
	k := &rdbKey{DB: s.db, Key: []byte(s.key), Expire: s.expire, Type: s.payload[0]}
	form := rdbTypes[k.Type]
	if form.read == nil {
		return nil, fmt.Errorf("key %.80q: value type %d is %w", s.key, k.Type, errUnknownRDB)
	}
	c := bytesCursor(ctx, s.payload[1:len(s.payload)-dumpFooter])
	d := newDigester(form.class)
	form.read(c, d)
	if c.err != nil {
		return nil, fmt.Errorf("key %.80q: %w", s.key, c.err)
	}
	k.Digest = d.sum()
	return k, nil
}

// proveSample compares the number of keys, and the values of some.
func proveSample(ctx context.Context, nodes []*redisNode, client redis.UniversalClient, s *Stored, d RedisDetails, sample int) error {
	now := time.Now()
	cutoff := now.Add(proofSpan).UnixMilli()
	var lasting, all, seen int64
	var chosen []rdbKey
	for _, n := range d.Nodes {
		_, err := readStoredRDB(ctx, s, n.File, rdbVisit{digest: true, key: func(k *rdbKey) error {
			if k.Expire == 0 || k.Expire > now.UnixMilli() {
				all++
			}
			if k.Expire != 0 && k.Expire <= cutoff {
				return nil
			}
			lasting++
			// Every key has the same chance, however many there are.
			seen++
			at := len(chosen)
			if at == sample {
				if at = int(rand.Int64N(seen)); at >= sample {
					return nil
				}
				chosen[at] = rdbKey{}
			} else {
				chosen = append(chosen, rdbKey{})
			}
			chosen[at] = rdbKey{DB: k.DB, Key: slices.Clone(k.Key), Type: k.Type, Expire: k.Expire, Digest: k.Digest}
			return nil
		}})
		if err != nil {
			return err
		}
	}
	var have int64
	for _, n := range nodes {
		info, err := n.info(ctx)
		if err != nil {
			return err
		}
		if len(info) == 0 { // DBSIZE tells of one database alone
			return &Error{Op: "count the keys of", Object: "redis " + n.addr, Err: fmt.Errorf("%w: INFO is forbidden, and only it tells of every database", ErrNotAllowed),
				Next: "give the user +info, or compare all keys"}
		}
		have += info.keys()
	}
	if have < lasting || have > all {
		return fmt.Errorf("%w: it holds %d keys, the set %d of which %d expire soon", ErrDiffers, have, all, all-lasting)
	}
	byDB := map[int][]rdbKey{}
	for _, k := range chosen {
		byDB[k.DB] = append(byDB[k.DB], k)
	}
	for db, keys := range byDB {
		c := inDatabase(client, db)
		if c != client {
			defer c.Close()
		}
		for batch := range slices.Chunk(keys, 100) {
			if err := compareKeys(ctx, c, db, batch); err != nil {
				return err
			}
		}
	}
	return nil
}

func compareKeys(ctx context.Context, client redis.UniversalClient, db int, want []rdbKey) error {
	names := make([]string, len(want))
	for i, k := range want {
		names[i] = string(k.Key)
	}
	found, err := dumpKeys(ctx, client, db, names)
	if err != nil {
		return err
	}
	live := map[string]digest{}
	for _, s := range found {
		k, err := s.parse(ctx)
		if err != nil {
			return err
		}
		live[s.key] = keyDigest(k)
	}
	var bad []error
	for _, k := range want {
		if have, ok := live[string(k.Key)]; !ok {
			bad = append(bad, fmt.Errorf("%w: key %.80q of database %d is missing", ErrDiffers, k.Key, db))
		} else if have != keyDigest(&k) {
			bad = append(bad, fmt.Errorf("%w: key %.80q of database %d", ErrDiffers, k.Key, db))
		}
	}
	return errors.Join(bad...)
}
