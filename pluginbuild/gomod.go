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

// maxGoMod bounds the go.mod that is read. The gateway's own is 30 kB.
const maxGoMod = 1 << 20

var errNoGoMod = fmt.Errorf("there is no go.mod: %w", fs.ErrNotExist)

// readModuleFile returns a module's go.mod.
func readModuleFile(src fs.FS) ([]byte, error) {
	data, err := readRegular(src, "go.mod", maxGoMod)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, errNoGoMod
	}
	return data, err
}

// openRegular opens a file, but not a pipe or a device, which could block for
// ever.
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

// directive returns the go directive, "" when there is none.
func directive(f *modfile.File) string {
	if f.Go == nil {
		return ""
	}
	return f.Go.Version
}

// Go reads versions of three numbers, and toolchain lines, from 1.21 on; the
// go commands before that stop at them with a parse error.
const modernGo = "go1.21"

// goLimit is the newest Go version that the release's compiler is known to
// have. From 1.21 on the image is at least as new as the release's own go.mod
// asks for, and its patch level is not recorded anywhere else.
func (r Release) goLimit() string {
	limit, minor := "go"+r.Go, "go"+r.Compiler.Go
	if version.Compare(version.Lang(minor), version.Lang(limit)) > 0 {
		limit = minor
	}
	return limit
}

// accepts says whether the release's compiler takes a go directive.
func (r Release) accepts(goDirective string) bool {
	limit := r.goLimit()
	if version.Compare(limit, modernGo) < 0 && strings.Count(goDirective, ".") != 1 {
		return false
	}
	return goForm.MatchString(goDirective) && version.Compare("go"+goDirective, limit) <= 0
}
