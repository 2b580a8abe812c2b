package backup

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"

	"github.com/redis/go-redis/v9"

	"example.com/tykupgrade/backup/internal/step"
)

// RedisWay is how [RedisLive] gets the data into running servers.
type RedisWay string

// The ways.
const (
	// RedisReplicate makes the server a replica of this process for as long as
	// it takes to load the file, then a master again. It needs one server, one
	// file, +replicaof, and that the server can connect to this process.
	// Replicas of the server follow.
	RedisReplicate RedisWay = "replicate"
	// RedisRestore writes key by key with RESTORE, in a cluster to the master
	// of each key's slot. It works wherever writing does.
	RedisRestore RedisWay = "restore"
)

// RedisLive is a [Restorer] that loads the set into running servers: one
// server, the master that Sentinel names, or a cluster of any number of
// masters. Nothing is stopped.
//
// A target that holds keys or functions is refused unless Replace is set; then
// a set of what it holds is taken into Rescue first, and where anything fails
// that comes back, key by key: this way back needs +flushall and +restore too.
// Where the target was empty a failure leaves it empty.
type RedisLive struct {
	Client    redis.UniversalClient
	Component string   // name in the set; empty: "redis"
	Way       RedisWay // empty: RedisReplicate for one server and one file, otherwise RedisRestore
	Replace   bool     // the set replaces everything that the target holds
	Rescue    string   // with Replace: a directory for the set of what is replaced, one of its own
	Sample    int      // Prove: compare so many keys, chosen at random, instead of all

	// Listener is where the server fetches the file with RedisReplicate. nil:
	// a free port of the address that this machine talks to the server from.
	// Only connections from the server's address are answered. For servers with
	// tls-replication give one made with tls.NewListener. Restore closes it.
	Listener net.Listener

	rescued *Set
	written map[string]int64 // by file: how many keys, in the file's order
	touched bool             // the target may have lost what it had
}

// Name returns the component's name.
func (r *RedisLive) Name() string {
	if r.Component == "" {
		return "redis"
	}
	return r.Component
}

// target is what Plan found out.
type target struct {
	topo    *redisNodes
	details RedisDetails
	way     RedisWay
	version int  // of the RDB files
	holds   bool // keys or functions are there
}

// Plan refuses what cannot be loaded and lists each file.
func (r *RedisLive) Plan(ctx context.Context, s *Stored) ([]Item, error) {
	t, err := r.look(ctx, s)
	if err != nil {
		return nil, err
	}
	return t.items(), nil
}

func (t *target) items() []Item {
	var items []Item
	for _, n := range t.details.Nodes {
		i := Item{Name: n.File, Action: ActionCreate, Count: n.RDB.Keys, Bytes: n.RDB.Size, Detail: fmt.Sprintf("%s into %s", t.way, t.topo.origin())}
		if t.holds {
			i.Action = ActionReplace
		}
		items = append(items, i)
	}
	return items
}

