package backuptest

import (
	"bytes"
	"errors"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"example.com/tykupgrade/backup"
)

// Damage flips or removes one byte at n random places of the set, one at a time. It fails the test
// unless verification finds each one.
func Damage(t *testing.T, set *backup.Set, n int) {
	dir := copySet(t, set)
	var files []string
	var sizes []int64
	var total int64
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err == nil && info.Size() > 0 {
			files, sizes = append(files, p), append(sizes, info.Size())
			total += info.Size()
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for i := range n {
		// Every other place is chosen by file, so that small files are hit too.
		at := rand.IntN(len(files))
		off := rand.Int64N(sizes[at])
		if i%2 == 0 {
			off = rand.Int64N(total)
			for at = 0; off >= sizes[at]; at++ {
				off -= sizes[at]
			}
		}
		data, err := os.ReadFile(files[at])
		if err != nil {
			t.Fatal(err)
		}
		broken := bytes.Clone(data)
		how := "flipped"
		if rand.IntN(2) == 0 {
			broken[off] ^= 1 << rand.IntN(8)
		} else {
			how = "missing"
			broken = append(broken[:off], broken[off+1:]...)
		}
		if err := os.WriteFile(files[at], broken, 0o600); err != nil {
			t.Fatal(err)
		}
		bad, err := backup.Open(dir)
		if err == nil {
			err = bad.Verify(t.Context(), backup.VerifyOptions{Level: backup.LevelFiles})
		}
		if !errors.Is(err, backup.ErrDamaged) && !errors.Is(err, backup.ErrNotASet) {
			t.Errorf("byte %d of %s %s: %v", off, files[at], how, err)
		}
		if err := os.WriteFile(files[at], data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	good, err := backup.Open(dir)
	if err == nil {
		err = good.Verify(t.Context(), backup.VerifyOptions{})
	}
	if err != nil {
		t.Errorf("the repaired copy: %v", err)
	}
}

func copySet(t testing.TB, set *backup.Set) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), set.ID)
	if err := os.CopyFS(dir, os.DirFS(set.Dir)); err != nil {
		t.Fatal(err)
	}
	return dir
}
