package pluginbuild

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/Masterminds/semver/v3"

	"example.com/tykupgrade/internal/lazyregexp"
	"example.com/tykupgrade/internal/redact"
	"example.com/tykupgrade/internal/run"
)

// Runner runs a command. If the command ran and failed, the error has the method ExitCode() int.
type Runner = func(ctx context.Context, argv []string, stdin io.Reader, stdout,
	stderr io.Writer) error

// ResolveCommit returns the commit of a release's tag in a git repository. It runs `git
// ls-remote` and resolves annotated tags. repo is a URL, an SSH address or a directory.
// Credentials come from git's helpers, the SSH agent and netrc. A nil runner runs git on this
// machine and never prompts.
//
// Errors wrap [ErrNoTag], [ErrSecretInURL], [ErrRequest] or an [Error] of git.
func ResolveCommit(ctx context.Context, runner Runner, repo string,
	v *semver.Version) (string, error) {
	if v == nil {
		return "", errors.New("resolve commit: no version given")
	}
	commit, err := resolveCommit(ctx, runner, repo, v)
	if err != nil {
		return "", fmt.Errorf("resolve commit of release %s in %s: %w", v, redact.Text(repo), err)
	}
	return commit, nil
}

func resolveCommit(ctx context.Context, runner Runner, repo string,
	v *semver.Version) (string, error) {
	if repo == "" || strings.HasPrefix(repo, "-") {
		return "", errors.New("not a repository; pass a URL or a directory")
	}
	if redact.HasPassword(repo) {
		return "", ErrSecretInURL
	}
	if helper := transportHelper.FindString(repo); helper != "" {
		return "", refuse("git ls-remote", redact.Text(repo),
			"the transport helper %s can run any program; pass a URL, an SSH address or a directory", helper)
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

// transportHelper matches git's syntax for a program to run instead of a transport, such as
// "ext::sh -c …".
var transportHelper = lazyregexp.New(`^[A-Za-z0-9+.-]*::`)

// pickTag reads the output of ls-remote. Patterns match by trailing path
// components, so a tag like x/refs/tags/v1 could be among the lines.
func pickTag(out, tag string) (string, error) {
	found := map[string]string{}
	for line := range strings.Lines(out) {
		if commit, ref, ok := strings.Cut(strings.TrimRight(line, "\r\n"), "\t"); ok &&
			commitForm.MatchString(commit) {
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

// limited drops output beyond n bytes, so that a faulty server cannot fill the memory.
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
