package backup

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc64"
	"io"
	"math/bits"
	"slices"
	"strconv"
	"time"
)

// RDBInfo is what reading an RDB file from end to end tells of it.
type RDBInfo struct {
	Version   int               `json:"version"`              // of the format: 10 is Redis 7.0, 11 is 7.2, 12 is 7.4
	Server    string            `json:"server,omitempty"`     // version of the server that wrote it
	Created   time.Time         `json:"created,omitzero"`     // when the server began to write it
	Size      int64             `json:"size"`                 // bytes
	Keys      int64             `json:"keys"`                 // all databases
	Expiring  int64             `json:"expiring,omitempty"`   // keys that have a time to live
	Databases map[int]int64     `json:"databases,omitempty"`  // keys of each
	Types     map[string]int64  `json:"types,omitempty"`      // keys of each type
	Functions int64             `json:"functions,omitempty"`  // function libraries
	Checksum  bool              `json:"checksum"`             // false: the server has rdbchecksum off, so the file carries none
	NotWalked string            `json:"not_walked,omitempty"` // why keys were not counted; checksums hold all the same
	Aux       map[string]string `json:"-"`                    // what else the server noted
}

// maxWalked is the newest RDB version whose values this package can read (12
// is Redis 7.4 and 8.0). Of newer files only header and checksum are checked.
const maxWalked = 12

// errUnknownRDB is a value whose form is not known: the file may be fine.
var errUnknownRDB = errors.New("unknown to this program")

var crcJones = crc64.MakeTable(bits.Reverse64(0xad93d23594c935a9))

// crcUpdate is the CRC-64 of Redis, which neither starts nor ends inverted.
func crcUpdate(crc uint64, p []byte) uint64 { return ^crc64.Update(^crc, crcJones, p) }

// Opcodes of an RDB file (Redis 7.0 rdb.h; slot info from 7.4).
const (
	opSlotInfo  = 0xF4
	opFunction  = 0xF5
	opModuleAux = 0xF7
	opIdle      = 0xF8
	opFreq      = 0xF9
	opAux       = 0xFA
	opResizeDB  = 0xFB
	opExpireMS  = 0xFC
	opExpireS   = 0xFD
	opSelectDB  = 0xFE
	opEOF       = 0xFF
)

// rdbKey is one key of an RDB file. Its slices are valid until the next one.
type rdbKey struct {
	DB     int
	Key    []byte
	Type   byte
	Expire int64  // Unix time in ms; 0: none
	Value  []byte // as in the file, what DUMP has between its type byte and its footer; with rdbVisit.raw
	Digest digest // of the value; with rdbVisit.digest
}

// rdbVisit says what is wanted of each key.
type rdbVisit struct {
	raw, digest bool
	check       bool                       // look into packed and compressed values as well
	key         func(*rdbKey) error        // nil: only count
	function    func(library []byte) error // nil: only count
}

// readRDB reads one RDB file from r and checks it from the first byte to the
// checksum. It never reads beyond the file's end by more than its buffer.
func readRDB(ctx context.Context, r io.Reader, v rdbVisit) (RDBInfo, error) {
	c := &rdbCursor{ctx: ctx, r: r, buf: make([]byte, 256<<10)}
	info, err := c.file(v)
	if err != nil {
		err = fmt.Errorf("RDB, at byte %d: %w", c.offset(), err)
	}
	return info, err
}

func (c *rdbCursor) file(v rdbVisit) (RDBInfo, error) {
	info := RDBInfo{Databases: map[int]int64{}, Types: map[string]int64{}, Aux: map[string]string{}}
	head := c.take(9)
	if c.err != nil {
		return info, c.err
	}
	version, err := strconv.Atoi(string(head[5:]))
	if string(head[:5]) != "REDIS" || err != nil || version < 1 {
		return info, fmt.Errorf("it begins with %q, not with REDIS and four digits", head)
	}
	info.Version = version
	if version > maxWalked {
		info.NotWalked = fmt.Sprintf("RDB version %d is newer than %d", version, maxWalked)
		if v.key != nil {
			return info, fmt.Errorf("RDB version %d is %w", version, errUnknownRDB)
		}
		return info, c.tail(&info)
	}
	err = c.body(&info, v)
	if errors.Is(err, errUnknownRDB) {
		info.NotWalked = err.Error()
		info.Keys, info.Expiring, info.Databases, info.Types, info.Functions = 0, 0, nil, nil, 0
		// The visitor has not seen everything; that must not look complete.
		if v.key != nil {
			return info, err
		}
		return info, c.tail(&info)
	}
	if err != nil {
		return info, err
	}
	return info, c.footer(&info)
}

