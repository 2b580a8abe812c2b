package compiler

import (
	"archive/tar"
	"context"
	"debug/buildinfo"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/containerd/errdefs"

	"example.com/tykupgrade/internal/atomicfile"
	"example.com/tykupgrade/pluginbuild"
)

// Artifact is a compiled plugin.
type Artifact struct {
	Path    string `json:"path"`
	Size    int64  `json:"size"`
	SHA256  string `json:"sha256"`
	Release string `json:"release"`
	GOOS    string `json:"goos"`
	GOARCH  string `json:"goarch"`
	Image   string `json:"image"`    // reference
	ImageID string `json:"image_id"` // digest of the image's configuration
	// of the registry's manifest; empty for images from a file
	ImageDigest string `json:"image_digest,omitempty"`
	// from the file, such as "go1.19.13"; empty with Go 1.12
	GoVersion string `json:"go_version,omitempty"`
	// the plugin's; empty if it was built without modules
	ModulePath string `json:"module_path,omitempty"`
	// modules linked into the plugin, from the file
	Modules []ModuleVersion `json:"modules,omitempty"`
}

// ModuleVersion is one module in a plugin.
type ModuleVersion struct {
	Path    string `json:"path"`
	Version string `json:"version,omitempty"` // "(devel)" for modules of the compiler's workspace
	Replace string `json:"replace,omitempty"` // path@version of the replacement
}

// maxResult limits the size of a file from a container. The gateway itself has 545 MB with all
// its symbols (5.14.0).
const maxResult = 1 << 30

// machines are the processors that Tyk packages gateways for.
var machines = map[string]elf.Machine{"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64,
	"s390x": elf.EM_S390}

// collect copies the plugin out of the container. It takes only the file with the release's name
// for it, because the script also moves other .so files.
func (b *Builder) collect(ctx context.Context, id string, q *Request, img found) (Artifact, error) {
	name := q.output()
	object := filepath.Join(q.OutputDir, name)
	a := Artifact{
		Path: object, Release: q.Release.Version.String(), GOOS: q.GOOS, GOARCH: q.GOARCH,
		Image: img.ref, ImageID: img.id, ImageDigest: img.digest,
	}
	body, err := b.engine.get(ctx, id, "/"+sourceDir+"/"+name)
	if err != nil {
		e := fail(ctx, StageCollect, object, err)
		if errdefs.IsNotFound(err) {
			e.Next = "the compiler succeeded but wrote no file with this release's name: check that the " +
				"image is for this release"
		}
		return a, e
	}
	defer body.Close()
	var bad error // of the check, not of the disk
	sum, err := atomicfile.Write(ctx, object, atomicfile.Options{Mode: 0o644,
		Check: func(f *os.File) error {
			bad = inspect(f, &a, q.Release.Compiler.Mode == pluginbuild.Workspace)
			return bad
		}}, func(w io.Writer) error {
		t := tar.NewReader(body)
		h, err := t.Next()
		if err != nil {
			return fmt.Errorf("read the engine's answer: %w", err)
		}
		if h.Typeflag != tar.TypeReg {
			return fmt.Errorf("copy %s from the container: not a regular file", name)
		}
		if h.Size > maxResult {
			bad = fmt.Errorf("%w: %d bytes; a plugin has at most %d", ErrTooLarge, h.Size, maxResult)
			return bad
		}
		_, err = io.Copy(w, t)
		return err
	})
	if err != nil {
		e := fail(ctx, StageCollect, object, err)
		if bad != nil {
			e.Next = "use an image that works like the release's official compiler; the output directory " +
				"is unchanged"
		}
		return a, e
	}
	a.Size, a.SHA256 = sum.Size, sum.SHA256
	return a, nil
}

// inspect checks that f is a plugin for the requested architecture, and reads its build
// information.
func inspect(f io.ReaderAt, a *Artifact, modules bool) error {
	e, err := elf.NewFile(f)
	if err != nil {
		return fmt.Errorf("the compiler's result is not an ELF file: %w", err)
	}
	switch {
	case e.Type != elf.ET_DYN:
		return fmt.Errorf("the compiler's result is %s, not a shared object", e.Type)
	case e.Machine != machines[a.GOARCH]:
		return fmt.Errorf("the compiler's result is for %s, not for %s",
			strings.TrimPrefix(e.Machine.String(), "EM_"), a.GOARCH)
	}
	info, err := buildinfo.Read(f)
	if err != nil {
		// Without modules, Go 1.12 writes no build information.
		if modules {
			return fmt.Errorf("the compiler's result is not from Go: %w", err)
		}
		return nil
	}
	a.GoVersion, a.ModulePath = info.GoVersion, info.Main.Path
	for _, s := range info.Settings {
		if s.Key == "-buildmode" && s.Value != "plugin" {
			return errors.New("the compiler's result was built with -buildmode=" + s.Value +
				", not as a plugin")
		}
	}
	for _, m := range info.Deps {
		v := ModuleVersion{Path: m.Path, Version: m.Version}
		if m.Replace != nil {
			v.Replace = strings.TrimSuffix(m.Replace.Path+"@"+m.Replace.Version, "@")
		}
		a.Modules = append(a.Modules, v)
	}
	return nil
}
