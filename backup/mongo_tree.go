package backup

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"

	"github.com/klauspost/compress/gzip"

	"example.com/tykupgrade/backup/internal/step"
)

// dumped is one collection, view or time series of a dump, with what its
// documents have to add up to.
type dumped struct {
	*mongoSpace
	data  string // file of the documents; empty: a view, or part of an archive
	count int64
	bytes int64
	sum   docSum
}

// dumpData is a dump that can be restored: a tree of files or an archive.
type dumpData interface {
	spaces() []*dumped
	// covers is what the dump would hold, had it been there; nil: it does not say.
	covers() *patterns
	// auth lists the databases whose users and roles are in the dump.
	auth() []string
	// feed passes the documents of every wanted namespace to do, several at a
	// time; read returns its documents in order and may be called once.
	feed(ctx context.Context, parallel int, want []*dumped, do func(ctx context.Context, d *dumped, read readDocs) error) error
	// feedAuth passes the documents of one file of users or roles.
	feedAuth(ctx context.Context, db, file string, do func(doc []byte) error) error
}

// readDocs passes documents on one by one; each is valid during the call only.
type readDocs func(do func(doc []byte) error) error

// tree is a dump in the form of mongodump --out.
type tree struct {
	open    func(name string) (io.ReadCloser, error)
	all     []*dumped
	users   []string // databases
	gzip    bool
	version string // of the server that was dumped
	asked   *patterns
}

var _ dumpData = (*tree)(nil)

func (t *tree) spaces() []*dumped { return t.all }
func (t *tree) auth() []string    { return t.users }
func (t *tree) covers() *patterns { return t.asked }

func (t *tree) feed(ctx context.Context, parallel int, want []*dumped, do func(context.Context, *dumped, readDocs) error) error {
	return largestFirst(ctx, parallel, want, func(ctx context.Context, d *dumped) error {
		return do(ctx, d, func(each func([]byte) error) error { return t.documents(ctx, d.data, each) })
	})
}

// largestFirst keeps a few workers busy, so that the longest does not come last.
func largestFirst(ctx context.Context, parallel int, all []*dumped, do func(context.Context, *dumped) error) error {
	queue := make(chan *dumped, len(all))
	for _, d := range slices.SortedStableFunc(slices.Values(all), func(a, b *dumped) int { return cmp.Compare(b.bytes, a.bytes) }) {
		queue <- d
	}
	close(queue)
	return step.Together(ctx, min(parallel, len(all)), func(ctx context.Context, _ int) error {
		for d := range queue {
			if err := step.Ended(ctx); err != nil {
				return err
			}
			if err := do(ctx, d); err != nil {
				return err
			}
		}
		return nil
	})
}

func (t *tree) feedAuth(ctx context.Context, db, file string, do func([]byte) error) error {
	return t.documents(ctx, path.Join(db, file+bsonSuffix+t.suffix()), do)
}

func (t *tree) suffix() string {
	if t.gzip {
		return gzipSuffix
	}
	return ""
}

// documents reads a .bson file to its end, checksum of gzip included.
func (t *tree) documents(ctx context.Context, file string, do func([]byte) error) error {
	f, err := t.open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	in := io.Reader(&step.ReadMeter{Ctx: ctx, R: f})
	if t.gzip {
		if in, err = gzip.NewReader(in); err != nil {
			return fmt.Errorf("%s: %w", file, unexpectedEOF(err))
		}
	}
	r := newBSONReader(in)
	for {
		doc, err := r.next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return fmt.Errorf("%s: %w", file, unexpectedEOF(err))
		}
		if err := do(doc); err != nil {
			return err
		}
	}
}

func unexpectedEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// maxMetadata is far more than a server lets a collection have of options and
// indexes: 64 indexes and documents of 16 MB.
const maxMetadata = 64 << 20

