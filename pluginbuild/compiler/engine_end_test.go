package compiler_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/docker/docker/api/types/container"

	stub "example.com/tykupgrade/internal/lab/compiler"
	"example.com/tykupgrade/pluginbuild"
	"example.com/tykupgrade/pluginbuild/compiler"
)

func testCompileError(t *testing.T, b *bench) {
	for version, more := range map[string]string{"5.2.5": "", "4.0.8": "+ go build"} {
		out := t.TempDir()
		r := release(t, version)
		name := r.Output("plugin.so", "linux", "amd64")
		if err := os.WriteFile(filepath.Join(out, name), []byte("earlier"), 0o600); err != nil {
			t.Fatal(err)
		}
		var stderr buffer
		_, err := b.build(t, compiler.Request{
			Release: r, OutputDir: out, Stderr: &stderr,
			Dir: plugin(t, tiny, map[string]string{"bad.go": "package main\n\nvar x int = nope\n"}),
		}, nil)
		var e *compiler.Error
		if !errors.As(err, &e) || e.Op != compiler.StageCompile || e.ExitCode != 1 || e.OOMKilled ||
			e.Retryable() {
			t.Fatalf("%s: %#v", version, err)
		}
		if e.Message != "./bad.go:3:13: undefined: nope" {
			t.Errorf("%s: message %q of %s", version, e.Message, e.Output)
		}
		if !strings.Contains(stderr.String(), more) || !strings.Contains(err.Error(),
			"exit code 1: ./bad.go:3:13: undefined: nope") {
			t.Errorf("%s: %v\n%s", version, err, stderr.String())
		}
		if data, err := os.ReadFile(filepath.Join(out, name)); err != nil || string(data) != "earlier" {
			t.Errorf("the earlier plugin is %q, %v", data, err)
		}
		only(t, out, name)
	}
}

// Every byte of both streams, and the exit code, of each of many builds.
func testManyBuilds(t *testing.T, b *bench) {
	const count = 2001
	builds := b.rounds(25)
	img := b.script(t, fmt.Sprintf("out %d one", count), fmt.Sprintf("err %d two", count), "exit 7")
	want := func(text string) string {
		var s strings.Builder
		for i := range count {
			fmt.Fprintf(&s, "%s %d\n", text, i)
		}
		return s.String()
	}
	dir := plugin(t, tiny)
	builder := compiler.New(b.docker, b.options())
	var wg sync.WaitGroup
	slots := make(chan struct{}, 4)
	for range builds {
		wg.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			var stdout, stderr strings.Builder
			_, err := builder.Build(t.Context(), compiler.Request{
				Release: release(t, "5.2.5"), Dir: dir, OutputDir: t.TempDir(), Image: img, Stdout: &stdout,
				Stderr: &stderr,
			})
			var e *compiler.Error
			if !errors.As(err, &e) || e.ExitCode != 7 {
				t.Errorf("%v", err)
			}
			if stdout.String() != want("one") || stderr.String() != want("two") {
				t.Errorf("%d and %d bytes of output", stdout.Len(), stderr.Len())
			}
		})
	}
	wg.Wait()
	if n := b.running(t, compiler.LabelRun, builder.Run()); n != 0 {
		t.Errorf("%d containers left", n)
	}
}

// Cancelled at any moment nothing is left, and the error says that it was.
func testCancel(t *testing.T, b *bench) {
	images := []pluginbuild.Image{
		b.script(t, "deaf", "out 1 sleeping", "sleep"), b.script(t, "write x", "exit 0"),
		{Ref: b.image(t, stub.Config{})},
	}
	stages := []string{"connect", "pull", "create", "upload", "compile", "collect"}
	dir, out := plugin(t, tiny), t.TempDir()
	if err := os.WriteFile(filepath.Join(out, "plugin_v5.2.5_linux_amd64.so"), []byte("earlier"),
		0o600); err != nil {
		t.Fatal(err)
	}
	builder := compiler.New(b.docker, b.options())
	why := errors.New("the operator pressed Ctrl-C")
	var wg sync.WaitGroup
	slots := make(chan struct{}, 4)
	for i := range b.rounds(50) {
		wg.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			ctx, cancel := context.WithCancelCause(t.Context())
			defer cancel(nil)
			o := b.options()
			img := images[i%len(images)]
			stage := ""
			if i%2 == 0 {
				stage = stages[i/2%len(stages)]
			}
			if stage == "" || stage == "collect" {
				img = images[0] // the one that never ends by itself
			}
			if stage == "collect" {
				img = images[1]
			}
			o.Progress = func(e compiler.Event) {
				if e.Kind == compiler.Started && e.Stage == stage {
					cancel(why)
				}
			}
			if stage == "" {
				time.AfterFunc(time.Duration(rand.Int64N(int64(600*time.Millisecond))), func() { cancel(why) })
			}
			one := compiler.New(b.docker, o)
			var log strings.Builder // of one goroutine: nothing may be written once Build is back
			_, err := one.Build(ctx, compiler.Request{Release: release(t, "5.2.5"), Dir: dir, OutputDir: out,
				Image: img, Stdout: &log, Stderr: &log})
			log.Reset()
			var e *compiler.Error
			if !errors.Is(err, context.Canceled) || !errors.Is(err, why) || !errors.As(err, &e) ||
				e.Retryable() {
				t.Errorf("cancelled in %q: %v", stage, err)
			}
			if n := b.running(t, compiler.LabelRun, one.Run()); n != 0 {
				t.Errorf("cancelled in %q: %d containers left", stage, n)
			}
		})
	}
	wg.Wait()
	if n := b.running(t, compiler.LabelRun, builder.Run()); n != 0 {
		t.Errorf("%d containers left", n)
	}
	only(t, out, "plugin_v5.2.5_linux_amd64.so")
	if data, err := os.ReadFile(filepath.Join(out, "plugin_v5.2.5_linux_amd64.so")); err != nil ||
		string(data) != "earlier" {
		t.Errorf("the earlier plugin is %q, %v", data, err)
	}
	only(t, dir, "go.mod", "plugin.go")
}