// footer checks the checksum and that nothing follows.
func (c *rdbCursor) footer(info *RDBInfo) error {
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
		return errors.New("bytes follow the end of the file")
	}
	if c.err != nil && !errors.Is(c.err, io.ErrUnexpectedEOF) {
		return c.err
	}
	return nil
}

// tail reads the rest without understanding it, up to the checksum.
func (c *rdbCursor) tail(info *RDBInfo) error {
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

func (c *rdbCursor) body(info *RDBInfo, v rdbVisit) error {
	k := &rdbKey{}
	var types [256]int64
	var inDB int64
	fold := func() {
		if inDB > 0 {
			info.Databases[k.DB] += inDB
			info.Keys += inDB
		}
		inDB = 0
	}
	defer func() {
		fold()
		for t, n := range types {
			if n > 0 {
				info.Types[rdbTypes[t].name] += n
			}
		}
	}()
	for {
		op := c.byte()
		switch op {
		case opEOF:
			return c.err
		case opSelectDB:
			fold()
			k.DB = int(c.length())
		case opResizeDB:
			c.length()
			c.length()
		case opSlotInfo:
			c.length()
			c.length()
			c.length()
		case opAux:
			name, value := slices.Clone(c.string()), slices.Clone(c.string())
			if c.err == nil && len(info.Aux) < 64 {
				info.addAux(string(name), string(value))
			}
		case opFunction:
			library := c.string()
			info.Functions++
			if c.err == nil && v.function != nil {
				if err := v.function(library); err != nil {
					return err
				}
			}
		case opModuleAux:
			c.length()
			c.module(nil)
		case opIdle:
			c.length()
		case opFreq:
			c.byte()
		case opExpireMS:
			k.Expire = int64(c.uint64le())
		case opExpireS:
			k.Expire = int64(int32(c.uint32le())) * 1000
		default:
			if op >= opSlotInfo {
				return fmt.Errorf("opcode %#x is %w", op, errUnknownRDB)
			}
			k.Type = op
			if err := c.entry(k, v); err != nil {
				return err
			}
			inDB++
			types[k.Type]++
			if k.Expire != 0 {
				info.Expiring++
			}
			k.Expire = 0
		}
		if c.err != nil {
			return c.err
		}
	}
}

func (info *RDBInfo) addAux(name, value string) {
	switch name {
	case "redis-ver", "valkey-ver":
		info.Server = value
	case "ctime":
		if s, err := strconv.ParseInt(value, 10, 64); err == nil {
			info.Created = time.Unix(s, 0).UTC()
		}
	}
	info.Aux[name] = value
}

// entry reads one key and its value.
func (c *rdbCursor) entry(k *rdbKey, v rdbVisit) error {
	form := rdbTypes[k.Type]
	if form.read == nil {
		return fmt.Errorf("value type %d is %w", k.Type, errUnknownRDB)
	}
	k.Key = append(k.Key[:0], c.string()...)
	if c.err != nil {
		return c.err
	}
	c.rec, c.recording = c.rec[:0], v.raw
	var d *digester
	if v.check {
		d = &digester{quiet: true}
	}
	if v.digest {
		d = newDigester(form.class)
	}
	form.read(c, d)
	c.recording = false
	if c.err != nil {
		return fmt.Errorf("value of key %.80q: %w", k.Key, c.err)
	}
	k.Value = c.rec
	if v.digest {
		k.Digest = d.sum()
	}
	if v.key == nil {
		return nil
	}
	return v.key(k)
}
