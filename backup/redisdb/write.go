package redisdb

import (
	"context"
	"errors"
	"os"

	"example.com/tykupgrade/backup"
	"example.com/tykupgrade/backup/internal/step"
	"example.com/tykupgrade/backup/redisdb/internal/rdb"
)

// writer writes the keys of a component into the nodes that own their slots.
type writer struct {
	ctx     context.Context
	nodes   []*node
	slots   slotTable
	skip    int64 // keys from the beginning that were written already
	replace bool

	pipes []*pipe
	next  int64             // index of the next key
	count func(int)         // keys that the server has confirmed
	saved func(int64) error // called at intervals with the number of confirmed keys from the beginning
}

func newWriter(ctx context.Context, nodes []*node, count func(int)) *writer {
	return &writer{ctx: ctx, nodes: nodes, slots: slotOwners(nodes), pipes: make([]*pipe, len(nodes)),
		count: count}
}

// acked returns how many keys from the beginning are confirmed. Later ones may be confirmed too.
func (w *writer) acked() int64 {
	n := w.next
	for _, p := range w.pipes {
		if p == nil {
			continue
		}
		if len(p.sent) > 0 {
			n = min(n, p.sent[0].items[0].index)
		} else if p.current != nil && len(p.current.items) > 0 {
			n = min(n, p.current.items[0].index)
		}
	}
	return n
}

// write writes every file's keys and functions.
func (w *writer) write(s *backup.Stored, d Details) error {
	for _, from := range d.Nodes {
		if err := w.file(s, from); err != nil {
			return ctxFirst(w.ctx, err)
		}
	}
	return nil
}

func (w *writer) file(s *backup.Stored, from Node) error {
	f, err := s.Open(from.File)
	if err != nil {
		return errors.Join(errSet, err)
	}
	defer f.Close()
	w.prepare(f, from.RDB.Version)
	_, err = rdb.Read(w.ctx, f, rdb.Visit{Key: w.key, Function: w.function})
	for _, p := range w.pipes {
		if err == nil {
			err = p.drain()
		}
	}
	return err
}

// prepare makes the pipes for one file. It drains those of the file before.
func (w *writer) prepare(f *os.File, version int) {
	for i, n := range w.nodes {
		if w.pipes[i] == nil {
			w.pipes[i] = &pipe{ctx: w.ctx, n: n, replace: w.replace, done: w.count}
		}
		w.pipes[i].file, w.pipes[i].version = f, version
	}
}

func (w *writer) key(k *rdb.Key) error {
	if k.Empty { // servers do not load these
		return nil
	}
	index := w.next
	w.next++
	if index < w.skip {
		w.count(1)
		return nil
	}
	p := w.pipes[w.slots.of(k.Name)]
	if err := p.add(k, index); err != nil {
		return err
	}
	if w.saved != nil && index%windowKeys == 0 {
		return w.saved(w.acked())
	}
	return nil
}

func (w *writer) function(library []byte) error {
	// Each master of a backed-up cluster has the same libraries.
	for _, n := range w.nodes {
		if err := n.do(w.ctx, "FUNCTION", "LOAD", "REPLACE", string(library)).Err(); err != nil {
			return serverError("load a function library into", n.object(), err)
		}
	}
	return nil
}

// close ends the connections and waits until the servers have finished the commands on them.
func (w *writer) close() {
	ctx, cancel := step.Undoing(w.ctx)
	defer cancel()
	for _, p := range w.pipes {
		if p == nil {
			continue
		}
		p.close()
		for _, id := range p.ids {
			// The connection may have ended, or the command may be forbidden.
			_ = p.n.do(ctx, "CLIENT", "KILL", "ID", id).Err()
		}
	}
}

// remover removes the keys that a restore wrote into an empty target. It removes only those,
// because somebody else may have begun to use the target.
type remover struct {
	w     *writer
	acked int64 // keys before it are ours
	sent  int64 // keys from it on were never sent; 0: unknown
	low   int64 // keys before it are removed
	gone  int64 // keys removed that were in doubt
	db    int
	batch [][]item // by node
	sure  bool     // the keys of the batch are ours
}

func (r *remover) run(s *backup.Stored, d Details) error {
	for round := 0; ; round++ {
		r.w.next, r.gone = 0, 0
		for _, from := range d.Nodes {
			if err := r.file(s, from); err != nil {
				return err
			}
		}
		// A server may have run a doubtful command late.
		if r.gone == 0 || round == 20 {
			return nil
		}
		r.low = r.acked
	}
}

func (r *remover) file(s *backup.Stored, from Node) error {
	f, err := s.Open(from.File)
	if err != nil {
		return err
	}
	defer f.Close()
	r.w.prepare(f, from.RDB.Version)
	r.batch = make([][]item, len(r.w.nodes))
	_, err = rdb.Read(r.w.ctx, f, rdb.Visit{Key: r.key})
	if err == nil {
		err = r.flushAll()
	}
	return err
}

func (r *remover) key(k *rdb.Key) error {
	if k.Empty {
		return nil
	}
	index := r.w.next
	r.w.next++
	if index < r.low || r.sent > 0 && index >= r.sent {
		return nil
	}
	sure := index < r.acked
	if k.DB != r.db || sure != r.sure {
		if err := r.flushAll(); err != nil {
			return err
		}
		r.db, r.sure = k.DB, sure
	}
	at := r.w.slots.of(k.Name)
	r.batch[at] = append(r.batch[at], item{index: index, name: string(k.Name), expire: k.Expire,
		typ: k.Type, start: k.Start, end: k.End})
	if len(r.batch[at]) >= windowKeys {
		return r.flush(at)
	}
	return nil
}

func (r *remover) flushAll() error {
	for i := range r.batch {
		if err := r.flush(i); err != nil {
			return err
		}
	}
	return nil
}

func (r *remover) flush(at int) error {
	items := r.batch[at]
	r.batch[at] = items[:0:0]
	p := r.w.pipes[at]
	if !r.sure && len(items) > 0 {
		equal, err := p.compare(r.db, items)
		if err != nil {
			return err
		}
		kept := items[:0]
		for _, it := range items {
			if equal[it.name] {
				kept = append(kept, it)
			}
		}
		items = kept
		r.gone += int64(len(items))
	}
	return p.n.unlink(r.w.ctx, r.db, items)
}

func (n *node) unlink(ctx context.Context, db int, items []item) error {
	if len(items) == 0 {
		return nil
	}
	c, err := n.open(ctx, db)
	if err != nil {
		return err
	}
	defer c.close()
	c.idle = slowLimit
	for _, it := range items {
		if err = c.put("UNLINK", it.name); err != nil {
			break
		}
	}
	if err == nil {
		err = c.w.Flush()
	}
	for range items {
		if err == nil {
			_, err = c.status()
		}
	}
	if err != nil {
		return serverError("remove keys from", n.object(), ctxFirst(ctx, err))
	}
	return nil
}
