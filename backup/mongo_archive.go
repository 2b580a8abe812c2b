package backup

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc64"
	"io"
	"os"
	"slices"
	"strings"
	"sync"

	"github.com/klauspost/compress/gzip"
	"go.mongodb.org/mongo-driver/bson"

	"example.com/tykupgrade/backup/internal/step"
)

// archiveMagic begins every archive of mongodump --archive.
var archiveMagic = []byte{0x6d, 0xe2, 0x99, 0x81}

const archiveEnd = 0xFFFFFFFF // ends a block, and the list of collections

var archiveTable = crc64.MakeTable(crc64.ECMA)

// archive is a dump in the form of mongodump --archive, plain or compressed.
type archive struct {
	path    string
	all     []*dumped
	version string
	byData  map[string]*dumped // by the namespace that the documents are filed under
	users   map[string]int64   // "db.$admin.system.users" etc.: documents
}

var _ dumpData = (*archive)(nil)

func (a *archive) spaces() []*dumped { return a.all }
func (a *archive) covers() *patterns { return nil }

func (a *archive) auth() []string {
	var dbs []string
	for ns := range a.users {
		if db, _, _ := strings.Cut(ns, "."); !slices.Contains(dbs, db) {
			dbs = append(dbs, db)
		}
	}
	slices.Sort(dbs)
	return dbs
}

// openArchive reads the whole archive and checks every document, every
// collection's CRC and that all are there, so that nothing is written from an
// archive that ends or changes halfway. mongorestore finds out afterwards.
func openArchive(ctx context.Context, path string) (*archive, error) {
	a := &archive{path: path, byData: map[string]*dumped{}, users: map[string]int64{}}
	sums := map[*dumped]*tally{}
	err := a.read(ctx, func(r *archiveReader) error {
		if err := a.takePrelude(r); err != nil {
			return err
		}
		for _, d := range a.all {
			sums[d] = &tally{}
		}
		return r.blocks(func(ns string, doc []byte) error {
			if err := checkBSON(doc); err != nil {
				return fmt.Errorf("%s: %w", ns, err)
			}
			if d := a.byData[ns]; d != nil {
				sums[d].add(doc)
			} else {
				a.users[ns]++
			}
			return nil
		}, nil)
	})
	if err != nil {
		return nil, err
	}
	for d, t := range sums {
		d.count, d.bytes, d.sum = t.count, t.bytes, t.sum
	}
	return a, nil
}

// read opens the file and undoes the compression.
func (a *archive) read(ctx context.Context, do func(*archiveReader) error) error {
	f, err := os.Open(a.path)
	if err != nil {
		return err
	}
	defer f.Close()
	in := bufio.NewReaderSize(&step.ReadMeter{Ctx: ctx, R: f}, 256<<10)
	head, err := in.Peek(2)
	if err != nil {
		return unexpectedEOF(err)
	}
	r := &archiveReader{state: map[string]archiveState{}, crc: map[string]uint64{}}
	if head[0] == 0x1f && head[1] == 0x8b {
		z, err := gzip.NewReader(in)
		if err != nil {
			return unexpectedEOF(err)
		}
		r.docs = newBSONReader(z)
	} else {
		r.docs = newBSONReader(in)
	}
	return do(r)
}

