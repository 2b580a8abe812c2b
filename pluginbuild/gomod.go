package pluginbuild

import (
	"errors"
	"fmt"
	"go/version"
	"io"
	"io/fs"
	"strings"

	"golang.org/x/mod/modfile"
)

// maxGoMod limits the size of a go.mod. The gateway's own has 30 kB.
const maxGoMod = 1 << 20

var errNoGoMod = fmt.Errorf("no go.mod: %w", fs.ErrNotExist)

// readModuleFile returns a module's go.mod.
func readModuleFile(src fs.FS) ([]byte, error) {
	data, err := readRegular(src, "go.mod", maxGoMod)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, errNoGoMod
	}
	return data, err
}

// openRegular opens a regular file. A pipe or a device could block for ever.
func openRegular(src fs.FS, name string) (fs.File, error) {
	info, err := fs.Stat(src, name)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a regular file", name)
	}
	return src.Open(name)
}

func readRegular(src fs.FS, name string, limit int64) ([]byte, error) {
	f, err := openRegular(src, name)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	if info, err := f.Stat(); err == nil && info.Size() > limit {
		return nil, tooLarge(limit)
	}
	return readBounded(f, limit)
}

// openGoMod reads a module's go.mod.
func openGoMod(src fs.FS) (*modfile.File, error) {
	data, err := readModuleFile(src)
	if err != nil {
		return nil, err
	}
	return modfile.Parse("go.mod", data, nil)
}

func readGoMod(r io.Reader) (*modfile.File, error) {
	data, err := readBounded(r, maxGoMod)
	if err != nil {
		return nil, err
	}
	return modfile.Parse("go.mod", data, nil)
}

// directive returns the go directive, or "".
func directive(f *modfile.File) string {
	if f.Go == nil {
		return ""
	}
	return f.Go.Version
}

// modernGo is the first Go that reads versions of three numbers and toolchain lines. Earlier go
// commands stop with a parse error.
const modernGo = "go1.21"

// goLimit returns the newest Go version that the release's compiler is known to have. From 1.21
// on the image is at least as new as the release's go.mod. Its patch level is not recorded
// anywhere else.
func (r Release) goLimit() string {
	limit, minor := "go"+r.Go, "go"+r.Compiler.Go
	if version.Compare(version.Lang(minor), version.Lang(limit)) > 0 {
		limit = minor
	}
	return limit
}

// accepts reports whether the release's compiler accepts a go directive.
func (r Release) accepts(goDirective string) bool {
	limit := r.goLimit()
	if version.Compare(limit, modernGo) < 0 && strings.Count(goDirective, ".") != 1 {
		return false
	}
	return goForm.MatchString(goDirective) && version.Compare("go"+goDirective, limit) <= 0
}
