package mongodb

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"sync/atomic"

	"go.mongodb.org/mongo-driver/bson"

	"example.com/tykupgrade/backup/internal/step"
	"example.com/tykupgrade/backup/mongodb/internal/dump"
)

// questions is how many small commands are sent at a time.
const questions = 16

// smallData is how many bytes of documents count as few: all collections together are read
// in a moment. What costs time then is the way to the server and back for each command.
const smallData = 64 << 20

// atATime is how many collections are read or written at a time: what was requested, or 4,
// or more if there are few bytes.
func atATime(requested int, few bool) int {
	if requested == 0 && few {
		return questions
	}
	return cmp.Or(requested, 4)
}

// each runs f for 0…n-1, a few at a time.
func each(ctx context.Context, parallel, n int, f func(ctx context.Context, i int) error) error {
	var next atomic.Int64
	return step.Together(ctx, min(parallel, n), func(ctx context.Context, _ int) error {
		for {
			i := int(next.Add(1)) - 1
			if i >= n {
				return nil
			}
			if err := step.Ended(ctx); err != nil {
				return err
			}
			if err := f(ctx, i); err != nil {
				return err
			}
		}
	})
}

// spaces lists what a database holds, sorted by name and without indexes. It leaves out
// system collections except stored functions, as mongodump does. Names of restores are
// in ours.
func (c *conn) spaces(ctx context.Context, db string) (all, ours []*dump.Space, err error) {
	cursor, err := c.Database(db).ListCollections(ctx, bson.D{})
	if err != nil {
		return nil, nil, err
	}
	defer cursor.Close(context.WithoutCancel(ctx))
	buckets := map[string]bool{}
	for cursor.Next(ctx) {
		s, err := parseSpace(db, slices.Clone(cursor.Current))
		if err != nil {
			return nil, nil, err
		}
		switch {
		case strings.HasPrefix(s.Name, "system.buckets."):
			buckets[s.Name] = true
		case strings.HasPrefix(s.Name, "system.") && s.Name != "system.js" || strings.Contains(s.Name,
			"$"):
		case isOurs(s.Name):
			ours = append(ours, s)
		default:
			all = append(all, s)
		}
	}
	if err := cursor.Err(); err != nil {
		return nil, nil, err
	}
	for _, s := range all {
		if s.Type == dump.TypeTimeseries && !buckets[s.DataName()] {
			return nil, nil, fmt.Errorf("%s: time series without a bucket collection (MongoDB 8.3 and "+
				"newer) are not supported; exclude it", s.Namespace())
		}
	}
	for _, list := range [][]*dump.Space{all, ours} {
		slices.SortFunc(list, func(a, b *dump.Space) int { return strings.Compare(a.Name, b.Name) })
	}
	return all, ours, nil
}

// parseSpace parses one entry of listCollections.
func parseSpace(db string, info bson.Raw) (*dump.Space, error) {
	s := &dump.Space{DB: db}
	s.Name, _ = info.Lookup("name").StringValueOK()
	if s.Name == "" {
		return nil, errors.New("listCollections: an entry without a name")
	}
	if s.Type, _ = info.Lookup("type").StringValueOK(); s.Type == "" {
		s.Type = dump.TypeCollection // FerretDB 1.24 and MongoDB before 3.4 leave it out
	}
	if options, ok := info.Lookup("options").DocumentOK(); ok && len(options) > 5 {
		s.Options = options
	}
	if _, id, ok := info.Lookup("info", "uuid").BinaryOK(); ok {
		s.UUID = fmt.Sprintf("%x", id)
	}
	return s, nil
}

// describe adds the indexes, several collections at a time.
func (c *conn) describe(ctx context.Context, spaces []*dump.Space) error {
	return each(ctx, questions, len(spaces), func(ctx context.Context, i int) (err error) {
		if s := spaces[i]; s.Type != dump.TypeView {
			s.Indexes, err = c.indexes(ctx, s)
		}
		return err
	})
}

func (c *conn) indexes(ctx context.Context, s *dump.Space) ([]bson.Raw, error) {
	cursor, err := c.Database(s.DB).Collection(s.Name).Indexes().List(ctx)
	if err != nil {
		return nil, fmt.Errorf("list the indexes of %s: %w", s.Namespace(), err)
	}
	defer cursor.Close(context.WithoutCancel(ctx))
	indexes := []bson.Raw{}
	for cursor.Next(ctx) {
		indexes = append(indexes, slices.Clone(cursor.Current))
	}
	return indexes, cursor.Err()
}

// patterns selects namespaces. "*" and "?" work as in a shell, on the whole "database.collection".
type patterns struct{ include, exclude []string }

func (p patterns) check() error {
	for _, list := range [][]string{p.include, p.exclude} {
		for _, one := range list {
			if _, err := path.Match(one, ""); err != nil {
				return fmt.Errorf("invalid pattern %q: %w", one, err)
			}
			if !strings.Contains(one, ".") {
				return fmt.Errorf("invalid pattern %q: want database.collection, with * for anything", one)
			}
		}
	}
	return nil
}

func (p patterns) match(namespace string) bool {
	hit := func(one string) bool { return matchPattern(one, namespace) }
	return (len(p.include) == 0 || slices.ContainsFunc(p.include, hit)) &&
		!slices.ContainsFunc(p.exclude, hit)
}

// everything reports whether the patterns leave out nothing.
func (p patterns) everything() bool { return len(p.include) == 0 && len(p.exclude) == 0 }

// matchPattern is path.Match with "/" as a character like any other.
func matchPattern(pattern, name string) bool {
	const slash = "\x00"
	ok, _ := path.Match(strings.ReplaceAll(pattern, "/", slash), strings.ReplaceAll(name, "/", slash))
	return ok
}

func checkParallel(n int) error {
	if n < 0 || n > 64 {
		return fmt.Errorf("invalid number %d of collections at a time: want 1 to 64", n)
	}
	return nil
}
