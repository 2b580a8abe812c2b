package pluginbuild

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Options changes how a [Builder] works. The zero value is useful.
type Options struct {
	Pull     PullPolicy        // "": PullMissing
	Auth     AuthFunc          // registry credentials; nil: ConfigAuth("")
	Env      map[string]string // for the compiler: GOPROXY, GOPRIVATE, HTTPS_PROXY, …
	Netrc    string            // file with credentials for module hosts; only the container sees a copy
	Mounts   []string          // "source[:target]", directories of the engine's machine shown read-only: a file:// proxy, certificates
	Limits   Limits
	Caches   string            // prefix of the volumes that keep Go's caches; "": "tykupgrade"; "none": keep nothing
	Labels   map[string]string // put on all containers and volumes, besides our own; narrows Sweep, ListCaches and RemoveCaches
	Logger   *slog.Logger      // nil: silent
	Progress func(Event)       // nil: none. Never called by two goroutines at once
}

// Limits of a container. Zero fields do not limit.
type Limits struct {
	Memory  int64   // bytes, swap included
	CPUs    float64 // cores
	PIDs    int64   // processes and threads
	Network string  // "none", "host" or a network's name; "": the engine's default
}

// Request is one plugin to compile for one release.
type Request struct {
	Release Release
	Dir     string // the plugin's module
	Image   Image

	Name      string   // "": plugin.so. The compiler adds release and platform from 4.1.0 on
	ID        string   // plugin id, for releases that take one: makes the plugin's module name unique
	GOOS      string   // "": linux
	GOARCH    string   // "": amd64. Others need a release that cross-compiles
	OutputDir string   // where the plugin is put; "": Dir
	Exclude   []string // what not to upload, in the syntax of .dockerignore
	Bind      bool     // mount Dir instead of uploading a copy: local engines only, see [Builder.Build]

	GoGet  bool // GO_GET=1: the script gets the gateway's module first; from 5.2.3
	GoTidy bool // GO_TIDY=1: it tidies first; from 5.2.4
	Debug  bool // DEBUG=1: it prints more; from 5.2.4

	Stdout, Stderr io.Writer // the compiler's output in full; nil: dropped. Their errors do not stop the build
}

// output is the name of the file that the compiler leaves.
func (q *Request) output() string { return q.Release.Output(q.Name, q.GOOS, q.GOARCH) }

// Labels that this package puts on what it creates.
const (
	LabelRun     = "com.example.tykupgrade.run"     // random, one for each Builder
	LabelKind    = "com.example.tykupgrade.kind"    // compile, loadtest, build-cache, module-cache
	LabelRelease = "com.example.tykupgrade.release" // of the gateway
)

// Builder compiles plugins in an engine. Its methods may be called by several
// goroutines.
type Builder struct {
	docker Docker
	o      Options
	run    string

	mu     sync.Mutex
	images map[string]bool // references of images that this Builder brought

	events sync.Mutex
}

