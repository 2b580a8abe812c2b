package redisdb

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"time"

	"example.com/tykupgrade/backup"
	"example.com/tykupgrade/backup/redisdb/internal/rdb"
)

// scanner reads keys and their expiry with DUMP.
type scanner struct {
	ctx  context.Context
	n    *node
	c    *conn
	db   int
	mean float64 // mean size of recent values in bytes
	old  bool    // the server has no PEXPIRETIME (before 7.0) or the user may not run it

	// value reads size bytes, the result of DUMP for key. keep is called if the expiry did not
	// change meanwhile, possibly after the next value.
	value func(key string, size int64, r io.Reader) (keep func(expire int64) error, err error)
}

// batchBytes bounds how much a server buffers for us.
const (
	batchBytes = 4 << 20
	batchKeys  = 500
)

// scan reads every key once, database by database.
func (n *node) scan(ctx context.Context, info serverInfo, begin func(db int), value func(key string,
	size int64, r io.Reader) (func(int64) error, error)) error {
	if len(info) == 0 && n.id == "" { // a cluster has only database 0
		return &backup.Error{Op: "list the databases of", Object: n.object(), Kind: backup.ErrNotAllowed,
			Err:  errors.New("INFO is forbidden, and only INFO lists the databases with keys"),
			Next: "grant the user +info"}
	}
	dbs := []int{0}
	for db := range info.databases() {
		dbs = append(dbs, db)
	}
	slices.Sort(dbs)
	for _, db := range slices.Compact(dbs) {
		begin(db)
		c, err := n.open(ctx, db)
		if err != nil {
			return err
		}
		c.idle = slowLimit
		s := &scanner{ctx: ctx, n: n, c: c, db: db, value: value}
		err = s.database()
		c.close()
		if err != nil {
			return serverError("run SCAN and DUMP on", n.object(), ctxFirst(ctx, err))
		}
	}
	return nil
}

func (s *scanner) database() error {
	// SCAN may return a key several times.
	seen := map[[16]byte]struct{}{}
	for cursor := "0"; ; {
		if err := errors.Join(s.c.put("SCAN", cursor, "COUNT", "500"), s.c.w.Flush()); err != nil {
			return err
		}
		n, err := s.c.array()
		if err != nil {
			return err
		}
		if n != 2 {
			return fmt.Errorf("SCAN was answered with a list of %d elements", n)
		}
		if cursor, err = s.c.text(); err != nil {
			return err
		}
		if n, err = s.c.array(); err != nil {
			return err
		}
		var fresh []string
		for range n {
			key, err := s.c.text()
			if err != nil {
				return err
			}
			sum := sha256.Sum256([]byte(key))
			id := [16]byte(sum[:])
			if _, dup := seen[id]; !dup {
				seen[id] = struct{}{}
				fresh = append(fresh, key)
			}
		}
		if err := s.keys(fresh); err != nil {
			return err
		}
		if cursor == "0" {
			return nil
		}
	}
}

// keys reads the values of keys in batches of up to batchBytes. It reads a key again if its expiry
// changed meanwhile, because value and expiry might not belong together. It leaves out keys that
// are gone.
func (s *scanner) keys(keys []string) error {
	for round := 0; len(keys) > 0; round++ {
		if round == 100 {
			return fmt.Errorf("key %.80q: %w", keys[0], backup.ErrChanged)
		}
		var again []string
		for len(keys) > 0 {
			n := min(len(keys), batchKeys, 1+int(batchBytes/max(1, s.mean)))
			if s.mean == 0 {
				n = 1 // its size is not known yet
			}
			changed, err := s.batch(keys[:n])
			if err != nil {
				return err
			}
			again = append(again, changed...)
			keys = keys[n:]
		}
		keys = again
	}
	return nil
}

// batch asks for the expiry before and after each value.
func (s *scanner) batch(keys []string) (changed []string, err error) {
	for _, k := range keys {
		if err := errors.Join(s.putExpiry(k), s.c.put("DUMP", k), s.putExpiry(k)); err != nil {
			return nil, err
		}
	}
	if err := s.c.w.Flush(); err != nil {
		return nil, err
	}
	unknown := false
	for _, k := range keys {
		before, err := s.expiry()
		if denied(err) && !s.old {
			unknown, err = true, nil
		}
		if err != nil {
			return nil, fmt.Errorf("key %.80q: %w", k, err)
		}
		keep, err := s.dump(k)
		if err != nil {
			return nil, fmt.Errorf("key %.80q: %w", k, err)
		}
		after, err := s.expiry()
		if unknown && denied(err) {
			err = nil
		}
		if err != nil {
			return nil, fmt.Errorf("key %.80q: %w", k, err)
		}
		switch {
		case unknown || keep == nil:
		case !same(before, after, s.old):
			changed = append(changed, k)
		default:
			if err := keep(max(after, 0)); err != nil {
				return nil, err
			}
		}
	}
	if unknown {
		s.old = true
		return s.batch(keys)
	}
	return changed, nil
}

