package pluginbuild_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/Masterminds/semver/v3"

	"example.com/tykupgrade/internal/lab"
	"example.com/tykupgrade/internal/lab/tykmod"
	"example.com/tykupgrade/pluginbuild"
)

// repo is a real repository.
type repo struct {
	dir     string
	commits map[string]string // by tag
	git     func(args ...string) string
}

// repository makes one with some files and a commit for each tag.
func repository(t *testing.T, files map[string]string, tags ...string) repo {
	t.Helper()
	git := lab.Program(t, "git", "git")
	r := repo{dir: filepath.Join(t.TempDir(), "repo"), commits: map[string]string{}}
	r.git = func(args ...string) string {
		cmd := exec.CommandContext(t.Context(), git, append([]string{"-C", r.dir}, args...)...)
		cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_SYSTEM=/dev/null",
			"GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@example.org", "GIT_COMMITTER_NAME=a",
			"GIT_COMMITTER_EMAIL=a@example.org")
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("git %s: %v\n%s", args, err, out)
		}
		return strings.TrimSpace(string(out))
	}
	if err := errors.Join(os.Mkdir(r.dir, 0o755), (tykmod.Module{Files: files}).Extract(
		r.dir)); err != nil {
		t.Fatal(err)
	}
	r.git("init", "-q")
	r.git("add", ".")
	for _, tag := range tags {
		r.git("commit", "-q", "--allow-empty", "-m", tag)
		r.git("tag", tag)
		r.commits[tag] = r.git("rev-parse", "HEAD")
	}
	return r
}

func TestResolveCommit(t *testing.T) {
	t.Parallel()
	r := repository(t, nil, "v5.15.0", "v5.15.1")
	r.git("tag", "-f", "-a", "-m", "annotated", "v5.15.1", "v5.15.1")
	r.git("tag", "-a", "-m", "annotated", "other/refs/tags/v5.15.2", "v5.15.0")
	dir := r.dir
	for _, repo := range []string{dir, "file://" + dir} {
		for _, v := range []string{"5.15.0", "5.15.1"} {
			got, err := pluginbuild.ResolveCommit(t.Context(), nil, repo, semver.MustParse(v))
			if err != nil || got != r.commits["v"+v] {
				t.Errorf("%s %s: %s, %v, want %s", repo, v, got, err, r.commits["v"+v])
			}
		}
	}
	_, err := pluginbuild.ResolveCommit(t.Context(), nil, dir, semver.MustParse("5.15.2"))
	if !errors.Is(err, pluginbuild.ErrNoTag) || !strings.Contains(err.Error(), "5.15.2") ||
		!strings.Contains(err.Error(), dir) {
		t.Errorf("no such tag: %v", err)
	}
	var failed *pluginbuild.Error
	_, err = pluginbuild.ResolveCommit(t.Context(), nil, dir+"/nowhere", semver.MustParse("5.15.0"))
	if !errors.As(err, &failed) || failed.ExitCode != 128 || !strings.Contains(failed.Output,
		"nowhere") {
		t.Errorf("no repository: %v", err)
	}
	_, err = pluginbuild.ResolveCommit(t.Context(), nil, "http://127.0.0.1:1/x.git",
		semver.MustParse("5.15.0"))
	if !errors.As(err, &failed) || !failed.Retryable() || failed.Hint() == "" {
		t.Errorf("nothing listens: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := pluginbuild.ResolveCommit(ctx, nil, dir, semver.MustParse("5.15.0")); !errors.Is(err,
		context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

func TestResolveCommitRunner(t *testing.T) {
	t.Parallel()
	commit := strings.Repeat("ab", 20)
	answer := func(out string) pluginbuild.Runner {
		return func(_ context.Context, argv []string, _ io.Reader, stdout, _ io.Writer) error {
			want := "git ls-remote -- https://git.example.org/tyk refs/tags/v5.15.0 refs/tags/v5.15.0^{}"
			if got := strings.Join(argv, " "); got != want {
				t.Errorf("ran %s, want %s", got, want)
			}
			_, err := io.WriteString(stdout, out)
			return err
		}
	}
	for name, c := range map[string]struct{ out, want string }{
		"light":         {commit + "\trefs/tags/v5.15.0\n", commit},
		"windows lines": {commit + "\trefs/tags/v5.15.0\r\n", commit},
		"peeled": {strings.Repeat("0", 40) + "\trefs/tags/v5.15.0\n" + commit +
			"\trefs/tags/v5.15.0^{}\n", commit},
		"other tag": {commit + "\trefs/tags/x/refs/tags/v5.15.0\n", ""},
		"no commit": {"abc\trefs/tags/v5.15.0\n", ""},
		"empty":     {"", ""},
		"endless":   {strings.Repeat("x", 1<<20), ""},
	} {
		got, err := pluginbuild.ResolveCommit(t.Context(), answer(c.out), "https://git.example.org/tyk",
			semver.MustParse("5.15.0"))
		if got != c.want || (c.want == "") != errors.Is(err, pluginbuild.ErrNoTag) {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	never := func(context.Context, []string, io.Reader, io.Writer, io.Writer) error {
		t.Error("a command was run")
		return nil
	}
	if _, err := pluginbuild.ResolveCommit(t.Context(), never, "https://git.example.org/tyk",
		nil); err == nil {
		t.Error("a nil version is resolved")
	}
	for _, repo := range []string{"", "--upload-pack=reboot",
		"https://user:hunter2@git.example.org/tyk"} {
		_, err := pluginbuild.ResolveCommit(t.Context(), never, repo, semver.MustParse("5.15.0"))
		if err == nil || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%q: %v", repo, err)
		}
	}
}

func FuzzResolveCommit(f *testing.F) {
	f.Add("0123\trefs/tags/v5.15.0\n", "https://x@y/z")
	f.Add(strings.Repeat("a", 40)+"\trefs/tags/v5.15.0^{}", "-x")
	f.Fuzz(func(t *testing.T, out, repo string) {
		runner := func(_ context.Context, argv []string, _ io.Reader, stdout, _ io.Writer) error {
			if len(argv) != 6 || argv[2] != "--" {
				t.Fatalf("ran %q", argv)
			}
			_, err := io.WriteString(stdout, out)
			return err
		}
		commit, err := pluginbuild.ResolveCommit(t.Context(), runner, repo, semver.New(5, 15, 0, "", ""))
		if err == nil && len(commit) != 40 {
			t.Fatalf("%q", commit)
		}
	})
}

func FuzzReadTable(f *testing.F) {
	f.Add(`[{"version":"6.0.0","commit":"` + strings.Repeat("a", 40) +
		`","go":"1.26.0","compiler":{"mode":"workspace"}}]`)
	f.Add(`[{"version":null}]`)
	f.Add(`[]`)
	f.Fuzz(func(t *testing.T, data string) {
		table, err := pluginbuild.ReadTable(strings.NewReader(data))
		if err != nil {
			return
		}
		for _, r := range table {
			if _, err := r.Commands(pluginbuild.CommandOptions{}); err != nil {
				t.Fatal(err)
			}
			_, _ = r.Image("", false)
			_ = fmt.Sprint(r.PseudoVersion(), r.Output("p.so", "linux", "amd64"), r.Path())
		}
	})
}
