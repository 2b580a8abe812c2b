package preflight

import (
	"archive/tar"
	"archive/zip"
	"bufio"
	"bytes"
	"cmp"
	"compress/flate"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
)

// maxSpool limits the size of an archive member in the temporary directory. Gateways of 2026 have
// 545 MB.
const maxSpool = 4 << 30

// GatewayFile is the path of the gateway's binary in its Debian packages and images.
const GatewayFile = "/opt/tyk-gateway/tyk"

// InspectFile inspects the binary at path, or the file member in a Debian package or a tar. An
// empty member means [GatewayFile] in a package, and the first regular file in a tar. The path may
// be a pipe. The end of ctx also ends a read that waits for it.
func InspectFile(ctx context.Context, path, member string) (*Binary, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fail("inspect", path, bare(err))
	}
	defer func() { _ = f.Close() }()
	stop := context.AfterFunc(ctx, func() { _ = f.Close() })
	defer stop()
	in := bufio.NewReader(f)
	head, _ := in.Peek(263) // a shorter file is not an archive
	var b *Binary
	switch {
	case bytes.HasPrefix(head, []byte("!<arch>\n")):
		b, err = InspectDeb(in, cmp.Or(member, GatewayFile))
	case len(head) == 263 && string(head[257:262]) == "ustar":
		b, err = InspectTar(in, member)
	case ctx.Err() == nil:
		return Inspect(path)
	}
	if ctx.Err() != nil {
		return nil, fail("inspect", path, context.Cause(ctx))
	}
	if e, ok := errors.AsType[*Error](err); ok {
		return nil, &Error{Op: "inspect", Object: path, Kind: e.Kind, Err: fmt.Errorf("%s %s: %w", e.Op,
			e.Object, e.Err), Next: e.Next, Retry: e.Retry}
	}
	return b, err
}

// InspectZip inspects members of a bundle, on all cores. Without members it inspects all files that
// end in .so. It copies each to a temporary file without a name, so even a kill leaves none. The
// result has the names of the members.
func InspectZip(r io.ReaderAt, size int64, members ...string) ([]*Binary, error) {
	const op, archive = "read", "bundle"
	z, err := zip.NewReader(r, size)
	if err != nil {
		return nil, fail(op, archive, damaged(err))
	}
	var files []*zip.File
	for _, f := range z.File {
		if f.FileInfo().IsDir() || len(members) == 0 && !strings.HasSuffix(f.Name, ".so") ||
			len(members) > 0 && !slices.Contains(members, f.Name) {
			continue
		}
		if f.UncompressedSize64 > maxSpool {
			return nil, fail(op, f.Name, malformed("uncompressed size of %d bytes", f.UncompressedSize64))
		}
		files = append(files, f)
	}
	for _, m := range members {
		if !slices.ContainsFunc(files, func(f *zip.File) bool { return f.Name == m }) {
			return nil, fail(op, archive, fmt.Errorf("%w: %s", ErrNoMember, m))
		}
	}
	if len(files) == 0 {
		return nil, fail(op, archive, fmt.Errorf("%w: none ends in .so", ErrNoMember))
	}
	found := make([]*Binary, len(files))
	err = each(context.Background(), len(files), func(i int) error {
		m, err := files[i].Open()
		if err != nil {
			return fail(op, files[i].Name, damaged(err))
		}
		defer func() { _ = m.Close() }()
		found[i], err = spool(m, files[i].Name)
		return err
	})
	if err != nil {
		return nil, err
	}
	return found, nil
}

// InspectTar inspects one member of a tar, such as the output of docker cp or dpkg-deb
// --fsys-tarfile. An empty member means the first regular file. It reads up to the end of that
// member, and copies it as [InspectZip] does.
func InspectTar(r io.Reader, member string) (*Binary, error) {
	const op = "read tar"
	want := clean(member)
	for t := tar.NewReader(r); ; {
		h, err := t.Next()
		switch {
		case errors.Is(err, io.EOF):
			return nil, fail(op, member, ErrNoMember)
		case err != nil:
			return nil, fail(op, member, damaged(err))
		case member != "" && clean(h.Name) != want:
			continue
		case h.Typeflag == tar.TypeReg:
			return spool(t, h.Name)
		case member != "" && h.Linkname != "":
			return nil, fail(op, member, fmt.Errorf("%w: it is a link; name %s", ErrNoMember, h.Linkname))
		case member != "":
			return nil, fail(op, member, fmt.Errorf("%w: it is not a regular file", ErrNoMember))
		}
	}
}

