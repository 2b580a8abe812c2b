package compiler_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/Masterminds/semver/v3"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/filters"
	"github.com/docker/docker/api/types/volume"

	"example.com/tykupgrade/pluginbuild"
	"example.com/tykupgrade/pluginbuild/compiler"
)

// exampleEngine replaces an engine, so that the examples need none.
func exampleEngine() *fake { return newFake(nil, 0, "", sharedObject(62)) }

// Compiling with limits, for a host whose packages came from the -el7 build.
func ExampleBuilder_Build() {
	dir, remove := moduleDir()
	defer remove()
	docker := exampleEngine() // compiler.Connect(compiler.ConnectOptions{})

	release, err := pluginbuild.Lookup(semver.MustParse("4.0.8"))
	check(err)
	b := compiler.NewOn(docker, compiler.Options{
		Env:    map[string]string{"GOPRIVATE": "git.example.org"},
		Limits: compiler.Limits{Memory: 4 << 30, CPUs: 2},
	})
	plugin, err := b.Build(context.Background(), compiler.Request{
		Release: release, Dir: dir, Image: pluginbuild.Image{Distro: "ubuntu/xenial"}, Stderr: os.Stderr,
	})
	check(err)
	fmt.Println(filepath.Base(plugin.Path), plugin.Size, plugin.Image)
	// Output: plugin.so 64 docker.io/tykio/tyk-plugin-compiler:v4.0.8-el7
}

// Compiling with a real engine and the official image, as the README shows it.
func Example_compile() {
	ctx, dir := context.Background(), "."
	release, err := pluginbuild.Lookup(semver.MustParse("5.2.5"))
	check(err)

	docker, err := compiler.Connect(compiler.ConnectOptions{})
	check(err)
	defer docker.Close()
	b := compiler.New(docker, compiler.Options{
		Env:      map[string]string{"GOPRIVATE": "git.example.org"},
		Netrc:    os.Getenv("HOME") + "/.netrc",
		Limits:   compiler.Limits{Memory: 4 << 30, CPUs: 2},
		Progress: func(e compiler.Event) { log.Print(e.Stage, " ", e.Kind, " ", e.Line) },
	})
	plugin, err := b.Build(ctx, compiler.Request{Release: release, Dir: dir, Stdout: os.Stdout,
		Stderr: os.Stderr})
	var failed *compiler.Error // stage, exit code, out of memory or not, the compiler's own words
	if errors.As(err, &failed) && failed.Retryable() {
		log.Print("try again: ", failed)
	}
	check(err)
	// 5.2.3 and later
	verdict, err := b.LoadTest(ctx, release, pluginbuild.Image{}, plugin.Path, "AddFooBarHeader")
	check(err)
	fmt.Println(plugin.Path, plugin.SHA256, plugin.ImageDigest, verdict.Loads)
}

// A failed compile carries the stage, the exit code and the compiler's words.
func ExampleError() {
	dir, remove := moduleDir()
	defer remove()
	docker := newFake(nil, 1, "# example.org/plugin\n./main.go:9:2: undefined: nope\n", nil)

	release, err := pluginbuild.Lookup(semver.MustParse("5.2.5"))
	check(err)
	_, err = compiler.NewOn(docker, compiler.Options{}).Build(context.Background(), compiler.Request{
		Release: release, Dir: dir})
	var failed *compiler.Error
	if errors.As(err, &failed) {
		fmt.Println(failed.Op, failed.ExitCode, failed.OOMKilled, failed.Retryable())
		fmt.Println(failed.Message)
	}
	// Output:
	// compile 1 false false
	// ./main.go:9:2: undefined: nope
}

func ExampleConnect() {
	docker, err := compiler.Connect(compiler.ConnectOptions{Host: "tcp://build.example.org:2376"})
	check(err)
	defer func() { _ = docker.Close() }()
	fmt.Println(docker.DaemonHost())
	_, err = compiler.Connect(compiler.ConnectOptions{Host: "tcp://a:1", Context: "b"})
	fmt.Println(err)
	// Output:
	// tcp://build.example.org:2376
	// connect tcp://a:1: both a host and a context are set; choose one
}

func ExampleConfigAuth() {
	dir, err := os.MkdirTemp("", "docker-config")
	check(err)
	defer func() { _ = os.RemoveAll(dir) }()
	check(os.WriteFile(filepath.Join(dir, "config.json"),
		[]byte(`{"auths": {"hub.example.org": {"auth": "bWU6c2VjcmV0"}}}`), 0o600))
	auth, err := compiler.ConfigAuth(dir)(context.Background(), "hub.example.org")
	check(err)
	fmt.Println(auth.Username)
	// Output: me
}

