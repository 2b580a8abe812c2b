package redisdb

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"example.com/tykupgrade/backup"
	"example.com/tykupgrade/backup/internal/step"
	"example.com/tykupgrade/backup/redisdb/internal/rdb"
)

// proofSpan is how far in the future a key must expire to be compared, so that it still exists when
// the last server has been read.
const proofSpan = 15 * time.Minute

// summary sums up a data set, so that two sets can be compared in constant memory. A difference in
// one key shows in that key's bucket.
type summary struct {
	cutoff  int64 // keys that expire up to then do not count; Unix time in ms
	rough   bool  // the server's expiries are less exact than those in a file
	keys    map[int]int64
	buckets [4096]rdb.Digest
	libs    map[rdb.Digest]bool
}

func newSummary(cutoff int64) *summary {
	return &summary{cutoff: cutoff, keys: map[int]int64{}, libs: map[rdb.Digest]bool{}}
}

func (s *summary) visit() rdb.Visit {
	return rdb.Visit{Digest: true, Cutoff: s.cutoff, Key: s.add, Function: s.library}
}

func (s *summary) library(code []byte) error {
	sum := sha256.Sum256(code)
	s.libs[rdb.ToDigest(sum[:])] = true
	return nil
}

// counts reports whether a key is compared. Servers do not load empty collections, and keys that
// expire soon may be gone.
func counts(k *rdb.Key, cutoff int64) bool {
	return !k.Empty && !k.Gone && (k.Expire == 0 || k.Expire > cutoff)
}

func (s *summary) add(k *rdb.Key) error {
	if !counts(k, s.cutoff) {
		return nil
	}
	s.keys[k.DB]++
	where := fnv.New32a()
	_, _ = where.Write(k.Name)
	s.buckets[where.Sum32()%uint32(len(s.buckets))].Add(keyDigest(k, s.rough))
	return nil
}

func keyDigest(k *rdb.Key, rough bool) rdb.Digest {
	expire := k.Expire
	if rough {
		expire = min(expire, 1)
	}
	b := make([]byte, 0, 128)
	b = binary.BigEndian.AppendUint64(b, uint64(k.DB))
	b = binary.BigEndian.AppendUint64(b, uint64(expire))
	b = k.Digest.Append(b)
	b = append(b, k.Name...)
	sum := sha256.Sum256(b)
	return rdb.ToDigest(sum[:])
}

// diff describes how a live data set differs from s, or returns "".
func (s *summary) diff(live *summary) string {
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
			found = append(found, fmt.Sprintf("database %d has %d keys, the set %d", db, b, a))
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

// Prove compares every key of the set, or a sample, with the live data: value, type and expiry. It
// changes nothing. It leaves out keys and hash fields that expire within 15 minutes by the server's
// clock. It reads all keys with PSYNC, or with SCAN and DUMP if the user may not run PSYNC. On
// servers before 7.0, SCAN and DUMP compare only whether a key expires.
//
// Streams are compared by entries, IDs, groups, consumers and pending entries. The server's
// encoding of a value does not matter.
func (r *Source) Prove(ctx context.Context, s *backup.Stored) error {
	topo, err := topologyOf(ctx, r.Client, r.Commands)
	if err != nil {
		return err
	}
	return compare(ctx, topo.nodes, r.Client, s, r.Sample)
}

// cutoffOf returns the Unix time in ms up to which expiring keys are not compared. It uses the
// latest of the clocks of the servers and this machine.
func cutoffOf(ctx context.Context, nodes []*node) (int64, error) {
	latest := time.Now()
	for _, n := range nodes {
		now, err := n.clock(ctx)
		if err != nil {
			return 0, err
		}
		if now.After(latest) {
			latest = now
		}
	}
	return latest.Add(proofSpan).UnixMilli(), nil
}

func compare(ctx context.Context, nodes []*node, client redis.UniversalClient, s *backup.Stored,
	sample int) error {
	d, err := detailsOf(s)
	if err != nil {
		return err
	}
	for _, n := range d.Nodes {
		if n.RDB.NotWalked != "" {
			return fmt.Errorf("%s cannot be compared: %s", n.File, n.RDB.NotWalked)
		}
	}
	cutoff, err := cutoffOf(ctx, nodes)
	if err != nil {
		return err
	}
	if sample > 0 {
		return compareSample(ctx, nodes, client, s, d, sample, cutoff)
	}
	want, have := newSummary(cutoff), newSummary(cutoff)
	if want.rough, err = roughExpiry(ctx, nodes); err != nil {
		return err
	}
	have.rough = want.rough
	err = step.Together(ctx, 2, func(ctx context.Context, side int) error {
		if side == 0 {
			for _, n := range d.Nodes {
				if _, err := readStored(ctx, s, n.File, want.visit()); err != nil {
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
		return fmt.Errorf("%w: %s", backup.ErrDiffers, diff)
	}
	return nil
}

// roughExpiry reports whether a node must be read by key and its expiries are only the sum of a
// clock and a remaining time.
func roughExpiry(ctx context.Context, nodes []*node) (bool, error) {
	for _, n := range nodes {
		if !denied(n.do(ctx, "PEXPIRETIME", "key").Err()) {
			continue
		}
		err := n.mayPSYNC(ctx)
		if errors.Is(err, backup.ErrNotAllowed) {
			return true, nil
		}
		if err != nil {
			return false, err
		}
	}
	return false, nil
}

// sum adds the live data of one node.
func (n *node) sum(ctx context.Context, into *summary) error {
	c, err := n.open(ctx, 0)
	if err != nil {
		return err
	}
	defer c.close()
	file, _, _, err := c.snapshot()
	if denied(err) {
		return n.sumByKey(ctx, into)
	}
	if err == nil {
		_, err = rdb.Read(ctx, file, into.visit())
	}
	if err != nil {
		return serverError("read back", n.object(), ctxFirst(ctx, err))
	}
	return nil
}

func (n *node) sumByKey(ctx context.Context, into *summary) error {
	info, err := n.info(ctx)
	if err != nil {
		return err
	}
	functions, _, err := n.functions(ctx)
	if err == nil && len(functions) > 0 {
		err = rdb.Functions(ctx, functions, into.library)
	}
	if err != nil {
		return err
	}
	db := 0
	return n.scan(ctx, info, func(d int) { db = d }, func(key string, size int64,
		r io.Reader) (func(int64) error, error) {
		sum, gone, err := rdb.DumpDigest(ctx, r, size, into.cutoff)
		return func(expire int64) error {
			return into.add(&rdb.Key{DB: db, Name: []byte(key), Expire: expire, Digest: sum, Gone: gone})
		}, err
	})
}