// New returns a Builder for an engine. It asks nothing of the engine yet.
func New(d Docker, o Options) *Builder {
	if o.Auth == nil {
		o.Auth = ConfigAuth("")
	}
	if o.Pull == "" {
		o.Pull = PullMissing
	}
	if o.Caches == "" {
		o.Caches = "tykupgrade"
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return &Builder{docker: d, o: o, run: rand.Text(), images: map[string]bool{}}
}

// Run returns the identity of this Builder: the value of the label [LabelRun]
// on all that it creates.
func (b *Builder) Run() string { return b.run }

// Build compiles a plugin and puts it into the output directory, under the
// name that the release's gateway looks for, replacing an older one in one
// step. The container is always linux/amd64, whatever the target.
//
// A copy of the source is uploaded, so remote engines work and nothing in Dir
// changes. Left out are what the compiler's script would not copy or would
// damage: names that begin with a dot and .so files, both in Dir itself, and
// .git directories, and a go.work in Dir. Symbolic links that lead out of Dir
// are refused.
//
// With Bind, Dir is mounted instead, writable, because the script itself writes
// the plugin there, not in one step. Other .so files in Dir are refused then:
// the script would make them root's.
//
// What cannot work matches [ErrRequest] and is found before anything is done.
// Other errors are an [Error] with its stage; with one of [StageRemove] the
// plugin is in place and only its container could not be removed. Where a build
// fails and its container stays as well, both errors are joined, the build's
// first. When ctx ends, the container is removed before Build returns, which
// takes up to half a minute where the engine does not answer; the caches stay.
func (b *Builder) Build(ctx context.Context, q Request) (Artifact, error) {
	q, err := b.check(q)
	if err != nil {
		return Artifact{}, err
	}
	var img found
	if err := b.stage(StageConnect, func() error { return b.connect(ctx) }); err != nil {
		return Artifact{}, err
	}
	if err := b.stage(StagePull, func() error { img, err = b.ensureImage(ctx, &q); return err }); err != nil {
		return Artifact{}, err
	}
	a, err := b.compile(ctx, &q, img)
	if err != nil {
		return a, err
	}
	b.log(ctx, "compiled", "path", a.Path, "size", a.Size, "sha256", a.SHA256, "image", a.ImageID)
	return a, nil
}

var (
	nameRule   = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]*\.so$`)
	idRule     = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_-]*$`)
	envRule    = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)
	reservedTo = map[string]string{
		"GITHUB_TAG": "the image", "GITHUB_SHA": "the image", "BUILD_TAG": "the image", "GOFIPS140": "the image", "TYK_GW_PATH": "the image",
		"GOOS": "the target asked for", "GOARCH": "the target asked for",
		"GOCACHE": "the caches", "GOMODCACHE": "the caches", "NETRC": "the netrc file",
		"GO_GET": "an option of its own", "GO_TIDY": "an option of its own", "DEBUG": "an option of its own",
		"PLUGIN_SOURCE_PATH": "the upload", "PLUGIN_BUILD_PATH": "the upload",
	}
)

// check refuses what cannot work and fills in the defaults.
func (b *Builder) check(q Request) (Request, error) {
	if q.Release.Version == nil {
		return q, refuse("plugin", "no release given; Lookup finds one")
	}
	c, version := q.Release.Compiler, q.Release.Version.String()
	object := "plugin for " + version
	unsupported := func(format string, a ...any) error {
		return fmt.Errorf("build %s: %w: %s", object, ErrUnsupported, fmt.Sprintf(format, a...))
	}
	if q.Name == "" {
		q.Name = "plugin.so"
	}
	if q.GOOS == "" {
		q.GOOS = "linux"
	}
	if q.GOARCH == "" {
		q.GOARCH = "amd64"
	}
	switch {
	case q.Release.Broken && q.Image.Ref == "":
		return q, unsupported("its compiler image is broken: %s; name a repaired image, or choose the next patch release", strings.Join(q.Release.Notes, "; "))
	case !nameRule.MatchString(q.Name):
		return q, refuse(object, "name %q: it must be a plain file name of letters, digits, dots, - and _ that ends in .so", q.Name)
	case q.ID != "" && !idRule.MatchString(q.ID):
		return q, refuse(object, "plugin id %q: only letters, digits, - and _, and a letter or digit first", q.ID)
	case q.ID != "" && !c.PluginID:
		return q, unsupported("its compiler takes no plugin id")
	case q.GOOS != "linux":
		return q, unsupported("GOOS %s: gateways run on linux", q.GOOS)
	case q.GOARCH != "amd64" && !c.PlatformArgs:
		return q, unsupported("GOARCH %s: its compiler builds for linux/amd64 alone", q.GOARCH)
	case q.GOARCH != "amd64" && (q.GOARCH != "arm64" || !c.CrossARM64) && b.o.Env["CC"] == "":
		return q, unsupported("GOARCH %s: its compiler sets no C compiler for it; set CC in its environment if the image has one", q.GOARCH)
	case machines[q.GOARCH] == 0:
		return q, refuse(object, "GOARCH %q is not one that gateways run on: %s", q.GOARCH, strings.Join(slices.Sorted(maps.Keys(machines)), ", "))
	}
	for flag, asked := range map[string]bool{"GO_GET": q.GoGet, "GO_TIDY": q.GoTidy, "DEBUG": q.Debug} {
		if asked && !slices.Contains(c.Env, flag) {
			return q, unsupported("its compiler does not know %s", flag)
		}
	}
	if _, err := q.Image.Reference(q.Release); err != nil {
		return q, err
	}
	if err := b.checkOptions(object); err != nil {
		return q, err
	}
	dir, err := filepath.Abs(q.Dir)
	if err != nil {
		return q, refuse(object, "%w", err)
	}
	q.Dir = dir
	if q.OutputDir == "" {
		q.OutputDir = dir
	}
	if q.OutputDir, err = filepath.Abs(q.OutputDir); err != nil {
		return q, refuse(object, "%w", err)
	}
	if err := checkOutput(object, q.OutputDir, q.output()); err != nil {
		return q, err
	}
	return q, checkSource(object, &q)
}

