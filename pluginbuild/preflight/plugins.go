package preflight

import (
	"context"
	"fmt"
	"io"
	"os"
)

// InspectPlugins inspects plugins that are files of their own or members of bundles, as zips. The
// result has the order of paths. For each bundle members says which of its files count, by its
// content; with none, or if members is nil, these are all that end in .so. The calls of members come
// one after the other.
//
// Files of their own are inspected as [InspectAll] does, those of a bundle as [InspectZip] does. A
// pipe is refused. Errors are of type [*Error] or those of members. When ctx ends, no further file
// is begun.
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

// inspectBundle returns nothing for a file that is not a zip. [Inspect] reports a file that cannot
// be opened.
func inspectBundle(path string,
	members func(r io.ReaderAt, size int64) ([]string, error)) ([]*Binary, error) {
	if info, err := os.Stat(path); err != nil {
		return nil, nil
	} else if !info.Mode().IsRegular() { // to open a pipe would wait for its writer
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