func testOutOfMemory(t *testing.T, b *bench) {
	_, err := b.build(t, compiler.Request{Image: b.script(t, "memory")},
		func(o *compiler.Options) { o.Limits.Memory = 48 << 20 })
	var e *compiler.Error
	if !errors.As(err, &e) || !e.OOMKilled && !b.podman || e.ExitCode == 0 ||
		!strings.Contains(e.Hint(), "memory limit") || e.Retryable() {
		t.Errorf("%#v: %v", e, err)
	}
	readable(t, err)
}

func testBadResults(t *testing.T, b *bench) {
	for name, c := range map[string]struct {
		script []string
		stage  string
		want   string
	}{
		"no file": {[]string{"exit 0"}, compiler.StageCollect, "wrote no file with this release's name"},
		"other name": {[]string{"touch plugin.so", "exit 0"}, compiler.StageCollect,
			"wrote no file with this release's name"},
		"not ELF": {[]string{"write garbage", "exit 0"}, compiler.StageCollect, "not an ELF file"},
	} {
		out := t.TempDir()
		_, err := b.build(t, compiler.Request{Image: b.script(t, c.script...), OutputDir: out}, nil)
		var e *compiler.Error
		if !errors.As(err, &e) || e.Op != c.stage || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", name, err)
		}
		only(t, out)
	}
	// An image whose entry point is missing.
	_, err := b.build(t, compiler.Request{Image: pluginbuild.Image{Ref: b.image(t,
		stub.Config{Entrypoint: "/gone.sh"})}}, nil)
	var e *compiler.Error
	if !errors.As(err, &e) || e.Op != compiler.StageCompile || !strings.Contains(err.Error(),
		"start: ") && !(b.podman && strings.Contains(err.Error(), "attach: ")) {
		t.Errorf("missing entry point: %v", err)
	}
}

func testSweep(t *testing.T, b *bench) {
	o := b.options()
	o.Labels = map[string]string{testLabel: b.id, "sweep": b.id}
	// As a crash leaves it: labelled, with no Builder to remove it.
	labels := map[string]string{compiler.LabelRun: "gone", testLabel: b.id, "sweep": b.id}
	create := func(labels map[string]string) string {
		t.Helper()
		c, err := b.docker.ContainerCreate(t.Context(), &container.Config{Image: b.script(t, "sleep").Ref,
			Labels: labels}, nil, nil, nil, "")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			_ = b.docker.ContainerRemove(context.WithoutCancel(t.Context()), c.ID, container.RemoveOptions{
				Force: true})
		})
		return c.ID
	}
	create(labels)
	foreign := create(map[string]string{"sweep": b.id, testLabel: b.id})
	builder := compiler.New(b.docker, o)
	if _, err := builder.Sweep(t.Context(), 0); !errors.Is(err, compiler.ErrRequest) {
		t.Errorf("age 0: %v", err)
	}
	if got, err := builder.Sweep(t.Context(), time.Hour); err != nil || len(got) != 0 {
		t.Errorf("younger than an hour: %v, %v", got, err)
	}
	// the engine's times are in seconds
	for end := time.Now().Add(time.Minute); ; time.Sleep(100 * time.Millisecond) {
		got, err := builder.Sweep(t.Context(), time.Second)
		if err != nil || len(got) > 1 || time.Now().After(end) {
			t.Fatalf("%v, %v", got, err)
		}
		if len(got) == 1 {
			break
		}
	}
	if _, err := b.docker.ContainerInspect(t.Context(), foreign); err != nil {
		t.Errorf("a container without our label: %v", err)
	}
}
