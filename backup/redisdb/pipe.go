package redisdb

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"example.com/tykupgrade/backup"
	"example.com/tykupgrade/backup/internal/step"
	"example.com/tykupgrade/backup/redisdb/internal/rdb"
)

// windowBytes and windowKeys bound how much is sent at a time. windows bounds how many windows may
// wait for replies. 2 MiB keep a server busy while this process waits for a core or a disk.
const (
	windowBytes = 128 << 10
	windowKeys  = 1000
	windows     = 16
)

// window is a group of RESTORE commands for one database.
type window struct {
	db       int
	buf      []byte
	items    []item
	selected bool // a SELECT went in front
}

// item is one key of a window.
type item struct {
	index      int64 // the key's place in the set
	name       string
	expire     int64
	typ        byte
	start, end int64 // where the value lies in the file
}

// pipe writes keys into one node.
type pipe struct {
	ctx     context.Context
	n       *node
	file    *os.File // where values come from
	version int      // of the file
	replace bool     // replace keys of the same name
	done    func(keys int)

	c       *conn
	process string // of the server; empty: unknown
	db      int
	ids     []string // of the connections that were lost
	id      string
	current *window
	sent    []*window
	spare   []*window // windows for reuse
}

// add adds a key to the current window, and sends the window when it is full.
func (p *pipe) add(k *rdb.Key, index int64) error {
	if w := p.current; w != nil && w.db != k.DB {
		if err := p.flush(); err != nil {
			return err
		}
	}
	it := item{index: index, name: string(k.Name), expire: k.Expire, typ: k.Type, start: k.Start,
		end: k.End}
	if k.Raw == nil { // large: streamed from the file, alone
		if err := p.flush(); err != nil {
			return err
		}
		p.current = &window{db: k.DB, items: []item{it}}
		return p.flush()
	}
	if p.current == nil {
		if last := len(p.spare) - 1; last >= 0 {
			p.current, p.spare = p.spare[last], p.spare[:last]
		} else {
			p.current = &window{buf: make([]byte, 0, windowBytes+8<<10)}
		}
		p.current.db = k.DB
	}
	w := p.current
	w.buf = p.appendHead(w.buf, &it)
	from := len(w.buf)
	w.buf = append(append(w.buf, k.Type), k.Raw...)
	w.buf = rdb.AppendFooter(w.buf, p.version, rdb.CRC(0, w.buf[from:]))
	w.buf = p.appendTail(w.buf, &it)
	w.items = append(w.items, it)
	if len(w.buf) >= windowBytes || len(w.items) >= windowKeys {
		return p.flush()
	}
	return nil
}

// appendHead appends RESTORE up to the value.
func (p *pipe) appendHead(b []byte, it *item) []byte {
	args := 4
	if p.replace {
		args++
	}
	if it.expire != 0 {
		args++
	}
	b = append(strconv.AppendInt(append(b, '*'), int64(args), 10), "\r\n"...)
	word := renamed(p.n.names, "RESTORE")
	b = append(append(appendBulk(b, int64(len(word))), word...), "\r\n"...)
	b = append(append(appendBulk(b, int64(len(it.name))), it.name...), "\r\n"...)
	ttl := strconv.FormatInt(it.expire, 10)
	b = append(append(appendBulk(b, int64(len(ttl))), ttl...), "\r\n"...)
	return appendBulk(b, 1+it.end-it.start+rdb.Footer)
}

func (p *pipe) appendTail(b []byte, it *item) []byte {
	b = append(b, "\r\n"...)
	if p.replace {
		b = append(b, "$7\r\nREPLACE\r\n"...)
	}
	if it.expire != 0 {
		b = append(b, "$6\r\nABSTTL\r\n"...)
	}
	return b
}

// flush sends the current window. If too many windows wait for replies, it reads those of the
// oldest.
func (p *pipe) flush() error {
	w := p.current
	if w == nil || len(w.items) == 0 {
		return nil
	}
	p.current = nil
	err := p.send(w)
	p.sent = append(p.sent, w)
	for err == nil && len(p.sent) >= windows {
		err = p.receive()
	}
	return p.recovered(err)
}

// drain reads all outstanding replies.
func (p *pipe) drain() error {
	err := p.flush()
	for err == nil && len(p.sent) > 0 {
		err = p.recovered(p.receive())
	}
	return err
}

func (p *pipe) connect() error {
	c, err := p.n.open(p.ctx, 0)
	if err != nil {
		return err
	}
	c.idle = slowLimit
	if p.id != "" {
		p.ids = append(p.ids, p.id)
	}
	p.id, _ = c.command("CLIENT", "ID") // forbidden: it stays unknown
	now, err := c.process()
	if err == nil && p.process != "" && now != "" && now != p.process {
		err = &backup.Error{Op: "write to", Object: p.n.object(), Kind: ErrRestarted, Retry: true,
			Next: "restore again"}
	}
	if err != nil {
		c.close()
		return err
	}
	p.c, p.db, p.process = c, 0, now
	return nil
}

func (p *pipe) send(w *window) error {
	if p.c == nil {
		if err := p.connect(); err != nil {
			return err
		}
	}
	if w.selected = w.db != p.db; w.selected {
		if err := p.c.put("SELECT", strconv.Itoa(w.db)); err != nil {
			return err
		}
		p.db = w.db
	}
	if w.buf != nil {
		if _, err := p.c.w.Write(w.buf); err != nil {
			return err
		}
		return p.c.w.Flush()
	}
	it := &w.items[0]
	payload, err := p.payload(it)
	if err != nil {
		return err
	}
	if _, err := p.c.w.Write(p.appendHead(nil, it)); err != nil {
		return err
	}
	if _, err := io.Copy(p.c.w, payload); err != nil {
		return err
	}
	if _, err := p.c.w.Write(p.appendTail(nil, it)); err != nil {
		return err
	}
	return p.c.w.Flush()
}