func (r *RedisLive) look(ctx context.Context, s *Stored) (*target, error) {
	if r.Client == nil {
		return nil, errors.New("no client given")
	}
	if r.Replace && r.Rescue == "" {
		return nil, errors.New("replacing needs a directory for the set of what is replaced: give a rescue directory")
	}
	if r.Replace {
		if err := step.OutsideSets(r.Rescue); err != nil {
			return nil, err
		}
	}
	t := &target{way: r.Way}
	if err := s.DecodeDetails(&t.details); err != nil {
		return nil, err
	}
	var err error
	if t.topo, err = redisTopology(ctx, r.Client); err != nil {
		return nil, err
	}
	single := t.topo.kind == "standalone" && len(t.details.Nodes) == 1
	switch {
	case t.way == "" && single:
		t.way = RedisReplicate
	case t.way == "":
		t.way = RedisRestore
	case t.way == RedisReplicate && !single:
		return nil, fmt.Errorf("%s works for one server and one file; this is %d files into %s: use the way %s", t.way, len(t.details.Nodes), t.topo.kind, RedisRestore)
	case t.way != RedisReplicate && t.way != RedisRestore:
		return nil, fmt.Errorf("there is no way %q; use %s or %s", t.way, RedisReplicate, RedisRestore)
	}
	for _, n := range t.details.Nodes {
		t.version = max(t.version, n.RDB.Version)
		for db := range n.RDB.Databases {
			if db != 0 && t.topo.kind == "cluster" {
				return nil, fmt.Errorf("the set holds keys in database %d, and a cluster has only database 0", db)
			}
		}
		if n.RDB.NotWalked != "" && t.way == RedisRestore {
			return nil, fmt.Errorf("%s cannot be restored key by key: %s", n.File, n.RDB.NotWalked)
		}
	}
	for _, n := range t.topo.nodes {
		info, err := n.info(ctx)
		if err != nil {
			return nil, err
		}
		if err := checkTarget(ctx, n, info, t.version, r.Replace); err != nil {
			return nil, err
		}
		holds, err := n.holdsFunctions(ctx)
		if err != nil {
			return nil, err
		}
		if holds && !r.Replace {
			return nil, &Error{Op: "restore", Object: "redis " + n.addr, Err: fmt.Errorf("%w: it holds function libraries", ErrNotEmpty), Next: "restore with replacing if they may go"}
		}
		t.holds = t.holds || holds || info.keys() > 0
		if len(info) > 0 {
			continue
		}
		if t.way == RedisReplicate {
			return nil, &Error{Op: "restore", Object: "redis " + n.addr, Err: fmt.Errorf("%w: INFO is forbidden, and only it tells when the file is loaded", ErrNotAllowed),
				Next: "give the user +info, or use the way " + string(RedisRestore)}
		}
		t.holds = t.holds || r.Replace // DBSIZE tells of one database alone
	}
	if t.way == RedisRestore || t.holds { // the way there, or back
		return t, t.mayRestore(ctx)
	}
	return t, nil
}

// mayRestore finds out before anything is emptied that keys can be written.
func (t *target) mayRestore(ctx context.Context) error {
	for _, n := range t.topo.nodes {
		// No server takes an empty payload. A user who may not touch this key
		// may still touch those of the set.
		err := n.client.Do(ctx, "RESTORE", "key", 0, "").Err()
		if redisDenied(err) && strings.Contains(strings.ToLower(err.Error()), "restore") {
			return redisError("restore", "redis "+n.addr, err)
		}
	}
	return nil
}

func (n *redisNode) holdsFunctions(ctx context.Context) (bool, error) {
	f, _, err := n.functions(ctx)
	return len(f) > 0, err
}

// Restore loads the set.
func (r *RedisLive) Restore(ctx context.Context, s *Stored, progress func(Event)) ([]Item, error) {
	t, err := r.look(ctx, s)
	if err != nil {
		return nil, err
	}
	items := t.items()
	r.rescued, r.written, r.touched = nil, map[string]int64{}, false
	if t.holds {
		r.rescued, err = Take(ctx, r.Rescue, Options{Label: "replaced by the restore of another set"}, &Redis{Client: r.Client, Component: r.Name()})
		if err != nil {
			return nil, fmt.Errorf("save what would be replaced: %w", err)
		}
		for i := range items {
			items[i].Detail += "; what was there is in " + r.rescued.Dir
		}
	}
	e := Event{Component: r.Name(), Phase: PhaseRestore, TotalBytes: s.Bytes, TotalItems: s.Items}
	err = r.load(ctx, t, s, func(bytes, keys int64) {
		e.Bytes += bytes
		if e.Items += keys; t.way == RedisRestore && s.Items > 0 {
			// What is sent is larger than the file: each key has its own footer.
			e.Bytes = s.Bytes * e.Items / s.Items
		}
		progress(e)
	})
	if err != nil {
		return items, errors.Join(ctxFirst(ctx, err), r.rollback(ctx, t, s))
	}
	e.Done, e.Items = true, s.Items
	progress(e)
	return items, nil
}

