package preflight

import (
	"context"
	"fmt"
	"io"
	"os"
)

// InspectPlugins inspects plugin files and the plugins in bundles (zips). The result has the order
// of paths. For each bundle, members returns the names of its plugins. If members is nil or returns
// none, these are all files that end in .so. InspectPlugins calls members one at a time.
//
// It inspects files as [InspectAll] does, and bundles as [InspectZip] does. It refuses pipes.
// Errors are of type [*Error], or those of members. After the end of ctx it starts no further
// file.
func InspectPlugins(ctx context.Context, members func(r io.ReaderAt, size int64) ([]string, error),
	paths ...string) ([]*Binary, error) {
	bundled := make([][]*Binary, len(paths))
	var alone []string
	for i, path := range paths {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		found, err := inspectBundle(path, members)
		if err != nil {
			return nil, err
		}
		if bundled[i] = found; found == nil {
			alone = append(alone, path)
		}
	}
	files, err := InspectAll(ctx, alone...)
	if err != nil {
		return nil, err
	}
	var all []*Binary
	for _, found := range bundled {
		if found == nil {
			found, files = files[:1], files[1:]
		}
		all = append(all, found...)
	}
	return all, nil
}

// inspectBundle returns nil for a file that is not a zip or cannot be opened. [Inspect] reports the
// latter.
func inspectBundle(path string,
	members func(r io.ReaderAt, size int64) ([]string, error)) ([]*Binary, error) {
	if info, err := os.Stat(path); err != nil {
		return nil, nil
	} else if !info.Mode().IsRegular() { // opening a pipe would wait for its writer
		return nil, fail("inspect", path, fmt.Errorf("%w: it is not a regular file", ErrNotELF))
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, nil
	}
	defer func() { _ = f.Close() }()
	head := make([]byte, 4)
	if _, err := f.ReadAt(head, 0); err != nil || string(head) != "PK\x03\x04" {
		return nil, nil
	}
	info, err := f.Stat()
	if err != nil {
		return nil, fail("inspect", path, bare(err))
	}
	var names []string
	if members != nil {
		if names, err = members(f, info.Size()); err != nil {
			return nil, err
		}
	}
	return InspectZip(f, info.Size(), names...)
}