// payload returns a value in the form for RESTORE: type, value, version and checksum. It reads the
// file twice, so that the value need not fit into memory.
func (p *pipe) payload(it *item) (io.Reader, error) {
	section := func() io.Reader { return io.NewSectionReader(p.file, it.start, it.end-it.start) }
	crc := rdb.CRC(0, []byte{it.typ})
	n, err := io.Copy(writeFunc(func(b []byte) { crc = rdb.CRC(crc, b) }), &step.ReadMeter{Ctx: p.ctx,
		R: section()})
	if err == nil && n != it.end-it.start {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return nil, fmt.Errorf("read the set: %w", err)
	}
	return io.MultiReader(strings.NewReader(string(it.typ)), section(),
		strings.NewReader(string(rdb.AppendFooter(nil, p.version, crc)))), nil
}

type writeFunc func([]byte)

func (f writeFunc) Write(b []byte) (int, error) {
	f(b)
	return len(b), nil
}

// receive reads the replies of the oldest window.
func (p *pipe) receive() error {
	w := p.sent[0]
	if w.selected {
		if _, err := p.c.status(); err != nil {
			return err
		}
	}
	var busy []item
	var first error
	for _, it := range w.items {
		if p.c.ok() {
			continue
		}
		_, err := p.c.status()
		switch {
		case err == nil:
		case !isReply(err):
			return err
		case strings.HasPrefix(err.Error(), "BUSYKEY"):
			busy = append(busy, it)
		case first == nil:
			first = fmt.Errorf("key %.80q: %w", it.name, err)
		}
	}
	if first != nil {
		return first
	}
	if err := p.ours(w.db, busy); err != nil {
		return err
	}
	p.sent = p.sent[1:]
	p.done(len(w.items))
	if w.buf != nil {
		w.buf, w.items = w.buf[:0], w.items[:0]
		p.spare = append(p.spare, w)
	}
	return nil
}

// recovered reconnects after a lost connection and sends unconfirmed commands again. A command that
// the server had already run then finds its own key.
func (p *pipe) recovered(err error) error {
	for try := 0; err != nil && try < 6 && lost(err); try++ {
		if e := step.Ended(p.ctx); e != nil {
			return e
		}
		if p.c != nil {
			p.c.abort()
			p.c.close()
			p.c = nil
		}
		if e := step.Pause(p.ctx, 50*time.Millisecond<<(2*try)); e != nil {
			return e
		}
		again := p.sent
		p.sent = nil
		for i, w := range again {
			err = p.send(w)
			p.sent = append(p.sent, w)
			if err == nil {
				err = p.receive()
			}
			if err != nil {
				p.sent = append(p.sent, again[i+1:]...)
				break
			}
		}
	}
	return err
}

// lost reports whether err is a broken connection rather than an answer.
func lost(err error) bool {
	var e *backup.Error
	if errors.As(err, &e) {
		return e.Retry && !isReply(err) && e.Kind == nil
	}
	return !isReply(err) && !errors.Is(err, backup.ErrNotEmpty) && !errors.Is(err, context.Canceled) &&
		!errors.Is(err, errSet)
}

// ours checks existing keys. It returns an error for keys that somebody else has written.
func (p *pipe) ours(db int, items []item) error {
	if len(items) == 0 {
		return nil
	}
	equal, err := p.compare(db, items)
	if err != nil {
		return err
	}
	for _, it := range items {
		same, there := equal[it.name]
		// An expiring key may have gone meanwhile.
		if !same && (there || it.expire == 0) {
			return fmt.Errorf("key %.80q: somebody wrote to the target meanwhile: %w", it.name,
				backup.ErrNotEmpty)
		}
	}
	return nil
}

// compare reports for each existing item whether the server's value equals the set's.
func (p *pipe) compare(db int, items []item) (map[string]bool, error) {
	keys := make([]rdb.Key, len(items))
	for i, it := range items {
		payload, err := p.payload(&it)
		if err != nil {
			return nil, err
		}
		sum, _, err := rdb.DumpDigest(p.ctx, payload, 1+it.end-it.start+rdb.Footer, 0)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", errSet, err)
		}
		keys[i] = rdb.Key{DB: db, Name: []byte(it.name), Expire: it.expire, Digest: sum}
	}
	live, err := p.n.digests(p.ctx, db, keys, 0)
	if err != nil {
		return nil, err
	}
	equal := map[string]bool{}
	for i := range keys {
		if l, ok := live[items[i].name]; ok {
			equal[items[i].name] = sameKey(&keys[i], l)
		}
	}
	return equal, nil
}

// errSet is a failure to read the set itself.
var errSet = errors.New("the set cannot be read")

// close ends the connection. After an error it first reads outstanding replies, so that the server
// has finished our commands before an undo.
func (p *pipe) close() {
	if p.c == nil {
		return
	}
	if len(p.sent) > 1 && step.Ended(p.ctx) == nil {
		p.c.idle = idleLimit
		for _, w := range p.sent[1:] {
			p.sent = []*window{w}
			if err := p.receive(); err != nil && lost(err) {
				break
			}
		}
	}
	p.c.abort()
	p.c.close()
	p.c = nil
	if p.id != "" {
		p.ids = append(p.ids, p.id)
	}
}
