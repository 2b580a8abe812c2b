package compiler

import (
	"cmp"
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
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/distribution/reference"
	"github.com/docker/docker/client"
	"golang.org/x/sys/unix"

	"example.com/tykupgrade/internal/lazyregexp"
	"example.com/tykupgrade/pluginbuild"
)

// Options changes how a [Builder] works. The zero value is useful.
type Options struct {
	Pull          PullPolicy        // "": PullMissing
	RequireDigest bool              // refuse images that are not pinned by digest or ID
	Auth          AuthFunc          // registry credentials; nil: ConfigAuth("")
	Env           map[string]string // for the compiler: GOPROXY, GOPRIVATE, HTTPS_PROXY, …
	// file with credentials for module hosts; only the container sees a copy
	Netrc string
	// "source[:target]", directories of the engine's machine shown read-only: a file:// proxy,
	// certificates
	Mounts []string
	Limits Limits
	// prefix of the volumes that keep Go's caches; "": "tykupgrade"; "none": keep nothing
	Caches string
	// put on all containers and volumes, besides our own; narrows Sweep, ListCaches and RemoveCaches
	Labels   map[string]string
	Log      *slog.Logger // nil: silent
	Progress func(Event)  // nil: none. Never called by two goroutines at once
}

// Limits of a container. The zero value bounds memory and processes widely.
type Limits struct {
	Memory  int64   // bytes, swap included; 0: 16 GiB, -1: none
	CPUs    float64 // cores; 0: all
	PIDs    int64   // processes and threads; 0: 4096, -1: none
	Network string  // "none", "host" or a network's name; "": the engine's default

	// Capabilities that the container has besides those to write files (CHOWN,
	// DAC_OVERRIDE, FOWNER), such as "SYS_NICE". The official compilers need none.
	Capabilities []string
}

const (
	defaultMemory = 16 << 30
	defaultPIDs   = 4096
)

// Request is one plugin to compile for one release.
type Request struct {
	Release pluginbuild.Release
	Dir     string // the plugin's module
	Image   pluginbuild.Image

	Name      string   // "": plugin.so. The compiler adds release and platform from 4.1.0 on
	ID        string   // plugin id, for releases that take one: makes the plugin's module name unique
	GOOS      string   // "": linux
	GOARCH    string   // "": amd64. Others need a release that cross-compiles
	OutputDir string   // where the plugin is put; "": Dir
	Exclude   []string // what not to upload, in the syntax of .dockerignore
	// mount Dir instead of uploading a copy: local engines only, see [Builder.Build]
	Bind bool

	GoGet  bool // GO_GET=1: the script gets the gateway's module first; from 5.2.3
	GoTidy bool // GO_TIDY=1: it tidies first; from 5.2.4
	Debug  bool // DEBUG=1: it prints more; from 5.2.4

	NoValidate bool // VALIDATE=0: the next-generation compiler does not check what it has built

	// Provenance writes an in-toto statement next to the plugin, named after it with
	// [ProvenanceSuffix]: the digests of image, source tree, go.mod and go.sum. If the source
	// changed meanwhile there is an error of [StageCollect] instead, and the plugin.
	Provenance bool

	// the compiler's output in full; nil: dropped. Their errors do not stop the build
	Stdout, Stderr io.Writer
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
	engine engine
	o      Options
	run    string

	mu       sync.Mutex
	images   map[string]bool // references of images that this Builder brought
	platform string          // of the engine, once it has answered

	events sync.Mutex
}

// New returns a Builder for an engine. It asks nothing of the engine yet. Connect
// finds the client as the docker command does.
func New(c *client.Client, o Options) *Builder { return newBuilder(docker{c}, o) }

func newBuilder(e engine, o Options) *Builder {
	if o.Auth == nil {
		o.Auth = ConfigAuth("")
	}
	o.Pull = cmp.Or(o.Pull, PullMissing)
	o.Caches = cmp.Or(o.Caches, "tykupgrade")
	o.Limits.PIDs = cmp.Or(o.Limits.PIDs, defaultPIDs)
	o.Limits.Memory = cmp.Or(o.Limits.Memory, defaultMemory)
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return &Builder{engine: e, o: o, run: rand.Text(), images: map[string]bool{}}
}

