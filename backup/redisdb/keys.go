package redisdb

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"example.com/tykupgrade/backup"
	"example.com/tykupgrade/backup/redisdb/internal/rdb"
)

// sampled is how many keys permissions are tried with.
const sampled = 64

var errEnough = errors.New("enough")

// sampleKeys returns some keys of the set, of names that begin differently: what
// a user may do depends on patterns of names. It looks at the first 100,000.
func sampleKeys(ctx context.Context, s *backup.Stored, d Details) ([]string, error) {
	var keys []string
	for _, n := range d.Nodes {
		seen := map[string]bool{}
		looked := 0
		_, err := readStored(ctx, s, n.File, rdb.Visit{Key: func(k *rdb.Key) error {
			if looked++; looked > 100_000 || len(seen) > sampled {
				return errEnough
			}
			if head := string(k.Name[:prefixLen(k.Name)]); !seen[head] && !k.Empty {
				seen[head] = true
				keys = append(keys, string(k.Name))
			}
			return nil
		}})
		if err != nil && !errors.Is(err, errEnough) {
			return nil, err
		}
	}
	return keys, nil
}

// prefixLen is the length of what stands before the first separator.
func prefixLen(name []byte) int {
	for i, b := range name {
		if b == ':' || b == '-' || b == '.' || b == '_' || b == '/' {
			return i
		}
	}
	return len(name)
}

// existing is the nearest directory that exists.
func existing(dir string) string {
	for {
		if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) || dir == filepath.Dir(dir) {
			return dir
		}
		dir = filepath.Dir(dir)
	}
}
