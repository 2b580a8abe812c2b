package bundle_test

import (
	"bytes"
	"errors"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"example.com/tykupgrade/bundle"
	"example.com/tykupgrade/internal/lab"
)

func content(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return "<none>"
	}
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// served lists everything in the directory but the bundle.
func leftovers(t *testing.T, p bundle.Publication) string {
	t.Helper()
	entries, err := os.ReadDir(p.Dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		if e.Name() != p.Name {
			names = append(names, e.Name())
		}
	}
	return strings.Join(names, " ")
}

func publication(t *testing.T, old string) (bundle.Publication, string) {
	t.Helper()
	dir := t.TempDir()
	file := filepath.Join(t.TempDir(), "new.zip")
	for path, text := range map[string]string{file: "new", filepath.Join(dir, "a.zip"): old} {
		if text != "" {
			if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	return bundle.Publication{Dir: dir, Name: "a.zip", Run: "run1"}, file
}

func TestPublish(t *testing.T) {
	t.Parallel()
	for _, old := range []string{"old", ""} {
		before := map[string]string{"old": "old", "": "<none>"}[old]
		p, file := publication(t, old)
		served := filepath.Join(p.Dir, p.Name)
		want := func(what string, state bundle.State, text, rest string) {
			t.Helper()
			got, _, err := p.State()
			if err != nil || got != state || content(t, served) != text || leftovers(t, p) != rest {
				t.Errorf("old %q, %s: %s, %v, serves %q, next to it %q", old, what, got, err, content(t, served),
					leftovers(t, p))
			}
		}
		do := func(err error) {
			t.Helper()
			if err != nil {
				t.Errorf("old %q: %v", old, err)
			}
		}
		publish := func() error { _, err := p.Publish(t.Context(), file); return err }
		others := ".a.zip.kept .a.zip.publication"
		if old == "" {
			others = ".a.zip.publication"
		}
		do(p.Revert(t.Context()))
		do(p.Accept(t.Context()))
		want("nothing to do", bundle.StateNone, before, "")
		do(publish())
		do(publish())
		want("twice", bundle.StatePublished, "new", others)
		do(p.Revert(t.Context()))
		do(p.Revert(t.Context()))
		want("reverted", bundle.StateNone, before, "")
		do(publish())
		other := p
		other.Run = "run2"
		for _, err := range []error{second(other.Publish(t.Context(), file)), other.Revert(t.Context()),
			other.Accept(t.Context())} {
			if !errors.Is(err, bundle.ErrPublished) || !strings.Contains(err.Error(), "run1") {
				t.Errorf("another run: %v", err)
			}
		}
		want("another run", bundle.StatePublished, "new", others)
		do(p.Accept(t.Context()))
		do(p.Accept(t.Context()))
		want("accepted", bundle.StateNone, "new", "")
	}
}

func second[T any](_ T, err error) error { return err }

func TestPublishRefuses(t *testing.T) {
	t.Parallel()
	put := func(t *testing.T, path, text string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for name, c := range map[string]struct {
		change func(t *testing.T, p *bundle.Publication, file *string)
		kind   error
	}{
		"changed behind our back": {func(t *testing.T, p *bundle.Publication, _ *string) {
			put(t,
				filepath.Join(p.Dir, p.Name), "else")
		}, bundle.ErrChanged},
		"other content, same run": {func(t *testing.T, _ *bundle.Publication, file *string) {
			put(t,
				*file, "newer")
		}, bundle.ErrPublished},
		"a record that anybody wrote": {func(t *testing.T, p *bundle.Publication, _ *string) {
			if err := os.Chmod(filepath.Join(p.Dir, ".a.zip.publication"), 0o666); err != nil {
				t.Fatal(err)
			}
		}, bundle.ErrChanged},
		"a broken record": {func(t *testing.T, p *bundle.Publication, _ *string) {
			put(t, filepath.Join(p.Dir, ".a.zip.publication"), "{}")
		}, bundle.ErrChanged},
		"no file": {func(_ *testing.T, _ *bundle.Publication, file *string) { *file += ".none" },
			fs.ErrNotExist},
		"no directory": {func(_ *testing.T, p *bundle.Publication, _ *string) { p.Dir += "/none" },
			fs.ErrNotExist},
		"name with path": {func(_ *testing.T, p *bundle.Publication, _ *string) { p.Name = "../a.zip" },
			nil},
		"open directory": {func(t *testing.T, p *bundle.Publication, _ *string) {
			if err := os.Chmod(p.Dir, 0o777); err != nil {
				t.Fatal(err)
			}
		}, nil},
	} {
		p, file := publication(t, "old")
		good := p
		if _, err := p.Publish(t.Context(), file); err != nil {
			t.Fatal(err)
		}
		c.change(t, &p, &file)
		before := content(t, filepath.Join(good.Dir, good.Name))
		if _, err := p.Publish(t.Context(), file); err == nil || c.kind != nil &&
			!errors.Is(err, c.kind) {
			t.Errorf("%s: %v", name, err)
		}
		if now := content(t, filepath.Join(good.Dir, good.Name)); now != before ||
			content(t, good.Kept()) != "old" {
			t.Errorf("%s: serves %q", name, now)
		}
	}
	// A kept copy that somebody changed is not served again.
	p, file := publication(t, "old")
	if _, err := p.Publish(t.Context(), file); err != nil {
		t.Fatal(err)
	}
	put(t, p.Kept(), "evil")
	if err := p.Revert(t.Context()); !errors.Is(err, bundle.ErrChanged) ||
		content(t, filepath.Join(p.Dir, p.Name)) != "new" {
		t.Errorf("changed copy: %v", err)
	}
	// A link is not followed.
	p, file = publication(t, "")
	if err := os.Symlink("/etc/hostname", filepath.Join(p.Dir, p.Name)); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Publish(t.Context(), file); err == nil {
		t.Error("a link was replaced")
	}
}

const killEnv = "BUNDLE_TEST_PUBLISH"

// A process that is killed while it publishes, reverts and accepts leaves the
// old bundle or the new one, and the next one continues from there or goes back.
func TestPublishKilled(t *testing.T) {
	if args := os.Getenv(killEnv); args != "" {
		f := strings.Split(args, "|")
		p := bundle.Publication{Dir: f[0], Name: "a.zip", Run: "run1"}
		for { // until the parent kills it
			_, err := p.Publish(t.Context(), f[1])
			if err == nil {
				err = p.Revert(t.Context())
			}
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	t.Parallel()
	rounds := lab.Kills(8)
	old, next := strings.Repeat("old", 50_000), strings.Repeat("new", 50_000)
	p, file := publication(t, old)
	if err := os.WriteFile(file, []byte(next), 0o644); err != nil {
		t.Fatal(err)
	}
	served := filepath.Join(p.Dir, p.Name)
	for i := range rounds {
		cmd := exec.Command(os.Args[0], "-test.run=^TestPublishKilled$")
		cmd.Env = append(os.Environ(), killEnv+"="+p.Dir+"|"+file)
		var out bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &out
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		// Something was begun, then a random moment.
		for range 2000 {
			if leftovers(t, p) != "" {
				break
			}
			time.Sleep(time.Millisecond)
		}
		time.Sleep(time.Duration(rand.IntN(8000)) * time.Microsecond)
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		if _ = cmd.Wait(); out.Len() > 0 {
			t.Fatalf("%s", &out)
		}
		if now := content(t, served); now != old && now != next {
			t.Fatalf("round %d: %d bytes served", i, len(now))
		}
		want := old
		if i%2 == 0 {
			want = next
			if _, err := p.Publish(t.Context(), file); err != nil {
				t.Fatalf("round %d: %v", i, err)
			}
			if content(t, served) != next {
				t.Fatalf("round %d: not published", i)
			}
		}
		if err := p.Revert(t.Context()); err != nil {
			t.Fatalf("round %d: %v", i, err)
		}
		if content(t, served) != old || leftovers(t, p) != "" {
			t.Fatalf("round %d, %d: next to it %q", i, len(want), leftovers(t, p))
		}
	}
	if _, err := p.Publish(t.Context(), file); err != nil {
		t.Fatal(err)
	}
	if err := p.Accept(t.Context()); err != nil || content(t, served) != next ||
		leftovers(t, p) != "" {
		t.Errorf("accept: %v, %q", err, leftovers(t, p))
	}
}