// Run returns the identity of this Builder: the value of the label [LabelRun]
// on all that it creates.
func (b *Builder) Run() string { return b.run }

// Build compiles a plugin and puts it into the output directory, under the
// name that the release's gateway looks for, replacing an older one in one
// step. The container is linux/amd64, whatever the target; that of a next-generation
// compiler has the engine's own processor where the image has it.
//
// A copy of the source is uploaded, so remote engines work and nothing in Dir changes. Left out are
// what the compiler's script would not copy or would damage: names that begin with a dot (a
// next-generation compiler copies those) and .so files, both in Dir itself, and .git directories,
// and a go.work in Dir. Symbolic links that lead out of Dir are refused.
//
// With Bind, Dir is mounted instead, writable, because the script itself writes
// the plugin there, not in one step. Other .so files in Dir are refused then:
// the script would make them root's.
//
// An impossible request is an error of kind [ErrRequest], found before anything is done.
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
	if err := b.stage(StagePull, func() error {
		img, err = b.ensureImage(ctx,
			&q)
		return err
	}); err != nil {
		return Artifact{}, err
	}
	var src sourceDigest
	started := time.Now()
	if q.Provenance {
		if src, err = digestDir(&q); err != nil {
			return Artifact{}, fail(ctx, StageUpload, q.Dir, err)
		}
	}
	a, err := b.compile(ctx, &q, img)
	if q.Provenance && a.SHA256 != "" {
		err = join(err, b.writeProvenance(ctx, &q, a, src, started))
	}
	if err != nil {
		return a, err
	}
	b.log(ctx, "compiled", "path", a.Path, "size", a.Size, "sha256", a.SHA256, "image", a.ImageID)
	return a, nil
}

var (
	idRule     = lazyregexp.New(`^[A-Za-z0-9][A-Za-z0-9_-]*$`)
	capRule    = lazyregexp.New(`^[A-Z][A-Z_]*$`)
	envRule    = lazyregexp.New(`^[A-Za-z_][A-Za-z0-9_]*$`)
	reservedTo = map[string]string{
		"GITHUB_TAG": "the image", "GITHUB_SHA": "the image", "BUILD_TAG": "the image",
		"GOFIPS140": "the image", "TYK_GW_PATH": "the image",
		"GOOS": "the requested target", "GOARCH": "the requested target",
		"GOCACHE": "the caches", "GOMODCACHE": "the caches", "NETRC": "the netrc file",
		"EDITION": "the image", "FIPS": "the image", "TYK_GLIBC_TARGET": "the image",
		"VALIDATE": "an option of its own",
		"GO_GET":   "an option of its own", "GO_TIDY": "an option of its own",
		"DEBUG":              "an option of its own",
		"PLUGIN_SOURCE_PATH": "the upload", "PLUGIN_BUILD_PATH": "the upload",
	}
)