// takePrelude keeps what the archive says it holds.
func (a *archive) takePrelude(r *archiveReader) error {
	header, spaces, err := r.prelude()
	if err != nil {
		return err
	}
	a.version, _ = header.Lookup("server_version").StringValueOK()
	for _, raw := range spaces {
		db, name := text(raw, "db"), text(raw, "collection")
		kind, meta := text(raw, "type"), text(raw, "metadata")
		switch {
		case db == "" && name == "oplog":
			return &Error{Op: "open", Object: a.path, Err: errors.New("the archive was taken with --oplog and is consistent only after a replay, which is not supported"), Next: "use mongorestore --oplogReplay"}
		case strings.HasPrefix(name, "$admin.system."):
			a.users[db+"."+name] = 0
			r.state[db+"."+name] = archiveExpected
			continue
		case meta == "":
			return fmt.Errorf("%w: %s.%s has no metadata", ErrDamaged, db, name)
		}
		s, err := parseMetadata(db, []byte(meta))
		if err != nil {
			return fmt.Errorf("metadata of %s.%s: %w", db, name, err)
		}
		if s.Name == "" {
			s.Name = name
		}
		if s.Name != name || kind != "" && kind != s.Type {
			return fmt.Errorf("%w: the archive lists %s.%s as %q, its metadata says %s, %q", ErrDamaged, db, name, kind, s.namespace(), s.Type)
		}
		d := &dumped{mongoSpace: s}
		ns := db + "." + s.dataName()
		if a.byData[ns] != nil {
			return fmt.Errorf("%w: %s is listed twice", ErrDamaged, ns)
		}
		a.byData[ns] = d
		r.state[ns] = archiveExpected
		a.all = append(a.all, d)
	}
	if len(a.all) == 0 {
		return errors.New("the archive holds no collections")
	}
	slices.SortFunc(a.all, func(x, y *dumped) int { return strings.Compare(x.namespace(), y.namespace()) })
	return nil
}

func text(d bson.Raw, field string) string {
	s, _ := d.Lookup(field).StringValueOK()
	return s
}

// feed reads the archive once; every namespace has a goroutine of its own, as
// the documents of several are interleaved.
func (a *archive) feed(ctx context.Context, _ int, want []*dumped, do func(context.Context, *dumped, readDocs) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	pipes := map[string]*io.PipeWriter{}
	buffers := map[string]*bufio.Writer{}
	errs := make(chan error, len(want)+1)
	var wg sync.WaitGroup
	for _, d := range want {
		out, in := io.Pipe()
		pipes[d.DB+"."+d.dataName()] = in
		wg.Go(func() {
			err := do(ctx, d, func(each func([]byte) error) error {
				// A small buffer: one is there for every namespace of the archive.
				r := &bsonReader{r: bufio.NewReaderSize(out, 16<<10)}
				for {
					doc, err := r.next()
					if err == io.EOF {
						return nil
					}
					if err == nil {
						err = each(doc)
					}
					if err != nil {
						return err
					}
				}
			})
			if err != nil {
				errs <- err
				cancel(err)
				_ = out.CloseWithError(err)
				return
			}
			// What was not asked for must not hold up the others.
			_, _ = io.Copy(io.Discard, out)
		})
	}
	err := a.read(ctx, func(r *archiveReader) error {
		// The archive was read before: what differs now has changed since.
		again := &archive{path: a.path, byData: map[string]*dumped{}, users: map[string]int64{}}
		if err := again.takePrelude(r); err != nil {
			return err
		}
		return r.blocks(func(ns string, doc []byte) error {
			in := pipes[ns]
			if in == nil {
				return nil
			}
			// A pipe hands over to another goroutine: not for every document.
			if buffers[ns] == nil {
				buffers[ns] = bufio.NewWriterSize(in, 256<<10)
			}
			_, err := buffers[ns].Write(doc)
			return err
		}, func(ns string) error {
			if b := buffers[ns]; b != nil {
				if err := b.Flush(); err != nil {
					return err
				}
				delete(buffers, ns)
			}
			if in := pipes[ns]; in != nil {
				return in.Close()
			}
			return nil
		})
	})
	for _, in := range pipes {
		_ = in.CloseWithError(cmpErr(err, io.ErrUnexpectedEOF))
	}
	wg.Wait()
	select {
	case first := <-errs:
		return first
	default:
		return err
	}
}

func cmpErr(err, otherwise error) error {
	if err != nil {
		return err
	}
	return otherwise
}

func (a *archive) feedAuth(ctx context.Context, db, file string, do func([]byte) error) error {
	return a.read(ctx, func(r *archiveReader) error {
		again := &archive{path: a.path, byData: map[string]*dumped{}, users: map[string]int64{}}
		if err := again.takePrelude(r); err != nil {
			return err
		}
		return r.blocks(func(ns string, doc []byte) error {
			if ns != db+"."+file {
				return nil
			}
			return do(doc)
		}, nil)
	})
}

