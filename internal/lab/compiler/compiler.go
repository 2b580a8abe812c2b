// Package compiler makes stubs for Tyk's plugin compiler image, which the
// registries here do not serve. The image holds an entry point that keeps the
// contract of Tyk's script ([example.com/tykupgrade/internal/lab/compiler/script]),
// a module named as the gateway's, and on demand a gateway that can load
// plugins. It has no toolchain: a container needs this machine's, mounted
// read-only at the same paths ([Mounts]), so it works with a local engine only.
package compiler

import (
	"archive/tar"
	"bytes"
	"context"
	"embed"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/docker/docker/api/types/image"
	"github.com/docker/docker/client"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"example.com/tykupgrade/internal/lab"
	"example.com/tykupgrade/internal/lab/exe"
	"example.com/tykupgrade/internal/lab/tykmod"
)

// Config describes one image.
type Config struct {
	Version string // of the gateway: "5.2.5"; it decides how the script behaves
	Next    bool   // it follows the script of the next-generation image
	// what the entry point does instead of compiling: see the command stub
	Script  []string
	Arch    string            // what the image says of itself; "": amd64
	Gateway bool              // with /usr/local/bin/tyk
	GoCache bool              // it reads this machine's Go build cache: see GoCacheMount
	Files   map[string]string // more files, by absolute path
	Labels  map[string]string

	Entrypoint string // "": the script

	// Program is an executable of this machine that calls script.Main if its first argument is
	// [ScriptArg]; its next is the entry point's path. nil: the command stub, which is compiled.
	Program []byte
}

// ScriptArg makes Config.Program the script.
const ScriptArg = "stub-of-build.sh"

//go:embed gateway
var gatewaySource embed.FS

const gatewayDir = "go/src/github.com/TykTechnologies/tyk"

// gatewayFiles is the module in the image, by file name.
func gatewayFiles() (map[string][]byte, error) {
	files := map[string][]byte{}
	for from, to := range map[string]string{"go.mod.txt": "go.mod", "main.go.txt": "main.go",
		"log.go.txt": "log/log.go"} {
		data, err := gatewaySource.ReadFile("gateway/" + from)
		if err != nil {
			return nil, err
		}
		files[to] = data
	}
	for name, text := range tykmod.Packages() {
		files[name] = []byte(text)
	}
	return files, nil
}

const programPath = "usr/local/bin/stub"

// Image makes the image. Equal configurations give equal images.
func Image(c Config) (v1.Image, error) {
	lay := shared[c.Gateway]
	if c.Program != nil {
		lay = func() (v1.Layer, error) {
			return base(c.Gateway, map[string][]byte{programPath: c.Program,
				"build.sh": []byte("#!/" + programPath + " " + ScriptArg + "\n")})
		}
	}
	layer, err := lay()
	if err != nil {
		return nil, err
	}
	layers := []v1.Layer{layer}
	if len(c.Files) > 0 {
		files := map[string][]byte{}
		for name, text := range c.Files {
			files[strings.TrimPrefix(name, "/")] = []byte(text)
		}
		if layer, err = layerOf(files); err != nil {
			return nil, err
		}
		layers = append(layers, layer)
	}
	img, err := mutate.AppendLayers(empty.Image, layers...)
	if err != nil {
		return nil, err
	}
	config, err := img.ConfigFile()
	if err != nil {
		return nil, err
	}
	config = config.DeepCopy()
	config.OS, config.Architecture = "linux", c.Arch
	if c.Arch == "" {
		config.Architecture = "amd64"
	}
	if c.Entrypoint == "" {
		c.Entrypoint = "/build.sh"
	}
	config.Config = v1.Config{
		Entrypoint: []string{c.Entrypoint},
		WorkingDir: "/",
		Labels:     c.Labels,
		Env: []string{
			"PATH=" + goroot() + "/bin:/usr/bin:/bin", "HOME=/root", "GOPATH=/go", "GOTOOLCHAIN=local",
			"GOFLAGS=-buildvcs=false", frugal,
			"GITHUB_TAG=v" + c.Version, "GITHUB_SHA=" + strings.Repeat("0", 40),
		},
	}
	if c.GoCache {
		// Where it cannot keep an index of modules, go build gives up (1.26).
		config.Config.Env = append(config.Config.Env, "GOCACHE="+goCache, "GODEBUG=goindex=0")
	}
	if c.Next {
		config.Config.Env = append(config.Config.Env, "STUB_NEXT=1", "EDITION=ce")
	}
	if len(c.Script) > 0 {
		config.Config.Env = append(config.Config.Env, "STUB_SCRIPT="+strings.Join(c.Script, "\n"))
	}
	return mutate.ConfigFile(img, config)
}

