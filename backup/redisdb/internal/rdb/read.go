package rdb

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"time"
)

// Info describes a file that was read completely.
type Info struct {
	// of the format: 10 is Redis 7.0, 11 is 7.2, 80 is Valkey 9.0
	Version int       `json:"version"`
	Server  string    `json:"server,omitempty"` // version of the server that wrote it
	Valkey  bool      `json:"valkey,omitempty"` // Valkey wrote it
	Created time.Time `json:"created,omitzero"` // when the server began to write it
	Size    int64     `json:"size"`             // bytes
	// bytes of Size that are the end mark of a transfer
	Trailing int64 `json:"trailing,omitempty"`
	Keys     int64 `json:"keys"`               // all databases
	Expiring int64 `json:"expiring,omitempty"` // keys that have a time to live
	// those of Keys that are empty collections, which servers do not load
	Empty int64 `json:"empty,omitempty"`
	// bytes of the largest value as in the file
	Largest int64 `json:"largest,omitempty"`
	// bytes that decompressed strings need in addition to Size
	Expands   int64            `json:"expands,omitempty"`
	Databases map[int]int64    `json:"databases,omitempty"` // keys of each
	Types     map[string]int64 `json:"types,omitempty"`     // keys of each type
	// keys of each module's type, by the type's name
	Modules map[string]int64 `json:"modules,omitempty"`
	// records that a module keeps outside of keys, by type
	ModuleAux map[string]int64 `json:"module_aux,omitempty"`
	Functions int64            `json:"functions,omitempty"` // function libraries
	// false: the server has rdbchecksum off, so the file has no checksum
	Checksum bool `json:"checksum"`
	// why keys were not counted, although the checksum is correct
	NotWalked string            `json:"not_walked,omitempty"`
	Aux       map[string]string `json:"-"` // other notes of the server
}

// ErrUnknown means that the form of a value is unknown. The file may be correct.
var ErrUnknown = errors.New("unknown to this program")

func unknownf(format string, a ...any) error {
	return fmt.Errorf(format+" is %w", append(a, ErrUnknown)...)
}

// Key is one key of a file. Its slices are valid until the next one.
type Key struct {
	DB         int
	Name       []byte
	Type       byte
	Expire     int64  // Unix time in ms; 0: none
	Raw        []byte // the value as in the file; nil if it is large
	Start, End int64  // where the value lies in the file
	Empty      bool   // a collection without elements, which servers do not load
	Digest     Digest // of the value; with Visit.Digest
	Gone       bool   // a hash whose fields all expire up to Visit.Cutoff; with Visit.Digest
}

// Visit sets what Read reports about each key.
type Visit struct {
	Digest bool
	Check  bool // also check inside of packed and compressed values
	// with Digest: hash fields that expire up to then do not count; Unix time in ms
	Cutoff   int64
	Key      func(*Key) error           // nil: only count
	Function func(library []byte) error // nil: only count
}

// Read reads one file from r and checks it up to its checksum. It reads at most its buffer beyond
// the file's end. Only packed values need more memory than the buffer. An error matches
// [ErrUnknown] only if v.Key is set. Otherwise Read reads the rest up to the checksum, and
// Info.NotWalked has the reason.
func Read(ctx context.Context, r io.Reader, v Visit) (Info, error) {
	c := newCursor(ctx, r, bufferSize)
	info, err := c.file(v)
	if err != nil && !c.visited {
		err = fmt.Errorf("RDB, at byte %d: %w", c.offset(), err)
	}
	return info, err
}

