package compiler_test

import (
	"context"
	"errors"
	"fmt"

	"github.com/Masterminds/semver/v3"

	"example.com/tykupgrade/pluginbuild"
	"example.com/tykupgrade/pluginbuild/compiler"
)

// builder is all that deploy below calls. *compiler.Builder has it.
type builder interface {
	Build(context.Context, compiler.Request) (compiler.Artifact, error)
}

var _ builder = (*compiler.Builder)(nil)

// deploy stands for an importer's own code: it compiles twice if that may help.
func deploy(ctx context.Context, b builder, r pluginbuild.Release, dir string) (string, error) {
	a, err := b.Build(ctx, compiler.Request{Release: r, Dir: dir})
	if e := (*compiler.Error)(nil); errors.As(err, &e) && e.Retryable() {
		a, err = b.Build(ctx, compiler.Request{Release: r, Dir: dir})
	}
	return a.Path, err
}

type fakeBuilder struct{ failures int }

func (f *fakeBuilder) Build(_ context.Context, q compiler.Request) (compiler.Artifact, error) {
	if f.failures--; f.failures >= 0 {
		return compiler.Artifact{}, &compiler.Error{Op: compiler.StagePull,
			Err: errors.New("i/o timeout"), Retry: true}
	}
	return compiler.Artifact{Path: q.Dir + "/" + q.Release.Output("plugin.so", "linux", "amd64")}, nil
}

// A unit test of an importer's code, without an engine.
func Example_unitTest() {
	release, err := pluginbuild.Lookup(semver.MustParse("5.2.5"))
	check(err)
	fmt.Println(deploy(context.Background(), &fakeBuilder{failures: 1}, release, "/src"))
	_, err = deploy(context.Background(), &fakeBuilder{failures: 2}, release, "/src")
	fmt.Println(err)
	// Output:
	// /src/plugin_v5.2.5_linux_amd64.so <nil>
	// pull: i/o timeout
}