func (r *RedisLive) load(ctx context.Context, t *target, s *Stored, count func(bytes, keys int64)) error {
	if t.way == RedisReplicate {
		return r.replicate(ctx, t, s, count)
	}
	if t.holds {
		if err := r.flush(ctx, t); err != nil {
			return err
		}
	}
	for _, n := range t.details.Nodes {
		if err := r.restoreKeys(ctx, t, s, n, count); err != nil {
			return err
		}
	}
	return nil
}

func (r *RedisLive) flush(ctx context.Context, t *target) error {
	for _, n := range t.topo.nodes {
		err := n.client.FlushAll(ctx).Err()
		r.touched = r.touched || !redisDenied(err)
		if err != nil {
			return redisError("empty", "redis "+n.addr, err)
		}
	}
	return t.flushFunctions(ctx)
}

func (t *target) flushFunctions(ctx context.Context) error {
	for _, n := range t.topo.nodes {
		if err := n.client.FunctionFlush(ctx).Err(); err != nil && !redisDenied(err) {
			return redisError("remove the functions of", "redis "+n.addr, err)
		}
	}
	return nil
}

// restoreKeys writes one file's keys and functions.
func (r *RedisLive) restoreKeys(ctx context.Context, t *target, s *Stored, from RedisNode, count func(bytes, keys int64)) error {
	b := &restoreBatch{ctx: ctx, t: t, all: r.Client, client: r.Client, count: count}
	defer b.close()
	_, err := readStoredRDB(ctx, s, from.File, rdbVisit{raw: true, key: func(k *rdbKey) error {
		err := b.add(k, from.RDB.Version)
		r.written[from.File] = b.written
		return err
	}, function: func(lib []byte) error {
		// Each master of a backed-up cluster has the same libraries.
		for _, n := range t.topo.nodes {
			if err := n.client.FunctionLoadReplace(ctx, string(lib)).Err(); err != nil {
				return redisError("load a function library into", "redis "+n.addr, err)
			}
		}
		return nil
	}})
	if err == nil {
		err = b.flush()
	}
	r.written[from.File] = b.written
	return err
}

// restoreBatch collects RESTORE commands of one database.
type restoreBatch struct {
	ctx    context.Context
	t      *target
	all    redis.UniversalClient // every database through the caller's client
	client redis.UniversalClient // the database in hand
	db     int
	pipe   redis.Pipeliner
	keys   []string
	bytes  int64
	count  func(bytes, keys int64)

	written int64 // keys that are in the target
}

// pipeBytes and pipeKeys bound what is sent before the replies are read.
const (
	pipeBytes = 4 << 20
	pipeKeys  = 500
)

func (b *restoreBatch) add(k *rdbKey, version int) error {
	if k.DB != b.db || b.pipe == nil {
		if err := b.flush(); err != nil {
			return err
		}
		b.selectDB(k.DB)
	}
	payload := dumpPayload(k, version)
	args := []any{"RESTORE", string(k.Key), k.Expire, payload}
	if k.Expire != 0 {
		args = append(args, "ABSTTL")
	}
	b.pipe.Do(b.ctx, args...)
	b.keys = append(b.keys, string(k.Key))
	b.bytes += int64(len(payload) + len(k.Key))
	if b.bytes >= pipeBytes || len(b.keys) >= pipeKeys {
		return b.flush()
	}
	return nil
}

func (b *restoreBatch) selectDB(db int) {
	b.close()
	b.db, b.client = db, inDatabase(b.all, db)
	b.pipe = b.client.Pipeline()
}

// inDatabase returns c, or where c uses another database a client of its own.
func inDatabase(c redis.UniversalClient, db int) redis.UniversalClient {
	if single, ok := c.(*redis.Client); ok && single.Options().DB != db {
		return (&redisNode{client: single}).database(db)
	}
	return c
}

func (b *restoreBatch) close() {
	if b.client != nil && b.client != b.all {
		_ = b.client.Close()
		b.client = b.all
	}
}