// archiveReader reads the layers of an archive.
type archiveReader struct {
	docs  *bsonReader
	state map[string]archiveState
	crc   map[string]uint64
}

// archiveState is how far the documents of a namespace have come.
type archiveState int

const (
	archiveUnknown archiveState = iota
	archiveExpected
	archiveComplete
)

// item returns the next document, or nil for an end mark.
func (r *archiveReader) item() ([]byte, error) {
	var head [4]byte
	if _, err := io.ReadFull(r.docs.r, head[:1]); err != nil {
		return nil, err
	}
	if _, err := io.ReadFull(r.docs.r, head[1:]); err != nil {
		return nil, r.docs.cut(err)
	}
	size := binary.LittleEndian.Uint32(head[:])
	if size == archiveEnd {
		r.docs.off += 4
		return nil, nil
	}
	return r.docs.rest(size)
}

// inside is item where the input may not end.
func (r *archiveReader) inside() ([]byte, error) {
	doc, err := r.item()
	if err == io.EOF {
		return nil, fmt.Errorf("%w: the archive is cut off at offset %d", ErrDamaged, r.docs.off)
	}
	return doc, err
}

func (r *archiveReader) prelude() (header bson.Raw, spaces []bson.Raw, err error) {
	magic := make([]byte, len(archiveMagic))
	if _, err := io.ReadFull(r.docs.r, magic); err != nil || !bytes.Equal(magic, archiveMagic) {
		return nil, nil, errors.New("not an archive of mongodump --archive")
	}
	r.docs.off += int64(len(magic))
	for {
		doc, err := r.inside()
		if err != nil {
			return nil, nil, err
		}
		if doc == nil && header == nil {
			return nil, nil, fmt.Errorf("%w: the archive has no header", ErrDamaged)
		}
		if doc == nil {
			return header, spaces, nil
		}
		if err := checkBSON(doc); err != nil {
			return nil, nil, err
		}
		if header == nil {
			header = slices.Clone(doc)
			continue
		}
		spaces = append(spaces, slices.Clone(doc))
	}
}

// blocks passes on the documents, checks each namespace's CRC at its end and
// that none is missing. done, which may be nil, is told of every end.
func (r *archiveReader) blocks(each func(ns string, doc []byte) error, done func(ns string) error) error {
	for {
		head, err := r.item()
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
		if head == nil {
			return fmt.Errorf("%w: a block without a header at offset %d", ErrDamaged, r.docs.off)
		}
		if err := checkBSON(head); err != nil {
			return err
		}
		h := bson.Raw(slices.Clone(head))
		ns := text(h, "db") + "." + text(h, "collection")
		eof, _ := h.Lookup("EOF").BooleanOK()
		if r.state[ns] != archiveExpected {
			return fmt.Errorf("%w: documents of %q, which the archive does not list or has ended", ErrDamaged, ns)
		}
		n := 0
		for {
			doc, err := r.inside()
			if err != nil {
				return err
			}
			if doc == nil {
				break
			}
			n++
			r.crc[ns] = crc64.Update(r.crc[ns], archiveTable, doc)
			if err := each(ns, doc); err != nil {
				return err
			}
		}
		if !eof {
			continue
		}
		want, ok := h.Lookup("CRC").Int64OK()
		if n > 0 || !ok || uint64(want) != r.crc[ns] {
			return fmt.Errorf("%w: the CRC of %s is %016x, its documents have %016x", ErrDamaged, ns, uint64(want), r.crc[ns])
		}
		r.state[ns] = archiveComplete
		if done != nil {
			if err := done(ns); err != nil {
				return err
			}
		}
	}
	var missing []string
	for ns, s := range r.state {
		if s != archiveComplete {
			missing = append(missing, ns)
		}
	}
	if len(missing) > 0 {
		slices.Sort(missing)
		return fmt.Errorf("%w: the archive ends before %s does", ErrDamaged, strings.Join(missing, ", "))
	}
	return nil
}
