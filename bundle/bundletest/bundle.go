package bundletest

import (
	"bytes"
	"io/fs"
	"slices"
	"testing/fstest"

	"example.com/tykupgrade/bundle"
)

// Files holds shared objects by file name. [Files.FS] is a source for bundle.Write.
type Files map[string]Plugin

// FS returns the files as a file system in memory.
func (f Files) FS() fs.FS {
	m := fstest.MapFS{}
	for name, p := range f {
		m[name] = &fstest.MapFile{Data: p.Bytes(), Mode: 0o644}
	}
	return m
}

// Manifest returns a manifest of all files with one post hook. The hook has the path hook and calls
// the function AddFooBarHeader.
func (f Files) Manifest(hook string) *bundle.Manifest {
	m := &bundle.Manifest{Middleware: bundle.Middleware{Driver: "goplugin", Post: []bundle.Hook{
		{Name: "AddFooBarHeader", Path: hook}}}}
	for name := range f {
		m.FileList = append(m.FileList, name)
	}
	slices.Sort(m.FileList)
	return m
}

// Zip returns the bundle that bundle.Write makes of the files and [Files.Manifest].
func (f Files) Zip(hook string, o bundle.Options) ([]byte, error) {
	var b bytes.Buffer
	_, err := bundle.Write(&b, f.FS(), f.Manifest(hook), o)
	return b.Bytes(), err
}