// checkOutput refuses what would only fail once the compiler is through.
func checkOutput(object, dir, name string) error {
	if info, err := os.Stat(dir); err != nil {
		return refuse(object, "output directory: %w", err)
	} else if !info.IsDir() {
		return refuse(object, "output directory %s is not a directory", dir)
	}
	if err := unix.Faccessat(unix.AT_FDCWD, dir, unix.W_OK|unix.X_OK, unix.AT_EACCESS); err != nil {
		return refuse(object, "output directory %s: %w; choose one that you may write to", dir, err)
	}
	switch info, err := os.Lstat(filepath.Join(dir, name)); {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return refuse(object, "output: %w", err)
	case !info.Mode().IsRegular():
		return refuse(object, "%s exists and is not a regular file; move it away", filepath.Join(dir, name))
	}
	return nil
}

func (b *Builder) checkOptions(object string) error {
	o := b.o
	if !slices.Contains([]PullPolicy{PullMissing, PullAlways, PullNever}, o.Pull) {
		return refuse(object, "pull policy %q: choose %s, %s or %s", o.Pull, PullMissing, PullAlways, PullNever)
	}
	for k, v := range o.Env {
		switch {
		case !envRule.MatchString(k) || strings.ContainsRune(v, 0):
			return refuse(object, "environment variable %q has no usable name or value", k)
		case reservedTo[k] != "":
			return refuse(object, "environment variable %s is set by %s", k, reservedTo[k])
		}
	}
	if l := o.Limits; l.Memory < 0 || l.CPUs < 0 || l.PIDs < 0 {
		return refuse(object, "a limit is negative; 0 means none")
	}
	for _, m := range o.Mounts {
		source, target := splitMount(m)
		if !strings.HasPrefix(source, "/") || !strings.HasPrefix(target, "/") {
			return refuse(object, "mount %q: source[:target], both absolute", m)
		}
	}
	if o.Netrc != "" {
		if info, err := os.Stat(o.Netrc); err != nil {
			return refuse(object, "netrc: %w", err)
		} else if !info.Mode().IsRegular() {
			return refuse(object, "netrc %s is not a regular file", o.Netrc)
		}
	}
	return nil
}

func splitMount(m string) (source, target string) {
	source, target, ok := strings.Cut(m, ":")
	if !ok {
		target = source
	}
	return source, target
}

func (b *Builder) connect(ctx context.Context) error {
	_, err := b.docker.Ping(ctx)
	if err == nil {
		return nil
	}
	e := fail(ctx, StageConnect, "Docker engine", err)
	switch d, ok := b.docker.(interface{ DaemonHost() string }); {
	case !ok:
	case d.DaemonHost() == "http://docker.example.com": // what docker/cli calls all ssh:// hosts
		e.hint = "the engine is reached by ssh: ssh HOST docker version must work without questions"
	default:
		e.Object += " at " + d.DaemonHost()
	}
	return e
}

// stage reports f as a stage.
func (b *Builder) stage(s Stage, f func() error) error {
	start := time.Now()
	b.event(Event{Stage: string(s), Kind: Started})
	err := f()
	b.event(Event{Stage: string(s), Kind: Done, Elapsed: time.Since(start), Err: err})
	return err
}

func (b *Builder) event(e Event) {
	if b.o.Progress == nil {
		return
	}
	b.events.Lock()
	defer b.events.Unlock()
	b.o.Progress(e)
}

func (b *Builder) log(ctx context.Context, msg string, args ...any) {
	b.o.Logger.InfoContext(ctx, msg, args...)
}

func (b *Builder) labels(kind string, r *Release) map[string]string {
	l := maps.Clone(b.o.Labels)
	if l == nil {
		l = map[string]string{}
	}
	l[LabelRun], l[LabelKind] = b.run, kind
	if r != nil {
		l[LabelRelease] = r.Version.String()
	}
	return l
}