func (c *cursor) file(v Visit) (Info, error) {
	info := Info{Databases: map[int]int64{}, Types: map[string]int64{}, Aux: map[string]string{}}
	head := slices.Clone(c.take(9))
	if c.err != nil {
		return info, c.err
	}
	digits := string(head[5:])
	if string(head[:6]) == "VALKEY" {
		c.valkey, digits = true, string(head[6:])
	}
	version, err := strconv.Atoi(digits)
	if (string(head[:5]) != "REDIS" && !c.valkey) || err != nil || version < 1 {
		return info, fmt.Errorf("it begins with %q, not with REDIS or VALKEY and a version", head)
	}
	info.Version, info.Valkey = version, c.valkey
	if !Walks(version) || (version > MaxRedis) != c.valkey {
		info.NotWalked = fmt.Sprintf("RDB version %d is newer than %d", version, MaxRedis)
		if v.Key != nil {
			return info, unknownf("RDB version %d", version)
		}
		return info, c.tail(&info)
	}
	err = c.body(&info, v)
	if errors.Is(err, ErrUnknown) {
		info.NotWalked = err.Error()
		info.Keys, info.Expiring, info.Empty, info.Functions = 0, 0, 0, 0
		info.Largest, info.Expands = 0, 0
		info.Databases, info.Types, info.Modules, info.ModuleAux = nil, nil, nil, nil
		// The visitor has not seen everything, which must not look complete.
		if v.Key != nil {
			return info, err
		}
		c.err = nil
		return info, c.tail(&info)
	}
	if err != nil {
		return info, err
	}
	return info, c.footer(&info)
}

// markSize is the length of the mark that ends a diskless transfer. Tools may leave the mark in the
// file, where servers ignore it.
const markSize = 40

// footer checks the checksum and that nothing follows.
func (c *cursor) footer(info *Info) error {
	if info.Version >= 5 {
		want := c.crc64()
		foot := c.take(8)
		if c.err != nil {
			return c.err
		}
		got := binary.LittleEndian.Uint64(foot)
		info.Checksum = got != 0
		if got != 0 && got != want {
			return fmt.Errorf("its CRC-64 is %016x, the content's is %016x", got, want)
		}
	}
	info.Size = c.offset()
	if c.pos < c.end || c.fill(1) {
		if c.fill(markSize) && isMark(c.buf[c.pos:c.pos+markSize]) {
			c.pos += markSize
			info.Size, info.Trailing = c.offset(), markSize
		}
		if c.err == nil && (c.pos < c.end || c.fill(1)) || errors.Is(c.err, io.ErrUnexpectedEOF) &&
			c.pos < c.end {
			return errors.New("bytes follow the end of the file")
		}
	}
	if c.err != nil && !errors.Is(c.err, io.ErrUnexpectedEOF) {
		return c.err
	}
	return nil
}

func isMark(p []byte) bool {
	for _, b := range p {
		if (b < '0' || b > '9') && (b < 'a' || b > 'f') {
			return false
		}
	}
	return true
}

// tail reads the rest up to the checksum without decoding it.
func (c *cursor) tail(info *Info) error {
	var last []byte // the final nine bytes are the end opcode and the checksum
	for {
		n := c.end - c.pos
		if n == 0 {
			if !c.fill(1) {
				break
			}
			continue
		}
		last = append(last, c.buf[max(c.pos, c.end-9):c.end]...)
		last = last[max(0, len(last)-9):]
		// The checksum itself is not part of the sum: hold back eight bytes.
		c.hold = 8
		c.pos = c.end
	}
	if c.err != nil && !errors.Is(c.err, io.ErrUnexpectedEOF) {
		return c.err
	}
	info.Size = c.offset()
	if info.Version < 5 && len(last) > 0 && last[len(last)-1] == opEOF {
		return nil // no checksum then
	}
	if len(last) < 9 || last[0] != opEOF {
		return fmt.Errorf("it does not end with the end mark: %w", io.ErrUnexpectedEOF)
	}
	got := binary.LittleEndian.Uint64(last[1:])
	info.Checksum = got != 0
	if want := c.crc64(); got != 0 && got != want {
		return fmt.Errorf("its CRC-64 is %016x, the content's is %016x", got, want)
	}
	return nil
}

func (c *cursor) body(info *Info, v Visit) error {
	w := walk{c: c, v: v, info: info}
	switch {
	case v.Digest:
		w.d = newDigester(v.Cutoff)
	case v.Check:
		w.d = &digester{quiet: true}
	}
	err := w.run()
	w.fold()
	info.Expands = c.expands
	for t, n := range w.types {
		if n > 0 {
			info.Types[forms[t].name] += n
		}
	}
	return err
}

// walk reads the records of one file.
type walk struct {
	c     *cursor
	v     Visit
	info  *Info
	d     *digester
	k     Key
	types [256]int64
	inDB  int64
}