func (b *restoreBatch) flush() error {
	if len(b.keys) == 0 {
		return nil
	}
	replies, err := b.pipe.Exec(b.ctx)
	var done []string
	for i, reply := range replies {
		switch e := reply.Err(); {
		case e == nil:
			done = append(done, b.keys[i])
		case strings.HasPrefix(e.Error(), "BUSYKEY"):
			err = fmt.Errorf("key %.80q: somebody wrote to the target meanwhile: %w", b.keys[i], ErrNotEmpty)
		case err == nil || errors.Is(err, e):
			err = fmt.Errorf("key %.80q: %w", b.keys[i], e)
		}
	}
	if err != nil {
		// So that written stays true; a lost connection leaves it unknown.
		return errors.Join(redisError("write to", b.t.topo.origin(), ctxFirst(b.ctx, err)), unlink(context.WithoutCancel(b.ctx), b.client, done))
	}
	b.written += int64(len(b.keys))
	b.count(0, int64(len(b.keys)))
	b.keys, b.bytes = b.keys[:0], 0
	return nil
}

func unlink(ctx context.Context, c redis.UniversalClient, keys []string) error {
	if len(keys) == 0 {
		return nil
	}
	_, err := c.Pipelined(ctx, func(p redis.Pipeliner) error {
		for _, k := range keys {
			p.Unlink(ctx, k)
		}
		return nil
	})
	return err
}

// unwrite removes the keys that were written into a target that was empty, and
// only those: somebody else may have begun to use it.
func (r *RedisLive) unwrite(ctx context.Context, t *target, s *Stored) error {
	for _, n := range t.details.Nodes {
		left := r.written[n.File]
		if left == 0 {
			continue
		}
		b := &restoreBatch{all: r.Client}
		b.selectDB(0)
		var keys []string
		_, err := readStoredRDB(ctx, s, n.File, rdbVisit{key: func(k *rdbKey) error {
			if left == 0 {
				return nil
			}
			if k.DB != b.db || len(keys) >= pipeKeys {
				if err := unlink(ctx, b.client, keys); err != nil {
					return err
				}
				b.selectDB(k.DB)
				keys = keys[:0]
			}
			left--
			keys = append(keys, string(k.Key))
			return nil
		}})
		if err == nil {
			err = unlink(ctx, b.client, keys)
		}
		b.close()
		if err != nil {
			return err
		}
	}
	return t.flushFunctions(ctx)
}

// rollback brings back what was there, even after ctx has ended.
func (r *RedisLive) rollback(ctx context.Context, t *target, s *Stored) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), step.UndoLimit)
	defer cancel()
	if r.rescued == nil && t.way == RedisRestore {
		if err := r.unwrite(ctx, t, s); err != nil {
			return fmt.Errorf("and removing what was written failed: %w", err)
		}
		return nil
	}
	if !r.touched {
		return nil
	}
	if r.rescued == nil {
		return r.flush(ctx, t)
	}
	old, _ := r.rescued.Component(r.Name())
	// Key by key works wherever writing does.
	back := &target{topo: t.topo, way: RedisRestore, holds: true}
	err := old.DecodeDetails(&back.details)
	if err == nil {
		err = r.load(ctx, back, old, func(int64, int64) {})
	}
	if err != nil {
		return fmt.Errorf("and bringing back what was there failed; it is in the set %s: %w", r.rescued.Dir, err)
	}
	return nil
}

// Prove compares the target with the set. Where they differ the target gets
// back what it had, if Restore replaced anything.
func (r *RedisLive) Prove(ctx context.Context, s *Stored) error {
	topo, err := redisTopology(ctx, r.Client)
	if err != nil {
		return err
	}
	err = proveRedis(ctx, topo.nodes, r.Client, s, r.Sample)
	if errors.Is(err, ErrDiffers) && r.rescued != nil {
		err = errors.Join(err, r.rollback(ctx, &target{topo: topo}, s))
	}
	r.rescued = nil
	return err
}

var _ Restorer = (*RedisLive)(nil)
