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

// Options configures a [Builder]. The zero value is useful.
type Options struct {
	Pull          PullPolicy        // empty: PullMissing
	RequireDigest bool              // refuse images that are not pinned by digest or ID
	Auth          AuthFunc          // registry credentials; nil: ConfigAuth("")
	Env           map[string]string // for the compiler: GOPROXY, GOPRIVATE, HTTPS_PROXY, …
	// file with credentials for module hosts; the container gets a copy
	Netrc string
	// "source[:target]": directories of the engine's machine to mount read-only, such as a file://
	// proxy or certificates
	Mounts []string
	Limits Limits
	// prefix of the volumes for Go's caches; empty: "tykupgrade"; "none": no caches
	Caches string
	// labels for all containers and volumes; Sweep, ListCaches and RemoveCaches select by them
	Labels   map[string]string
	Log      *slog.Logger // nil: silent
	Progress func(Event)  // called by one goroutine at a time; may be nil
}

// Limits are the limits of a container. The zero value has wide limits of memory and processes.
type Limits struct {
	Memory  int64   // bytes, including swap; 0: 16 GiB, -1: none
	CPUs    float64 // cores; 0: all
	PIDs    int64   // processes and threads; 0: 4096, -1: none
	Network string  // "none", "host" or a network's name; empty: the engine's default

	// Capabilities of the container in addition to CHOWN, DAC_OVERRIDE and FOWNER, such as
	// "SYS_NICE". The official compilers need none.
	Capabilities []string
}

const (
	defaultMemory = 16 << 30
	defaultPIDs   = 4096
)

// Request describes a plugin to compile for a release. Release and Dir are required.
type Request struct {
	Release pluginbuild.Release
	Dir     string // the plugin's module
	Image   pluginbuild.Image

	Name      string   // empty: plugin.so. From 4.1.0 on the compiler adds release and platform
	ID        string   // plugin id: makes the module name unique, if the release supports it
	GOOS      string   // empty: linux
	GOARCH    string   // empty: amd64. Others need a release that cross-compiles
	OutputDir string   // directory for the plugin; empty: Dir
	Exclude   []string // patterns of files not to upload, as in .dockerignore
	// mount Dir instead of uploading a copy; local engines only, see [Builder.Build]
	Bind bool

	GoGet  bool // GO_GET=1: first get the gateway's module; from 5.2.3
	GoTidy bool // GO_TIDY=1: first tidy; from 5.2.4
	Debug  bool // DEBUG=1: print more; from 5.2.4

	NoValidate bool // VALIDATE=0: the next-generation compiler does not check its output

	// Provenance writes an in-toto statement next to the plugin, with the suffix
	// [ProvenanceSuffix]. It has the digests of image, source tree, go.mod and go.sum. If the
	// source changes meanwhile, Build writes the plugin and returns an error of [StageCollect].
	Provenance bool

	// The complete output of the compiler; nil drops it. Write errors do not stop the build.
	Stdout, Stderr io.Writer
}

// output returns the name of the compiler's output file.
func (q *Request) output() string { return q.Release.Output(q.Name, q.GOOS, q.GOARCH) }

// Labels of containers and volumes that this package creates.
const (
	LabelRun     = "com.example.tykupgrade.run"     // random, one for each Builder
	LabelKind    = "com.example.tykupgrade.kind"    // compile, loadtest, build-cache, module-cache
	LabelRelease = "com.example.tykupgrade.release" // of the gateway
)

// Builder compiles plugins in an engine. Several goroutines may call its methods.
type Builder struct {
	engine engine
	o      Options
	run    string

	mu       sync.Mutex
	images   map[string]bool // references of images that this Builder pulled or loaded
	platform string          // of the engine, after its first answer

	events sync.Mutex
}

// New returns a Builder for an engine. It does not connect. [Connect] returns a client.
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

// Run returns the value of [LabelRun] on all containers and volumes of this Builder.
func (b *Builder) Run() string { return b.run }

