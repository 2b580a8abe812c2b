package pluginbuild

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"strings"

	"github.com/Masterminds/semver/v3"

	"example.com/tykupgrade/internal/run"
)

// Runner executes one command. An error of a command that ran has the method
// ExitCode() int.
type Runner func(ctx context.Context, argv []string, stdin io.Reader, stdout, stderr io.Writer) error

// ErrNoTag is matched when a repository has no tag of the version asked for.
var ErrNoTag = errors.New("the repository has no such tag")

// ErrSecretInURL is matched when a repository URL holds a password, which other
// users of the machine could read in the process list.
var ErrSecretInURL = errors.New("the URL holds a password; give it to git through a credential helper or use SSH")

// ResolveCommit asks a repository, through `git ls-remote`, for the commit that
// a release is tagged with; an annotated tag is followed to its commit. repo is
// anything that git takes: a URL, an SSH address or a directory. Credentials
// come from git's own helpers, SSH agent and netrc; it never prompts.
//
// A nil runner executes git on this machine.
func ResolveCommit(ctx context.Context, runner Runner, repo string, v *semver.Version) (string, error) {
	if v == nil {
		return "", errors.New("resolve commit: no version given")
	}
	commit, err := resolveCommit(ctx, runner, repo, v)
	if err != nil {
		if u, perr := url.Parse(repo); perr == nil && u.User != nil {
			repo = u.Redacted()
		}
		return "", fmt.Errorf("resolve commit of release %s in %s: %w", v, repo, err)
	}
	return commit, nil
}

func resolveCommit(ctx context.Context, runner Runner, repo string, v *semver.Version) (string, error) {
	if repo == "" || strings.HasPrefix(repo, "-") {
		return "", errors.New("that is no repository; give a URL or a directory")
	}
	if u, err := url.Parse(repo); err == nil && u.User != nil {
		if _, secret := u.User.Password(); secret {
			return "", ErrSecretInURL
		}
	}
	if runner == nil {
		runner = run.Local(run.Options{Env: []string{"GIT_TERMINAL_PROMPT=0", "LC_ALL=C"}})
	}
	tag := "refs/tags/v" + v.String()
	var out bytes.Buffer
	var tail run.Tail
	argv := []string{"git", "ls-remote", "--", repo, tag, tag + "^{}"}
	if err := runner(ctx, argv, nil, &limited{w: &out, n: 64 << 10}, &tail); err != nil {
		return "", stepError(ctx, "git ls-remote", argv, tail.String(), err)
	}
	return pickTag(out.String(), tag)
}

// pickTag reads the output of ls-remote. Patterns match by trailing path
// components, so a tag like x/refs/tags/v1 could be among the lines.
func pickTag(out, tag string) (string, error) {
	found := map[string]string{}
	for line := range strings.Lines(out) {
		if commit, ref, ok := strings.Cut(strings.TrimRight(line, "\r\n"), "\t"); ok && commitForm.MatchString(commit) {
			found[ref] = commit
		}
	}
	if commit := found[tag+"^{}"]; commit != "" {
		return commit, nil
	}
	if commit := found[tag]; commit != "" {
		return commit, nil
	}
	return "", ErrNoTag
}

// limited drops what exceeds n bytes, so that a strange server cannot fill the
// memory.
type limited struct {
	w io.Writer
	n int
}

func (l *limited) Write(p []byte) (int, error) {
	keep := p[:min(len(p), l.n)]
	l.n -= len(keep)
	if _, err := l.w.Write(keep); err != nil {
		return 0, err
	}
	return len(p), nil
}
