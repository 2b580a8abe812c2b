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

// sampled is the number of keys with which permissions are checked.
const sampled = 64

var errEnough = errors.New("enough")

// sampleKeys returns some keys of the set whose names begin differently, because permissions depend
// on patterns of names. It reads the first 100,000.
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

// prefixLen returns the length of a name up to its first separator.
func prefixLen(name []byte) int {
	for i, b := range name {
		if b == ':' || b == '-' || b == '.' || b == '_' || b == '/' {
			return i
		}
	}
	return len(name)
}

// existing returns the nearest existing directory.
func existing(dir string) string {
	for {
		if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) || dir == filepath.Dir(dir) {
			return dir
		}
		dir = filepath.Dir(dir)
	}
}
