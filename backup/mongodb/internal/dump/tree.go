package dump

import (
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

// Collection is one collection, view or time series of a dump, with the tally of its documents.
type Collection struct {
	*Space
	Data string // file of the documents; empty: a view
	Tally
}

// Tree is a dump in the form of mongodump --out. Its methods may be called concurrently.
type Tree struct {
	Open    func(name string) (io.ReadCloser, error)
	All     []*Collection
	Gzip    bool
	Version string   // of the server that was Collection
	Users   []string // databases whose users and roles are in the dump; they are not read
}

// Read passes documents to do one by one. Each is valid only during the call.
type Read func(do func(doc []byte) error) error

// Documents returns a Read for the documents of d, in the order of the file.
func (t *Tree) Documents(ctx context.Context, d *Collection) Read {
	return func(do func([]byte) error) error { return t.documents(ctx, d.Data, do) }
}

// Suffix returns the suffix that compression adds to file names.
func (t *Tree) Suffix() string {
	if t.Gzip {
		return GzipSuffix
	}
	return ""
}

// documents reads a .bson file to its end, including gzip's checksum.
func (t *Tree) documents(ctx context.Context, file string, do func([]byte) error) error {
	f, err := t.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	in := io.Reader(&step.ReadMeter{Ctx: ctx, R: f})
	if t.Gzip {
		if in, err = gzip.NewReader(in); err != nil {
			return fmt.Errorf("%s: %w", file, unexpectedEOF(err))
		}
	}
	r := NewReader(in)
	for {
		doc, err := r.Next()
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

// maxMetadata is far above the limits of servers, which allow 64 indexes and documents of 16 MB.
const maxMetadata = 64 << 20

func (t *Tree) text(ctx context.Context, file string) ([]byte, error) {
	f, err := t.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	in := io.Reader(&step.ReadMeter{Ctx: ctx, R: f})
	if strings.HasSuffix(file, GzipSuffix) {
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

// Metadata reads one metadata file and checks that it is named after its collection.
func (t *Tree) Metadata(ctx context.Context, db, file string) (*Space, error) {
	data, err := t.text(ctx, file)
	if err != nil {
		return nil, err
	}
	s, err := ParseMetadata(db, data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	stem := strings.TrimSuffix(strings.TrimSuffix(path.Base(file), GzipSuffix), MetadataSuffix)
	if s.Name == "" { // mongodump before 4.4
		if s.Name, err = unescapeCollection(stem); err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
	}
	if FileName(s.Name) != stem {
		return nil, fmt.Errorf("%s: the file belongs to collection %q by its own metadata", file, s.Name)
	}
	return s, nil
}

// Scan reads and checks the documents of d, and returns their tally.
func (t *Tree) Scan(ctx context.Context, d *Collection) (Tally, error) {
	var sum Tally
	err := t.documents(ctx, d.Data, func(doc []byte) error {
		if err := Check(doc); err != nil {
			return fmt.Errorf("%s: document %d: %w", d.Data, sum.Count+1, err)
		}
		sum.Add(doc)
		return nil
	})
	return sum, err
}

// OpenTree reads the metadata of a directory of mongodump. An unexpected file is an error.
// noPrelude accepts a dump without prelude.json as complete.
func OpenTree(ctx context.Context, root fs.FS, noPrelude bool) (*Tree, error) {
	t := &Tree{Open: func(name string) (io.ReadCloser, error) { return root.Open(name) }}
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
					return nil, &step.Error{Op: "open", Object: name,
						Err: fmt.Errorf("it has the directory %q: a dump has one directory for each database "+
							"and files in it", f.Name()),
						Next: "name the directory that was given to mongodump --out"}
				}
				files[name] = append(files[name], f.Name())
			}
		case name == PreludeName || name == PreludeName+GzipSuffix:
			complete = true
			if err := t.readPrelude(ctx, name); err != nil {
				return nil, err
			}
		case strings.HasPrefix(name, "oplog.bson"):
			return nil, &step.Error{Op: "open", Object: name,
				Err: errors.New("the dump was taken with --oplog and is consistent only after a replay, " +
					"which is not supported"),
				Next: "use mongorestore --oplogReplay"}
		case strings.Contains(name, BSONSuffix) || strings.Contains(name, MetadataSuffix):
			return nil, &step.Error{Op: "open", Object: name,
				Err:  errors.New("collections lie where the directories of databases belong"),
				Next: "name the directory above, the one that was given to mongodump --out"}
		default:
			return nil, fmt.Errorf("unexpected file %q", name)
		}
	}
	suffixes := map[bool]bool{}
	for db, names := range files {
		for _, n := range names {
			suffixes[strings.HasSuffix(n, GzipSuffix)] = true
			if n == PreludeName || n == PreludeName+GzipSuffix {
				complete = true
				if err := t.readPrelude(ctx, path.Join(db, n)); err != nil {
					return nil, err
				}
			}
		}
	}
	if len(suffixes) == 2 {
		return nil, errors.New("some files are compressed and some are not: remains of two dumps in " +
			"one directory")
	}
	t.Gzip = suffixes[true]
	if !complete && !noPrelude {
		return nil, &step.Error{Op: "open", Object: "the dump",
			Err: fmt.Errorf("%w: %s is missing, which mongodump writes last: it was interrupted, or is "+
				"of an older version, which wrote none", step.ErrDamaged, PreludeName),
			Next: "dump again, or set NoPrelude if the dump is complete"}
	}
	for db, names := range files {
		if err := t.addDatabase(ctx, db, names); err != nil {
			return nil, err
		}
	}
	if len(t.All) == 0 {
		return nil, errors.New("it has no collections")
	}
	slices.SortFunc(t.All, func(a, b *Collection) int {
		return strings.Compare(a.Namespace(),
			b.Namespace())
	})
	slices.Sort(t.Users)
	return t, nil
}

func (t *Tree) readPrelude(ctx context.Context, name string) error {
	data, err := t.text(ctx, name)
	if err != nil {
		return err
	}
	var p struct{ ServerVersion string }
	if err := json.Unmarshal(data, &p); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	t.Version = p.ServerVersion
	return nil
}

// addDatabase matches the files of one database.
func (t *Tree) addDatabase(ctx context.Context, db string, names []string) error {
	data := map[string]bool{} // stems of .bson files that no metadata file has claimed
	auth := 0
	var spaces []*Collection
	for _, n := range names {
		file := path.Join(db, n)
		plain := strings.TrimSuffix(n, GzipSuffix)
		switch {
		case plain == PreludeName:
		case strings.HasPrefix(plain, "$admin.system."):
			auth++
		case strings.HasSuffix(plain, MetadataSuffix):
			s, err := t.Metadata(ctx, db, file)
			if err != nil {
				return err
			}
			spaces = append(spaces, &Collection{Space: s})
		case plain == "system.indexes.bson":
			return &step.Error{Op: "open", Object: file,
				Err:  errors.New("dumps of MongoDB 2 keep their indexes in this file, which is not supported"),
				Next: "use a mongorestore of that time"}
		case strings.HasSuffix(plain, BSONSuffix):
			data[strings.TrimSuffix(plain, BSONSuffix)] = true
		default:
			return fmt.Errorf("unexpected file %q", file)
		}
	}
	if auth > 0 {
		t.Users = append(t.Users, db)
	}
	for _, d := range spaces {
		t.All = append(t.All, d)
		stem := FileName(d.DataName())
		switch has := data[stem]; {
		case d.Type == TypeView && has:
			return fmt.Errorf("%s: a view with documents of its own", d.Namespace())
		case d.Type == TypeView:
		case !has:
			return fmt.Errorf("%w: %s%s is missing: the metadata of %s is there, its documents are not",
				step.ErrDamaged, path.Join(db, stem), BSONSuffix+t.Suffix(), d.Namespace())
		default:
			d.Data = path.Join(db, stem+BSONSuffix+t.Suffix())
			delete(data, stem)
		}
	}
	for stem := range data {
		return fmt.Errorf("%w: %s is missing: documents without the options and indexes of "+
			"their collection", step.ErrDamaged, path.Join(db, stem)+MetadataSuffix+t.Suffix())
	}
	return nil
}
