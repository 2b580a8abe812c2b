package pluginbuild_test

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/Masterminds/semver/v3"

	"example.com/tykupgrade/pluginbuild"
)

// Repositories that would run a program, or show a password to every user of the
// machine, never reach git.
func TestResolveCommitRefusesHostileRepositories(t *testing.T) {
	t.Parallel()
	never := func(context.Context, []string, io.Reader, io.Writer, io.Writer) error {
		t.Error("git was run")
		return nil
	}
	for repo, want := range map[string]error{
		"ext::sh -c 'touch x'": pluginbuild.ErrRequest, "fd::17": pluginbuild.ErrRequest,
		"::x": pluginbuild.ErrRequest,
		"https://me:hun%zzter2@git.example.org/x":             pluginbuild.ErrSecretInURL,
		"https://me:hunter2/y@git.example.org/x":              pluginbuild.ErrSecretInURL,
		"https://git.example.org/x?access_token=hunter2":      pluginbuild.ErrSecretInURL,
		"ssh://git:a@hunter2@git.example.org/x":               pluginbuild.ErrSecretInURL,
		"https://git.example.org/x?private_token=hunter2&a=b": pluginbuild.ErrSecretInURL,
	} {
		_, err := pluginbuild.ResolveCommit(t.Context(), never, repo, semver.MustParse("5.15.0"))
		if !errors.Is(err, want) || strings.Contains(err.Error(), "hunter2") ||
			strings.Contains(err.Error(), "ter2@") {
			t.Errorf("%s: %v", repo, err)
		}
	}
}
