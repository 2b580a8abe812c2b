package cli

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// A team copies the folder of an example together with examples/internal: the copy builds
// in a module that requires this one. rehearse is left out, because it uses the lab.
func TestCopiedExamplesBuild(t *testing.T) {
	t.Parallel()
	root, err := filepath.Abs("../../..")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for _, name := range []string{"go.mod", "go.sum"} {
		data, err := os.ReadFile(filepath.Join(root, name))
		if err != nil {
			t.Fatal(err)
		}
		if name == "go.mod" {
			data = bytes.Replace(data, []byte("module example.com/tykupgrade\n"),
				[]byte("module example.org/copy\n"), 1)
			data = append(data, "\nrequire example.com/tykupgrade v0.0.0\n\nreplace "+
				"example.com/tykupgrade => "+root+"\n"...)
		}
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	copied := 0
	err = filepath.WalkDir(filepath.Join(root, "examples"), func(path string, d fs.DirEntry,
		err error) error {
		rel, rerr := filepath.Rel(root, path)
		switch {
		case errors.Join(err, rerr) != nil:
			return errors.Join(err, rerr)
		case d.IsDir() && d.Name() == "rehearse":
			return fs.SkipDir
		case d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go"):
			return nil
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		data = bytes.ReplaceAll(data, []byte(`"example.com/tykupgrade/examples/`),
			[]byte(`"example.org/copy/examples/`))
		copied++
		to := filepath.Join(dir, rel)
		return errors.Join(os.MkdirAll(filepath.Dir(to), 0o755), os.WriteFile(to, data, 0o600))
	})
	if err != nil || copied < 20 {
		t.Fatalf("%d files copied: %v", copied, err)
	}
	// What go build does without linking, which takes half a minute. The copies are not run, so they
	// are compiled without the race detector: what they import is in the cache of vet and lint.
	cmd := exec.CommandContext(t.Context(), "go", "list", "-export", "-mod=mod", "./...")
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GOENV=off", "GOFLAGS=", "GOWORK=off", "GOPROXY=off", "GOSUMDB=off")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}
