package hostfiles_test

import (
	"context"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"example.com/tykupgrade/backup"
	"example.com/tykupgrade/internal/run"
)

// plain is a source made of one function.
type plain struct {
	name   string
	size   int64
	backup func(ctx context.Context, w *backup.Writer) error
}

func (p plain) Name() string { return p.name }

func (p plain) Plan(context.Context) (backup.Estimate, error) {
	return backup.Estimate{Bytes: p.size}, nil
}

func (p plain) Backup(ctx context.Context, w *backup.Writer) (backup.Component, error) {
	return backup.Component{Items: 1}, p.backup(ctx, w)
}

func text(name, content string) plain {
	return plain{name: name, backup: func(ctx context.Context, w *backup.Writer) error {
		_, err := w.Create(ctx, "file", nil, func(out io.Writer) error {
			_, err := io.WriteString(out, content)
			return err
		})
		return err
	}}
}

func takePlain(t *testing.T, dir string, sources ...backup.Source) *backup.Set {
	t.Helper()
	set, err := backup.Take(t.Context(), dir, backup.Options{}, sources...)
	if err != nil {
		t.Fatal(err)
	}
	return set
}

// tree describes every file below root.
func tree(t *testing.T, root string) map[string]string {
	t.Helper()
	out := map[string]string{}
	err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		st := info.Sys().(*syscall.Stat_t)
		rel, _ := filepath.Rel(root, p)
		content := ""
		if d.Type() == fs.ModeSymlink {
			content, err = os.Readlink(p)
			out[rel] = "link " + content
			return err
		}
		data, err := os.ReadFile(p)
		out[rel] = strings.Join([]string{info.Mode().String(), info.ModTime().UTC().String(),
			string(data), time.Unix(int64(st.Uid), int64(st.Gid)).String()}, "|")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// localRunner stands for another host.
var localRunner = run.Local(run.Options{})