func ExampleWithProxies() {
	dir, err := os.MkdirTemp("", "docker-config")
	check(err)
	defer func() { _ = os.RemoveAll(dir) }()
	check(os.WriteFile(filepath.Join(dir, "config.json"),
		[]byte(`{"proxies": {"default": {"httpsProxy": "http://proxy.example.org:3128", "noProxy": "git.example.org"}}}`), 0o600))
	env, err := compiler.WithProxies(map[string]string{"GOPRIVATE": "git.example.org",
		"https_proxy": "http://mine.example.org"}, dir, "unix:///var/run/docker.sock")
	check(err)
	for _, name := range slices.Sorted(maps.Keys(env)) {
		fmt.Println(name, env[name])
	}
	// Output:
	// GOPRIVATE git.example.org
	// NO_PROXY git.example.org
	// https_proxy http://mine.example.org
	// no_proxy git.example.org
}

func ExampleReference() {
	release, err := pluginbuild.Lookup(semver.MustParse("5.8.14"))
	check(err)
	for _, i := range []pluginbuild.Image{
		{},
		{Edition: pluginbuild.FIPS},
		{Ref: "mirror.example.org/tyk-plugin-compiler:v5.8.14", Digest: "sha256:" + strings.Repeat("5a",
			32)},
		{EL7: true},
	} {
		fmt.Println(compiler.Reference(i, release))
	}
	// Output:
	// docker.io/tykio/tyk-plugin-compiler:v5.8.14 <nil>
	// docker.io/tykio/tyk-plugin-compiler-fips:v5.8.14 <nil>
	// mirror.example.org/tyk-plugin-compiler@sha256:5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a <nil>
	//  choose image: request refused: not supported by this release: compiler image of 5.8.14: no -el7 variant
}

func ExampleBuilder_LoadTest() {
	dir, remove := moduleDir()
	defer remove()
	path := filepath.Join(dir, "plugin_v5.2.5_linux_amd64.so")
	check(os.WriteFile(path, sharedObject(62), 0o600))
	docker := newFake(nil, 1, "unexpected error: plugin: symbol Hok not found in plugin "+
		"example.org/plugin\n", nil)

	release, err := pluginbuild.Lookup(semver.MustParse("5.2.5"))
	check(err)
	verdict, err := compiler.NewOn(docker, compiler.Options{}).LoadTest(context.Background(), release,
		pluginbuild.Image{}, path, "Hok")
	check(err)
	fmt.Println(verdict.Loads, verdict.Reason)
	// Output: false plugin: symbol Hok not found in plugin example.org/plugin
}

// Run now and then, where builds may crash or lose their machine.
func ExampleBuilder_Sweep() {
	docker := exampleEngine()
	docker.containerList = func(filters.Args) ([]container.Summary, error) {
		return []container.Summary{{ID: "1", Names: []string{"/tykupgrade-compile-a"},
			Labels: map[string]string{compiler.LabelRun: "x"}}}, nil
	}
	fmt.Println(compiler.NewOn(docker, compiler.Options{}).Sweep(context.Background(), 24*time.Hour))
	// Output: [tykupgrade-compile-a] <nil>
}

func ExampleBuilder_ListCaches() {
	docker := exampleEngine()
	docker.volumeList = func() ([]*volume.Volume, error) {
		return []*volume.Volume{{Name: "tykupgrade-gocache", Labels: map[string]string{
			compiler.LabelRun: "x", compiler.LabelKind: "build-cache"}}}, nil
	}
	caches, err := compiler.NewOn(docker, compiler.Options{}).ListCaches(context.Background())
	check(err)
	for _, c := range caches {
		fmt.Println(c.Name, c.Kind)
	}
	// Output: tykupgrade-gocache build-cache
}

func ExampleBuilder_RemoveCaches() {
	docker := exampleEngine()
	docker.volumeList = func() ([]*volume.Volume, error) {
		return []*volume.Volume{{Name: "tykupgrade-gocache", Labels: map[string]string{
			compiler.LabelRun: "x", compiler.LabelKind: "build-cache"}}}, nil
	}
	docker.volumeRemove = func(string) error { return nil }
	fmt.Println(compiler.NewOn(docker, compiler.Options{}).RemoveCaches(context.Background()))
	// Output: [tykupgrade-gocache] <nil>
}

// After the last build the images go that this Builder brought to the engine.
func ExampleBuilder_RemoveImages() {
	docker := exampleEngine()
	docker.containerList = func(filters.Args) ([]container.Summary, error) { return nil, nil }
	b := compiler.NewOn(docker, compiler.Options{})
	fmt.Println(b.RemoveImages(context.Background())) // nothing was built, so nothing was brought
	// Output: [] <nil>
}

// moduleDir is a plugin module in a directory of its own.
func moduleDir() (dir string, remove func()) {
	dir, err := os.MkdirTemp("", "plugin")
	check(err)
	check(write(dir, fooBar))
	return dir, func() { _ = os.RemoveAll(dir) }
}

func check(err error) {
	if err != nil {
		panic(err)
	}
}
