package redisdb

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"

	"github.com/redis/go-redis/v9"

	"example.com/tykupgrade/backup"
	"example.com/tykupgrade/backup/redisdb/internal/rdb"
)

// compareSample compares the number of keys, and the values of some.
func compareSample(ctx context.Context, nodes []*node, client redis.UniversalClient,
	s *backup.Stored, d Details, sample int, cutoff int64) error {
	var lasting, all, empty int64
	var chosen []rdb.Key
	for _, n := range d.Nodes {
		_, err := readStored(ctx, s, n.File, rdb.Visit{Digest: true, Cutoff: cutoff,
			Key: func(k *rdb.Key) error {
				if k.Empty {
					empty++
					return nil
				}
				all++
				if !counts(k, cutoff) {
					return nil
				}
				lasting++
				// Every key has the same chance, for any number of keys.
				at := len(chosen)
				if at == sample {
					if at = int(rand.Int64N(lasting)); at >= sample {
						return nil
					}
				} else {
					chosen = append(chosen, rdb.Key{})
				}
				chosen[at] = rdb.Key{DB: k.DB, Name: slices.Clone(k.Name), Type: k.Type, Expire: k.Expire,
					Digest: k.Digest}
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
		if len(info) == 0 { // DBSIZE counts only one database
			return &backup.Error{Op: "count the keys of", Object: n.object(), Kind: backup.ErrNotAllowed,
				Err:  errors.New("INFO is forbidden, and only INFO counts the keys of all databases"),
				Next: "grant the user +info, or compare all keys"}
		}
		have += info.keys()
	}
	if have < lasting || have > all {
		return fmt.Errorf("%w: it has %d keys, the set %d of which %d expire soon", backup.ErrDiffers,
			have, all, all-lasting)
	}
	return compareKeys(ctx, nodes, chosen, cutoff)
}

// compareKeys compares the values of some keys, each on its own node.
func compareKeys(ctx context.Context, nodes []*node, chosen []rdb.Key, cutoff int64) error {
	type place struct{ node, db int }
	slots := slotOwners(nodes)
	at := map[place][]rdb.Key{}
	for _, k := range chosen {
		p := place{slots.of(k.Name), k.DB}
		at[p] = append(at[p], k)
	}
	var bad []error
	for p, keys := range at {
		found, err := nodes[p.node].digests(ctx, p.db, keys, cutoff)
		if err != nil {
			return err
		}
		for i := range keys {
			k := &keys[i]
			live, ok := found[string(k.Name)]
			switch {
			case !ok:
				bad = append(bad, fmt.Errorf("%w: key %.80q of database %d is missing", backup.ErrDiffers,
					k.Name, k.DB))
			case !sameKey(k, live):
				bad = append(bad, fmt.Errorf("%w: key %.80q of database %d", backup.ErrDiffers, k.Name, k.DB))
			}
		}
	}
	return errors.Join(bad...)
}

// liveKey is the summary of a key on a server.
type liveKey struct {
	digest rdb.Digest
	expire int64
	rough  bool // the expiry is not exact
}

func sameKey(k *rdb.Key, live liveKey) bool {
	if live.rough && k.Expire > 0 && live.expire > 0 {
		return k.Digest == live.digest && max(k.Expire, live.expire)-min(k.Expire, live.expire) < 1000
	}
	return k.Digest == live.digest && k.Expire == live.expire
}

// digests sums up keys of one database. It leaves out keys that do not exist.
func (n *node) digests(ctx context.Context, db int, keys []rdb.Key,
	cutoff int64) (map[string]liveKey, error) {
	c, err := n.open(ctx, db)
	if err != nil {
		return nil, err
	}
	defer c.close()
	c.idle = slowLimit
	found := map[string]liveKey{}
	s := &scanner{ctx: ctx, n: n, c: c, db: db}
	s.value = func(key string, size int64, r io.Reader) (func(int64) error, error) {
		sum, _, err := rdb.DumpDigest(ctx, r, size, cutoff)
		return func(expire int64) error {
			found[key] = liveKey{sum, expire, s.old}
			return nil
		}, err
	}
	names := make([]string, len(keys))
	for i, k := range keys {
		names[i] = string(k.Name)
	}
	if err := s.keys(names); err != nil {
		return nil, serverError("read keys of", n.object(), ctxFirst(ctx, err))
	}
	return found, nil
}