// Build compiles a plugin and writes it to the output directory. The file has the name that the
// release's gateway looks for, and replaces an older one atomically. The container runs on
// linux/amd64 for any target. A next-generation compiler uses the engine's own processor if its
// image supports it.
//
// Build uploads a copy of the source, so remote engines work and nothing in Dir changes. It omits
// files that the compiler's script would ignore or damage. These are .git directories, go.work, .so
// files in Dir, and names in Dir that begin with a dot. A next-generation compiler gets the last.
// Build refuses symbolic links out of Dir.
//
// With Bind, Build mounts Dir writable. The script then writes the plugin there itself, not
// atomically. Build refuses other .so files in Dir, because the script would give them to root.
//
// Build returns an error of kind [ErrRequest] before anything changes. Other errors are an [Error]
// with its stage. With an error of [StageRemove] the plugin is complete, but its container is not
// removed. If a build fails and its container stays too, the errors are joined, the build's first.
// If ctx ends, Build removes the container before it returns. That takes up to half a minute if
// the engine does not answer. The caches stay.
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
		"VALIDATE": "a separate option",
		"GO_GET":   "a separate option", "GO_TIDY": "a separate option",
		"DEBUG":              "a separate option",
		"PLUGIN_SOURCE_PATH": "the upload", "PLUGIN_BUILD_PATH": "the upload",
	}
)

// check validates a request and sets the defaults.
func (b *Builder) check(q Request) (Request, error) {
	if q.Release.Version == nil {
		return q, refuse("plugin", "no release given; get one from Lookup")
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
		return q, refuse(object, "invalid plugin id %q: want letters, digits, - and _, beginning with "+
			"a letter or digit", q.ID)
	case q.ID != "" && !c.PluginID:
		return q, unsupported("its compiler does not accept a plugin id")
	case q.GOOS != "linux":
		return q, unsupported("GOOS %s: gateways run on linux", q.GOOS)
	case q.GOARCH != "amd64" && !c.PlatformArgs:
		return q, unsupported("GOARCH %s: its compiler builds only for linux/amd64", q.GOARCH)
	case c.Variant == pluginbuild.NextGen && q.Image.Ref == "" && !c.Crosses(q.GOARCH,
		q.Image.Edition):
		return q, unsupported("GOARCH %s: this edition has no gateway for it, and the compiler refuses "+
			"it", q.GOARCH)
	case c.Variant != pluginbuild.NextGen && !c.Crosses(q.GOARCH, q.Image.Edition) &&
		b.o.Env["CC"] == "":
		return q, unsupported("GOARCH %s: its compiler selects no C compiler for it; set CC in Env if "+
			"the image has one", q.GOARCH)
	case machines[q.GOARCH] == 0:
		return q, refuse(object, "unsupported GOARCH %q (want %s)", q.GOARCH,
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
		return q, refuse(object, "the image %s is not pinned, but a digest is required; take it from an "+
			"earlier build or from the registry", ref)
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

// checkOutput finds faults of the output directory before the compiler runs.
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
		return refuse(object, "unknown pull policy %q (want %s, %s or %s)", o.Pull, PullMissing,
			PullAlways, PullNever)
	}
	for k, v := range o.Env {
		switch {
		case !envRule.MatchString(k) || strings.ContainsRune(v, 0):
			return refuse(object, "environment variable %q has an invalid name or value", k)
		case reservedTo[k] != "":
			return refuse(object, "environment variable %s is set by %s", k, reservedTo[k])
		}
	}
	if l := o.Limits; l.Memory < -1 || l.CPUs < 0 || l.PIDs < -1 {
		return refuse(object, "a limit is negative; for no limit of memory or processes use -1")
	}
	for _, c := range o.Limits.Capabilities {
		if !capRule.MatchString(c) {
			return refuse(object, "invalid capability %q: want a name such as SYS_NICE", c)
		}
	}
	for _, m := range o.Mounts {
		source, target := splitMount(m)
		if !strings.HasPrefix(source, "/") || !strings.HasPrefix(target, "/") {
			return refuse(object, "invalid mount %q: want source[:target] with absolute paths", m)
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
	case "http://docker.example.com": // docker/cli's name for all ssh:// hosts
		e.Next = "the engine is reached by ssh: check that ssh HOST docker version works"
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