// clean makes "./opt/tyk" and "/opt/tyk" the same.
func clean(name string) string { return path.Clean("/" + name) }

// InspectDeb inspects one file of a Debian package, such as [GatewayFile]. The package's data must
// be a plain tar or, as in Tyk's packages, compressed with gzip. For others pass the output of
// dpkg-deb --fsys-tarfile to [InspectTar].
func InspectDeb(r io.Reader, member string) (*Binary, error) {
	const op, archive = "read", "Debian package"
	in := bufio.NewReader(r)
	magic := make([]byte, 8)
	if _, err := io.ReadFull(in, magic); err != nil && !errors.Is(err, io.EOF) {
		return nil, fail(op, archive, damaged(err))
	} else if string(magic) != "!<arch>\n" {
		return nil, fail(op, archive, malformed("not a Debian package"))
	}
	for {
		// Name, time, owner, group, mode, size: see ar(5).
		h := make([]byte, 60)
		if _, err := io.ReadFull(in, h); errors.Is(err, io.EOF) {
			return nil, fail(op, archive, malformed("it has no data member"))
		} else if err != nil {
			return nil, fail(op, archive, damaged(err))
		}
		name := strings.TrimSuffix(strings.TrimSpace(string(h[:16])), "/")
		size, err := strconv.ParseInt(strings.TrimSpace(string(h[48:58])), 10, 64)
		if err != nil || size < 0 || string(h[58:]) != "`\n" {
			return nil, fail(op, archive, malformed("member %q has a damaged header", name))
		}
		data := io.LimitReader(in, size)
		switch {
		case name == "data.tar":
			return InspectTar(data, member)
		case name == "data.tar.gz":
			z, err := gzip.NewReader(data)
			if err != nil {
				return nil, fail(op, archive, damaged(err))
			}
			return InspectTar(z, member)
		case strings.HasPrefix(name, "data.tar"):
			return nil, fail(op, archive, fmt.Errorf("%w: %s", ErrCompression, name))
		}
		// Members begin at even offsets.
		if _, err := io.CopyN(io.Discard, in, size+size%2); err != nil {
			return nil, fail(op, archive, damaged(err))
		}
	}
}

// spool copies a stream to a file without a name, because inspecting needs to seek.
func spool(r io.Reader, name string) (*Binary, error) {
	f, err := os.CreateTemp("", "preflight-*")
	if err != nil {
		return nil, fail("inspect", name, err)
	}
	defer func() { _ = f.Close() }()
	// Remove the open file, so that even a kill does not leave it.
	if err := os.Remove(f.Name()); err != nil {
		return nil, fail("inspect", name, err)
	}
	n, err := io.Copy(f, io.LimitReader(r, maxSpool+1))
	switch {
	case err != nil && isWrite(err):
		return nil, fail("inspect", name, fmt.Errorf("copy to %s: %w", os.TempDir(), bare(err)))
	case err != nil:
		return nil, fail("inspect", name, damaged(err))
	case n > maxSpool:
		return nil, fail("inspect", name, malformed("it is larger than %d GiB", maxSpool>>30))
	}
	return InspectReaderAt(f, n, name)
}

// isWrite reports whether an error is of our copy, not of the archive.
func isWrite(err error) bool {
	e, ok := errors.AsType[*os.PathError](err)
	return ok && e.Op == "write"
}

// damaged marks errors about an archive's content. Others, such as of a connection, stay unchanged.
func damaged(err error) error {
	for _, of := range []error{tar.ErrHeader, zip.ErrFormat, zip.ErrChecksum, zip.ErrAlgorithm,
		gzip.ErrHeader, gzip.ErrChecksum, io.EOF, io.ErrUnexpectedEOF} {
		if errors.Is(err, of) {
			return fmt.Errorf("%w: %w", ErrMalformed, err)
		}
	}
	if _, ok := errors.AsType[flate.CorruptInputError](err); ok {
		return fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	return err
}