func (t *tree) text(ctx context.Context, file string) ([]byte, error) {
	f, err := t.open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	in := io.Reader(&step.ReadMeter{Ctx: ctx, R: f})
	if strings.HasSuffix(file, gzipSuffix) {
		if in, err = gzip.NewReader(in); err != nil {
			return nil, fmt.Errorf("%s: %w", file, unexpectedEOF(err))
		}
	}
	data, err := io.ReadAll(io.LimitReader(in, maxMetadata+1))
	if err == nil && len(data) > maxMetadata {
		err = errors.New("too long for a metadata file")
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return data, nil
}

// metadata reads the metadata file of a collection whose files begin with stem.
func (t *tree) metadata(ctx context.Context, db, file string) (*mongoSpace, error) {
	data, err := t.text(ctx, file)
	if err != nil {
		return nil, err
	}
	s, err := parseMetadata(db, data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	stem := strings.TrimSuffix(strings.TrimSuffix(path.Base(file), gzipSuffix), metadataSuffix)
	if s.Name == "" { // mongodump before 4.4
		if s.Name, err = unescapeCollection(stem); err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
	}
	if mongoFile(s.Name) != stem {
		return nil, fmt.Errorf("%s: the file says that it belongs to collection %q", file, s.Name)
	}
	return s, nil
}

// scan reads the documents of d and returns what they add up to.
func (t *tree) scan(ctx context.Context, d *dumped, whole bool) (*tally, error) {
	sum := newTally(whole)
	err := t.documents(ctx, d.data, func(doc []byte) error {
		if err := checkBSON(doc); err != nil {
			return fmt.Errorf("%s: document %d: %w", d.data, sum.count+1, err)
		}
		sum.add(doc)
		return nil
	})
	return sum, err
}

// openTree reads the metadata of a directory that mongodump wrote. Every file
// has to be accounted for.
func openTree(ctx context.Context, root fs.FS, o MongoDumpOptions) (*tree, error) {
	t := &tree{open: func(name string) (io.ReadCloser, error) { return root.Open(name) }}
	top, err := fs.ReadDir(root, ".")
	if err != nil {
		return nil, err
	}
	if len(top) == 0 {
		return nil, errors.New("the directory is empty")
	}
	files := map[string][]string{} // by database
	complete := false
	for _, e := range top {
		name := e.Name()
		switch {
		case e.IsDir():
			entries, err := fs.ReadDir(root, name)
			if err != nil {
				return nil, err
			}
			files[name] = []string{}
			for _, f := range entries {
				if f.IsDir() {
					return nil, &Error{Op: "open", Object: name, Err: fmt.Errorf("it holds the directory %q: a dump has one directory for each database and files in it", f.Name()),
						Next: "name the directory that was given to mongodump --out"}
				}
				files[name] = append(files[name], f.Name())
			}
		case name == preludeName || name == preludeName+gzipSuffix:
			complete = true
			if err := t.readPrelude(ctx, name); err != nil {
				return nil, err
			}
		case strings.HasPrefix(name, "oplog.bson"):
			return nil, &Error{Op: "open", Object: name, Err: errors.New("the dump was taken with --oplog and is consistent only after a replay, which is not supported"),
				Next: "use mongorestore --oplogReplay"}
		case strings.Contains(name, bsonSuffix) || strings.Contains(name, metadataSuffix):
			return nil, &Error{Op: "open", Object: name, Err: errors.New("collections lie where the directories of databases belong"),
				Next: "name the directory above, the one that was given to mongodump --out"}
		default:
			return nil, fmt.Errorf("unexpected file %q", name)
		}
	}
	suffixes := map[bool]bool{}
	for db, names := range files {
		for _, n := range names {
			suffixes[strings.HasSuffix(n, gzipSuffix)] = true
			if n == preludeName || n == preludeName+gzipSuffix {
				complete = true
				if err := t.readPrelude(ctx, path.Join(db, n)); err != nil {
					return nil, err
				}
			}
		}
	}
	if len(suffixes) == 2 {
		return nil, errors.New("some files are compressed and some are not: remains of two dumps in one directory")
	}
	t.gzip = suffixes[true]
	if !complete && !o.NoPrelude {
		return nil, &Error{Op: "open", Object: "the dump", Err: fmt.Errorf("%w: there is no %s, which mongodump writes last: it was interrupted, or is of an older version, which wrote none", ErrDamaged, preludeName),
			Next: "dump again, or say that the dump is known to be complete"}
	}
	for db, names := range files {
		if err := t.addDatabase(ctx, db, names); err != nil {
			return nil, err
		}
	}
	if len(t.all) == 0 {
		return nil, errors.New("it holds no collections")
	}
	slices.SortFunc(t.all, func(a, b *dumped) int { return strings.Compare(a.namespace(), b.namespace()) })
	slices.Sort(t.users)
	return t, nil
}

func (t *tree) readPrelude(ctx context.Context, name string) error {
	data, err := t.text(ctx, name)
	if err != nil {
		return err
	}
	var p struct{ ServerVersion string }
	if err := json.Unmarshal(data, &p); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	t.version = p.ServerVersion
	return nil
}

// addDatabase pairs the files of one database.
func (t *tree) addDatabase(ctx context.Context, db string, names []string) error {
	data := map[string]bool{} // stems of .bson files that no metadata file has claimed
	auth := 0
	var spaces []*dumped
	for _, n := range names {
		file := path.Join(db, n)
		plain := strings.TrimSuffix(n, gzipSuffix)
		switch {
		case plain == preludeName:
		case strings.HasPrefix(plain, "$admin.system."):
			auth++
		case strings.HasSuffix(plain, metadataSuffix):
			s, err := t.metadata(ctx, db, file)
			if err != nil {
				return err
			}
			spaces = append(spaces, &dumped{mongoSpace: s})
		case plain == "system.indexes.bson":
			return &Error{Op: "open", Object: file, Err: errors.New("dumps of MongoDB 2 keep their indexes in this file, which is not supported"), Next: "use a mongorestore of that time"}
		case strings.HasSuffix(plain, bsonSuffix):
			data[strings.TrimSuffix(plain, bsonSuffix)] = true
		default:
			return fmt.Errorf("unexpected file %q", file)
		}
	}
	if auth > 0 {
		t.users = append(t.users, db)
	}
	for _, d := range spaces {
		t.all = append(t.all, d)
		stem := mongoFile(d.dataName())
		switch has := data[stem]; {
		case d.Type == typeView && has:
			return fmt.Errorf("%s: a view with documents of its own", d.namespace())
		case d.Type == typeView:
		case !has:
			return fmt.Errorf("%w: %s%s is missing: the metadata of %s is there, its documents are not", ErrDamaged, path.Join(db, stem), bsonSuffix+t.suffix(), d.namespace())
		default:
			d.data = path.Join(db, stem+bsonSuffix+t.suffix())
			delete(data, stem)
		}
	}
	for stem := range data {
		return fmt.Errorf("%w: %s is missing: documents without the options and indexes of their collection", ErrDamaged, path.Join(db, stem)+metadataSuffix+t.suffix())
	}
	return nil
}