// Save writes an image as `docker save` does.
func Save(w io.Writer, ref string, img v1.Image) error {
	tag, err := name.NewTag(ref)
	if err != nil {
		return err
	}
	return tarball.Write(tag, img, w)
}

// Loader is what Load needs of an engine.
type Loader interface {
	ImageLoad(context.Context, io.Reader, ...client.ImageLoadOption) (image.LoadResponse, error)
}

// Load puts an image into an engine under a name.
func Load(ctx context.Context, engine Loader, ref string, img v1.Image) error {
	r, w := io.Pipe()
	go func() { w.CloseWithError(Save(w, ref, img)) }()
	defer r.Close()
	res, err := engine.ImageLoad(ctx, r)
	if err != nil {
		return fmt.Errorf("load %s: %w", ref, err)
	}
	defer res.Body.Close()
	answer, err := io.ReadAll(res.Body)
	if err == nil && bytes.Contains(answer, []byte(`"error"`)) {
		err = fmt.Errorf("%s", answer)
	}
	return err
}

// Mounts returns the directories of this machine that a container must see
// read-only at the same path: the Go toolchain, the C compiler and its
// libraries.
func Mounts() []string {
	// Not /usr as a whole: the image has files of its own in /usr/local.
	dirs := []string{"/usr/bin", "/usr/lib", "/usr/include", "/usr/libexec", "/usr/lib64", "/bin",
		"/lib", "/lib64", goroot()}
	return slices.DeleteFunc(dirs, func(dir string) bool {
		info, err := os.Stat(dir)
		return err != nil || !info.IsDir()
	})
}

const goCache = "/gocache"

// GoCacheMount is what a container of an image with Config.GoCache needs besides
// Mounts. A build of this machine ([Local]) leaves Go's library there as plugins
// need it. The container compiles what is missing, and cannot keep it.
func GoCacheMount() (string, error) {
	cmd := exec.Command("go", "env", "GOCACHE")
	cmd.Env = lab.GoEnv()
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("go env GOCACHE: %w", err)
	}
	return strings.TrimSpace(string(out)) + ":" + goCache, nil
}

var goroot = sync.OnceValue(func() string {
	cmd := exec.Command("go", "env", "GOROOT")
	cmd.Env = lab.GoEnv()
	out, err := cmd.Output()
	if err != nil {
		return "/usr/local/go"
	}
	return strings.TrimSpace(string(out))
})

var entryPoint = sync.OnceValues(func() ([]byte, error) {
	// Untrimmed: most of the standard library is then in the build cache already.
	return goBuild(context.Background(), "", []string{"CGO_ENABLED=0"}, "-ldflags=-s -w",
		"example.com/tykupgrade/internal/lab/compiler/stub")
})

var gateway = sync.OnceValues(func() ([]byte, error) { return buildGateway(context.Background()) })

