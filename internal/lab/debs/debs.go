// Package debs builds small Debian packages, a signed repository of them, and
// a private root in which the real apt and dpkg install them without root. The
// packages of [Tyk] behave like the published ones where an upgrade can tell:
// one conffile, sample files that are overwritten silently, a unit, and
// maintainer scripts that restart the service and hide its failure.
package debs

import (
	"bytes"
	"crypto/md5"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
)

// File is one file of a package.
type File struct {
	Content string
	Source  string // path of a file to copy instead of Content
	Mode    os.FileMode
}

// Package is what [Package.Build] turns into a .deb.
type Package struct {
	Name, Version string
	Arch          string   // empty: that of this machine
	Fields        []string // further control fields, such as "Depends: x"
	Files         map[string]File
	Conffiles     []string // which of Files are conffiles
	Leaving       []string // conffiles of earlier versions, declared remove-on-upgrade
	// preinst, postinst, prerm, postrm: shell text without the first line
	Scripts map[string]string
}

// built holds packages that this process built before, by their content: many
// tests begin with the same ones.
var built sync.Map

// Build writes dir/NAME_VERSION_ARCH.deb and returns its path.
func (p Package) Build(dir string) (string, error) {
	if p.Arch == "" {
		p.Arch = Arch()
	}
	deb := filepath.Join(dir, p.Name+"_"+strings.ReplaceAll(p.Version, ":", "%3a")+"_"+p.Arch+".deb")
	large := slices.ContainsFunc(slices.Collect(maps.Values(p.Files)),
		func(f File) bool { return f.Source != "" || len(f.Content) > 1<<16 })
	content := ""
	if !large {
		content = fmt.Sprintf("%#v", p) // fmt prints maps in order
		if data, ok := built.Load(content); ok {
			return deb, os.WriteFile(deb, data.([]byte), 0o644)
		}
	}
	tree, err := os.MkdirTemp(dir, ".tree-")
	if err != nil {
		return "", err
	}
	defer func() { _ = os.RemoveAll(tree) }()
	if err := p.write(tree); err != nil {
		return "", fmt.Errorf("build %s %s: %w", p.Name, p.Version, err)
	}
	// gzip: the oldest dpkg on any supported host reads it.
	if _, err := command("dpkg-deb", "--root-owner-group", "-Zgzip", "-z1", "--build", tree,
		deb); err != nil {
		return "", err
	}
	if large {
		return deb, nil
	}
	data, err := os.ReadFile(deb)
	if err != nil {
		return "", err
	}
	built.Store(content, data)
	return deb, nil
}

func (p Package) write(tree string) error {
	if err := os.Chmod(tree, 0o755); err != nil {
		return err
	}
	control := filepath.Join(tree, "DEBIAN")
	if err := os.Mkdir(control, 0o755); err != nil {
		return err
	}
	var sums, conffiles bytes.Buffer
	var size int
	paths := make([]string, 0, len(p.Files))
	for path := range p.Files {
		paths = append(paths, path)
	}
	slices.Sort(paths)
	for _, path := range paths {
		f := p.Files[path]
		data := []byte(f.Content)
		if f.Source != "" {
			var err error
			if data, err = os.ReadFile(f.Source); err != nil {
				return err
			}
		}
		if f.Mode == 0 {
			f.Mode = 0o644
		}
		full := filepath.Join(tree, path)
		if err := os.MkdirAll(filepath.Dir(full), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(full, data, f.Mode); err != nil {
			return err
		}
		if err := os.Chmod(full, f.Mode); err != nil {
			return err
		}
		size += len(data)
		if slices.Contains(p.Conffiles, path) {
			fmt.Fprintln(&conffiles, path)
		} else {
			fmt.Fprintf(&sums, "%x  %s\n", md5.Sum(data), strings.TrimPrefix(path, "/"))
		}
	}
	for _, path := range p.Leaving {
		fmt.Fprintln(&conffiles, "remove-on-upgrade "+path)
	}
	var c bytes.Buffer
	fmt.Fprintf(&c, "Package: %s\nVersion: %s\nArchitecture: %s\nMaintainer: Lab <lab@example.com>\n",
		p.Name, p.Version, p.Arch)
	if !slices.ContainsFunc(p.Fields, func(f string) bool {
		return strings.HasPrefix(f,
			"Installed-Size:")
	}) {
		fmt.Fprintf(&c, "Installed-Size: %d\n", size/1024+1)
	}
	for _, f := range p.Fields {
		fmt.Fprintln(&c, f)
	}
	fmt.Fprintf(&c, "Description: stub for %s\n", p.Name)
	for name, data := range map[string][]byte{"control": c.Bytes(), "md5sums": sums.Bytes(),
		"conffiles": conffiles.Bytes()} {
		if len(data) == 0 {
			continue
		}
		if err := os.WriteFile(filepath.Join(control, name), data, 0o644); err != nil {
			return err
		}
	}
	for name, text := range p.Scripts {
		if err := os.WriteFile(filepath.Join(control, name), []byte("#!/bin/sh\n"+text),
			0o755); err != nil {
			return err
		}
	}
	return nil
}

// Arch is dpkg's name of this machine's architecture, or amd64 where there is
// no dpkg to ask.
var Arch = sync.OnceValue(func() string {
	out, err := command("dpkg", "--print-architecture")
	if err != nil {
		return "amd64"
	}
	return strings.TrimSpace(string(out))
})

func command(argv ...string) ([]byte, error) {
	return commandIn("", nil, argv...)
}

func commandIn(dir string, env []string, argv ...string) ([]byte, error) {
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Dir = dir
	cmd.Env = append(append(os.Environ(), "LC_ALL=C"), env...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("%s: %w: %s%s", strings.Join(argv, " "), err, stderr.String(), out)
	}
	return out, nil
}
