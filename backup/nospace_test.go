package backup_test

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"example.com/tykupgrade/backup"
	"example.com/tykupgrade/backup/backuptest"
	"example.com/tykupgrade/internal/lab"
)

// A disk that fills while a set is written says so once, with what to do, and nothing is
// left; so does one that fills during Export and Import.
func TestDiskFills(t *testing.T) {
	t.Parallel()
	check := func(t *testing.T, what, dir string, err error) {
		t.Helper()
		var e *backup.Error
		if !errors.Is(err, backup.ErrNoSpace) || !errors.As(err, &e) || !e.Retryable() ||
			!strings.Contains(e.Hint(), "free some space") {
			t.Fatalf("%s: %v", what, err)
		}
		if n := strings.Count(err.Error(), backup.ErrNoSpace.Error()); n != 1 {
			t.Errorf("%s: said %d times: %v", what, n, err)
		}
		if left := backuptest.Leftovers(t, dir); len(left) > 0 {
			t.Errorf("%s: left %v", what, left)
		}
	}
	lab.SmallDisk(t, 4<<20, func(dir string) {
		noise := make([]byte, 1<<20)
		random := rand.NewChaCha8([32]byte{})
		large := plain{name: "a", backup: func(ctx context.Context, w *backup.Writer) error {
			_, err := w.Create(ctx, "file", nil, func(out io.Writer) error {
				for range 8 {
					_, _ = random.Read(noise)
					if _, err := out.Write(noise); err != nil {
						return err
					}
				}
				return nil
			})
			return err
		}}
		sets := filepath.Join(dir, "sets")
		_, err := backup.Take(t.Context(), sets, backup.Options{Reserve: -1}, large)
		check(t, "take", sets, err)

		whole := takePlain(t, t.TempDir(), large)
		archive := filepath.Join(t.TempDir(), "set.tar.zst")
		if err := whole.Export(t.Context(), archive, backup.ExportOptions{}); err != nil {
			t.Fatal(err)
		}
		in, err := os.Open(archive)
		if err != nil {
			t.Fatal(err)
		}
		defer in.Close()
		_, err = backup.Import(t.Context(), sets, in, backup.ImportOptions{})
		check(t, "import", sets, err)

		err = whole.Export(t.Context(), filepath.Join(dir, "set.tar.zst"), backup.ExportOptions{})
		check(t, "export", dir, err)
	})
}