// buildGateway links the gateway with Go's library as plugins have it, trimmed and with cgo. Another
// build mode would compile the library once more, which takes 20 s of CPU. So the go command is told
// that it builds a plugin, and the linker that it links a program. Code for plugins is
// position-independent, and so is the program.
func buildGateway(ctx context.Context, env ...string) ([]byte, error) {
	dir, err := os.MkdirTemp("", "stub-gateway-*")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	module, program := filepath.Join(dir, "tyk"), filepath.Join(dir, "main")
	if err := writeGateway(module); err != nil {
		return nil, err
	}
	work := filepath.Join(dir, "go.work")
	if err := errors.Join(os.Mkdir(program, 0o755), os.Rename(filepath.Join(module, "main.go"),
		filepath.Join(program, "main.go")),
		// The go command compiles a plugin's package main under the name of its module.
		os.WriteFile(filepath.Join(program, "go.mod"), []byte("module main\n\ngo 1.21\n"), 0o644),
		os.WriteFile(work, []byte("go 1.21\n\nuse ./tyk\nuse ./main\n"), 0o644)); err != nil {
		return nil, err
	}
	var out []byte
	err = lab.Fill(ctx, "plugin -trimpath", func() (err error) {
		out, err = goBuild(ctx, program, append([]string{"CGO_ENABLED=1", "GOWORK=" + work}, env...),
			"-trimpath", "-tags=goplugin", "-buildmode=plugin", NoDebug+" -buildmode=pie -pluginpath=", ".")
		return err
	})
	return out, err
}

const (
	// frugal saves the Go compiler a sixth of its work.
	frugal = "GOGC=400"
	// NoDebug saves half of a link: what debuggers read, and preflight the types of functions. The
	// other flags save the linker two runs of gcc, which ask whether gcc knows such flags.
	NoDebug = "-ldflags=-w -compressdwarf=false -B=none"
)

func goBuild(ctx context.Context, dir string, env []string, args ...string) ([]byte,
	error) {
	tmp, err := os.MkdirTemp("", "stub-build-*")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(tmp)
	out := filepath.Join(tmp, "out")
	if err := exe.Build(ctx, dir, out,
		lab.GoEnv(append([]string{frugal}, env...)...),
		append([]string{"-buildvcs=false"}, args...)...); err != nil {
		return nil, fmt.Errorf("build a part of the stub compiler: %w", err)
	}
	return os.ReadFile(out)
}

// shared are the layers that all images have, by Config.Gateway. An engine that has one unpacks no
// other, and their digests are computed once: under the race detector that is most of a test's work.
var shared = map[bool]func() (v1.Layer, error){
	false: sync.OnceValues(func() (v1.Layer, error) { return sharedLayer(false) }),
	true:  sync.OnceValues(func() (v1.Layer, error) { return sharedLayer(true) }),
}

func sharedLayer(withGateway bool) (v1.Layer, error) {
	entry, err := entryPoint()
	if err != nil {
		return nil, err
	}
	return base(withGateway, map[string][]byte{"build.sh": entry})
}

// base is the layer with the files of the entry point, the gateway's module and the gateway.
func base(withGateway bool, files map[string][]byte) (v1.Layer, error) {
	source, err := gatewayFiles()
	if err != nil {
		return nil, err
	}
	for name, data := range source {
		files[gatewayDir+"/"+name] = data
	}
	if withGateway {
		if files["usr/local/bin/tyk"], err = gateway(); err != nil {
			return nil, err
		}
	}
	return layerOf(files)
}

// layerOf makes a layer that is not compressed.
func layerOf(files map[string][]byte) (v1.Layer, error) {
	var buf bytes.Buffer
	size := 0
	for _, data := range files {
		size += len(data) + 4<<10
	}
	buf.Grow(size)
	w := tar.NewWriter(&buf)
	dirs := map[string]bool{"/": true, ".": true}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		var parents []string
		for dir := path.Dir(name); !dirs[dir]; dir = path.Dir(dir) {
			dirs[dir] = true
			parents = append(parents, dir)
		}
		for _, dir := range slices.Backward(parents) {
			if err := w.WriteHeader(&tar.Header{Name: dir + "/", Typeflag: tar.TypeDir,
				Mode: 0o755}); err != nil {
				return nil, err
			}
		}
		if err := w.WriteHeader(&tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o755,
			Size: int64(len(files[name]))}); err != nil {
			return nil, err
		}
		if _, err := w.Write(files[name]); err != nil {
			return nil, err
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return static.NewLayer(buf.Bytes(), types.DockerUncompressedLayer), nil
}