func (w *walk) fold() {
	if w.inDB > 0 {
		w.info.Databases[w.k.DB] += w.inDB
		w.info.Keys += w.inDB
	}
	w.inDB = 0
}

func (w *walk) run() error {
	for {
		op := w.c.byte()
		if w.c.err != nil {
			return w.c.err
		}
		if op == opEOF {
			return nil
		}
		var err error
		if op < opSlotImport {
			err = w.entry(op)
		} else {
			err = w.record(op)
		}
		if err == nil {
			err = w.c.err
		}
		if err != nil {
			return err
		}
	}
}

// record reads what is not a key.
func (w *walk) record(op byte) error {
	c := w.c
	switch op {
	case opSelectDB:
		w.fold()
		w.k.DB = int(c.length())
	case opResizeDB:
		c.numbers(nil, 2)
	case opSlotInfo:
		c.numbers(nil, 3)
	case opSlotImport:
		if !c.valkey {
			return unknownf("metadata that a module keeps for a key")
		}
		c.skipString()
		c.each(func() { c.numbers(nil, 2) })
	case opAux:
		name, value := string(c.string()), string(c.string())
		if c.err == nil && len(w.info.Aux) < 64 {
			w.info.addAux(name, value)
		}
	case OpFunction:
		library := c.string()
		w.info.Functions++
		if c.err == nil && w.v.Function != nil {
			err := w.v.Function(library)
			c.visited = err != nil
			return err
		}
	case opFunctionRC:
		return unknownf("a function library of a 7.0 release candidate")
	case opModuleAux:
		id := c.length()
		c.module(nil)
		count(&w.info.ModuleAux, moduleName(id))
	case opIdle:
		c.length()
	case opFreq:
		c.byte()
	case opExpireMS:
		w.k.Expire = pointInTime(int64(c.uint64le()))
	case opExpireS:
		w.k.Expire = pointInTime(int64(int32(c.uint32le())) * 1000)
	}
	return nil
}

// pointInTime returns an expiry as a server reads it. -1 means none. An expiry in 1970 or before
// has passed, but RESTORE does not accept zero or less for it (Redis 7.0).
func pointInTime(ms int64) int64 {
	if ms == -1 {
		return 0
	}
	return max(1, ms)
}

func count(m *map[string]int64, name string) {
	if *m == nil {
		*m = map[string]int64{}
	}
	(*m)[name]++
}

func (info *Info) addAux(name, value string) {
	switch name {
	case "redis-ver", "valkey-ver":
		info.Server = value
		info.Valkey = info.Valkey || name == "valkey-ver"
	case "ctime":
		if s, err := strconv.ParseInt(value, 10, 64); err == nil {
			info.Created = time.Unix(s, 0).UTC()
		}
	}
	info.Aux[name] = value
}

// entry reads one key and its value.
func (w *walk) entry(op byte) error {
	c, k := w.c, &w.k
	form := &forms[op]
	if form.read == nil {
		return unknownf("value type %d", op)
	}
	k.Type = op
	k.Name = append(k.Name[:0], c.string()...)
	if c.err != nil {
		return c.err
	}
	k.Start = c.offset()
	if w.v.Key != nil {
		c.mark = c.pos
	}
	c.elements = 0
	if w.d != nil && !w.d.quiet {
		w.d.reset(form.class)
	}
	form.read(c, w.d)
	if c.err != nil {
		return fmt.Errorf("value of key %.80q: %w", k.Name, c.err)
	}
	k.End, k.Raw = c.offset(), nil
	w.info.Largest = max(w.info.Largest, k.End-k.Start)
	if c.mark >= 0 {
		k.Raw = c.buf[c.mark:c.pos]
	}
	c.mark = -1
	k.Empty = c.elements == 0 && form.class != 's' && form.class != 'x'
	w.inDB++
	w.types[op]++
	if k.Expire != 0 {
		w.info.Expiring++
	}
	if k.Empty {
		w.info.Empty++
	}
	if form.class == 'm' {
		count(&w.info.Modules, moduleName(c.moduleID))
	}
	if w.v.Digest {
		k.Digest, k.Gone = w.d.sum(), w.d.lost && !w.d.kept
	}
	var err error
	if w.v.Key != nil {
		err = w.v.Key(k)
		c.visited = err != nil
	}
	k.Expire = 0
	return err
}