// same reports whether two readings of an expiry are equal. Without PEXPIRETIME an expiry is the
// sum of a clock and a remaining time, which is less exact.
func same(before, after int64, old bool) bool {
	if after == -2 {
		return false
	}
	if old && before > 0 && after > 0 {
		return max(before, after)-min(before, after) < 20
	}
	return before == after
}

func (s *scanner) putExpiry(key string) error {
	if s.old {
		return errors.Join(s.c.put("TIME"), s.c.put("PTTL", key))
	}
	return s.c.put("PEXPIRETIME", key)
}

// expiry reads the reply to putExpiry: a Unix time in ms, -1 for none, or -2 if the key is gone.
func (s *scanner) expiry() (int64, error) {
	if !s.old {
		return s.c.number()
	}
	if _, err := s.c.array(); err != nil {
		return 0, err
	}
	sec, err1 := s.c.text()
	usec, err2 := s.c.text()
	ttl, err3 := s.c.number()
	if err := errors.Join(err1, err2, err3); err != nil || ttl < 0 {
		return ttl, err
	}
	a, err1 := strconv.ParseInt(sec, 10, 64)
	b, err2 := strconv.ParseInt(usec, 10, 64)
	return a*1000 + b/1000 + ttl, errors.Join(err1, err2)
}

func (s *scanner) dump(key string) (keep func(int64) error, err error) {
	size, err := s.c.bulk()
	if err != nil || size < 0 {
		return nil, err
	}
	s.mean = max(1, 0.9*s.mean+0.1*float64(size), float64(size)/100)
	keep, err = s.value(key, size, io.LimitReader(s.c, size))
	if err != nil {
		return nil, err
	}
	return keep, s.c.endBulk()
}

// dump writes a file from the results of DUMP, whose bytes are the same.
func (n *node) dump(ctx context.Context, w *backup.Writer,
	out *Node) (warnings []string, err error) {
	info, err := n.info(ctx)
	if err != nil {
		return nil, err
	}
	version, err := n.rdbVersion(ctx, info)
	if err != nil {
		return nil, err
	}
	product, _, _ := info.version()
	fill := func(dst io.Writer) error {
		e := rdb.NewWriter(dst, version, product == "valkey")
		e.Aux(product+"-ver", info[product+"_version"])
		e.Aux("ctime", strconv.FormatInt(time.Now().Unix(), 10))
		functions, hidden, err := n.functions(ctx)
		if err != nil {
			return err
		}
		if hidden {
			warnings = append(warnings, n.object()+": the user may not read function libraries (FUNCTION "+
				"DUMP): they are not in the set")
		}
		if len(functions) > rdb.Footer {
			e.Raw(functions[:len(functions)-rdb.Footer])
		}
		var payload []byte // of one key at a time
		err = n.scan(ctx, info, e.SelectDB, func(key string, size int64, r io.Reader) (func(int64) error,
			error) {
			if int64(cap(payload)) < size {
				payload = nil // so that the old one can go first
				payload = make([]byte, size)
			}
			payload = payload[:size]
			if _, err := io.ReadFull(r, payload); err != nil {
				return nil, err
			}
			if err := rdb.CheckDump(payload); err != nil {
				return nil, err
			}
			if v := rdb.DumpVersion(payload); v > version {
				return nil, fmt.Errorf("RDB version %d, newer than %d: %w", v, version, backup.ErrChanged)
			}
			return func(expire int64) error {
				e.Entry(key, expire, payload)
				return e.Err()
			}, nil
		})
		return errors.Join(err, e.Close())
	}
	// What was written is counted while it is written.
	_, err = w.Create(ctx, out.File, nil, func(dst io.Writer) error {
		pr, pw := io.Pipe()
		counted := make(chan error, 1)
		go func() {
			var err error
			out.RDB, err = rdb.Read(ctx, pr, rdb.Visit{})
			_, _ = io.Copy(io.Discard, pr)
			counted <- err
		}()
		err := fill(io.MultiWriter(dst, pw))
		_ = pw.CloseWithError(err)
		if e := <-counted; err == nil {
			err = e
		}
		return err
	})
	return warnings, err
}