// check refuses what cannot work and fills in the defaults.
func (b *Builder) check(q Request) (Request, error) {
	if q.Release.Version == nil {
		return q, refuse("plugin", "no release given; Lookup finds one")
	}
	var err error
	if q.Release, err = q.Release.WithVariant(q.Image.Variant); err != nil {
		return q, err
	}
	c, version := q.Release.Compiler, q.Release.Version.String()
	object := "plugin for " + version
	unsupported := func(format string, a ...any) error {
		return &Error{Op: "build", Object: object, Kind: ErrUnsupported, Err: fmt.Errorf(format, a...)}
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
		return q, unsupported("its compiler image is broken: %s; name a repaired image, or choose the "+
			"next patch release", strings.Join(q.Release.Notes, "; "))
	case q.ID != "" && !idRule.MatchString(q.ID):
		return q, refuse(object, "plugin id %q: only letters, digits, - and _, and a letter or "+
			"digit first", q.ID)
	case q.ID != "" && !c.PluginID:
		return q, unsupported("its compiler takes no plugin id")
	case q.GOOS != "linux":
		return q, unsupported("GOOS %s: gateways run on linux", q.GOOS)
	case q.GOARCH != "amd64" && !c.PlatformArgs:
		return q, unsupported("GOARCH %s: its compiler builds for linux/amd64 alone", q.GOARCH)
	case c.Variant == pluginbuild.NextGen && q.Image.Ref == "" && !c.Crosses(q.GOARCH,
		q.Image.Edition):
		return q, unsupported("GOARCH %s: no gateway of this edition is published for it, and the "+
			"compiler refuses it", q.GOARCH)
	case c.Variant != pluginbuild.NextGen && !c.Crosses(q.GOARCH, q.Image.Edition) &&
		b.o.Env["CC"] == "":
		return q, unsupported("GOARCH %s: its compiler sets no C compiler for it; set CC in its "+
			"environment if the image has one", q.GOARCH)
	case machines[q.GOARCH] == 0:
		return q, refuse(object, "GOARCH %q is not one that gateways run on: %s", q.GOARCH,
			strings.Join(slices.Sorted(maps.Keys(machines)), ", "))
	}
	for flag, asked := range map[string]bool{"GO_GET": q.GoGet, "GO_TIDY": q.GoTidy, "DEBUG": q.Debug,
		"VALIDATE": q.NoValidate} {
		if asked && !slices.Contains(c.Env, flag) {
			return q, unsupported("its compiler does not know %s", flag)
		}
	}
	if err := q.Release.ValidateName(q.Name); err != nil {
		return q, err
	}
	ref, err := normal(q.Image, q.Release)
	if err != nil {
		return q, err
	}
	if _, pinned := ref.(reference.Digested); b.o.RequireDigest && !pinned && q.Image.Digest == "" {
		return q, refuse(object, "the image %s is not pinned, and a digest is required; give the "+
			"digest that an earlier build recorded, or that the registry shows", ref)
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
		return refuse(object, "%s exists and is not a regular file; move it away", filepath.Join(dir,
			name))
	}
	return nil
}

func (b *Builder) checkOptions(object string) error {
	o := b.o
	if !slices.Contains([]PullPolicy{PullMissing, PullAlways, PullNever}, o.Pull) {
		return refuse(object, "pull policy %q: choose %s, %s or %s", o.Pull, PullMissing, PullAlways,
			PullNever)
	}
	for k, v := range o.Env {
		switch {
		case !envRule.MatchString(k) || strings.ContainsRune(v, 0):
			return refuse(object, "environment variable %q has no usable name or value", k)
		case reservedTo[k] != "":
			return refuse(object, "environment variable %s is set by %s", k, reservedTo[k])
		}
	}
	if l := o.Limits; l.Memory < -1 || l.CPUs < 0 || l.PIDs < -1 {
		return refuse(object, "a limit is negative; -1 means no limit of memory or processes")
	}
	for _, c := range o.Limits.Capabilities {
		if !capRule.MatchString(c) {
			return refuse(object, "capability %q: want a name such as CHOWN", c)
		}
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
	at, err := b.engine.hello(ctx)
	if err == nil {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.platform = at.platform
		return nil
	}
	e := fail(ctx, StageConnect, "Docker engine", err)
	switch at.address {
	case "":
	case "http://docker.example.com": // what docker/cli calls all ssh:// hosts
		e.Next = "the engine is reached by ssh: ssh HOST docker version must work without questions"
	default:
		e.Object += " at " + at.address
	}
	return e
}

// stage reports f as a stage.
func (b *Builder) stage(s string, f func() error) error {
	start := time.Now()
	b.event(Event{Stage: s, Kind: Started})
	err := f()
	b.event(Event{Stage: s, Kind: Done, Elapsed: time.Since(start), Err: err})
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
	b.o.Log.InfoContext(ctx, msg, args...)
}

func (b *Builder) labels(kind string, r *pluginbuild.Release) map[string]string {
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
