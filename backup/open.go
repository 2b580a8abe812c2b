package backup

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"example.com/tykupgrade/backup/internal/step"
	"example.com/tykupgrade/internal/atomicfile"
)

// Set is a complete set on disk. It is read-only and may be used concurrently.
type Set struct {
	Manifest
	Dir string // absolute

	sum [sha256.Size]byte // of manifest.json
}

// maxManifest bounds how much of a manifest is read into memory.
const maxManifest = 256 << 20

// Open reads the manifest of the set in dir and checks it against its checksum. It does not read
// the other files, as [Set.Verify] does. The error matches [ErrNotASet] if dir is not a complete
// set, and [ErrDamaged] if the set is damaged.
func Open(dir string) (*Set, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return nil, step.Fail("open", dir, err)
	}
	// A link such as latest -> ID stands for the set that it leads to.
	if real, err := filepath.EvalSymlinks(abs); err == nil {
		abs = real
	}
	if strings.HasPrefix(filepath.Base(abs), ".") {
		return nil, &Error{Op: "open", Object: dir,
			Err: fmt.Errorf("%w: hidden directories are being built or removed", ErrNotASet)}
	}
	return open(abs)
}

func open(dir string) (*Set, error) {
	data, err := readBounded(filepath.Join(dir, step.ManifestName))
	var sums []byte
	if err == nil {
		sums, err = readBounded(filepath.Join(dir, step.ChecksumName))
	}
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, atomicfile.ErrNotRegular):
		return nil, &Error{Op: "open", Object: dir, Err: fmt.Errorf("%w: %w", ErrNotASet, err),
			Next: "name the directory of one set, not the one above it"}
	case err != nil:
		return nil, step.Fail("open", dir, err)
	}
	m, err := ParseManifest(data)
	if err == nil && !bytes.Equal(sums, m.checksums(data)) {
		err = fmt.Errorf("%w: %s does not belong to %s", ErrDamaged, step.ChecksumName, step.ManifestName)
	}
	if err != nil {
		return nil, step.Fail("open", dir, err)
	}
	return &Set{Manifest: *m, Dir: dir, sum: sha256.Sum256(data)}, nil
}

// List opens the sets below dir, newest first. It leaves out sets that cannot be opened, and its
// error names them. A directory without sets is not an error.
func List(dir string) ([]*Set, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, step.Fail("list", dir, err)
	}
	var sets []*Set
	var bad []error
	for _, e := range entries {
		if !idForm.MatchString(e.Name()) {
			continue
		}
		set, err := Open(filepath.Join(dir, e.Name()))
		if err != nil {
			bad = append(bad, err)
			continue
		}
		sets = append(sets, set)
	}
	slices.SortFunc(sets, func(a, b *Set) int {
		if c := b.Start.Compare(a.Start); c != 0 {
			return c
		}
		return strings.Compare(b.ID, a.ID)
	})
	return sets, errors.Join(bad...)
}

// Bytes returns the size of all files of the set, without the manifest.
func (s *Set) Bytes() int64 {
	var n int64
	for _, c := range s.Components {
		n += c.Bytes
	}
	return n
}

// Component returns one component for reading.
func (s *Set) Component(name string) (*Stored, bool) {
	for _, c := range s.Components {
		if c.Name != name {
			continue
		}
		st := &Stored{Component: c, Dir: filepath.Join(s.Dir, filepath.FromSlash(name))}
		for _, f := range s.Files {
			if rel, ok := strings.CutPrefix(f.Path, name+"/"); ok {
				f.Path = rel
				st.Files = append(st.Files, f)
			}
		}
		return st, true
	}
	return nil, false
}

// ParseManifest parses a manifest and checks that it is consistent.
func ParseManifest(data []byte) (*Manifest, error) {
	var m Manifest
	if err := json.Unmarshal(data, &m); err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrDamaged, step.ManifestName, err)
	}
	if m.Schema > Schema {
		return nil, fmt.Errorf("manifest schema %d is newer than this program's %d; use the version "+
			"that took the set (%s) or a newer one", m.Schema, Schema, m.Tool)
	}
	if err := m.check(); err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrDamaged, step.ManifestName, err)
	}
	return &m, nil
}

func (m *Manifest) check() error {
	if m.Schema < 1 {
		return fmt.Errorf("schema %d", m.Schema)
	}
	if !idForm.MatchString(m.ID) {
		return fmt.Errorf("id %q", m.ID)
	}
	var names []string
	for _, c := range m.Components {
		names = append(names, c.Name)
	}
	if err := checkComponents(names); err != nil {
		return err
	}
	last := ""
	for _, f := range m.Files {
		if err := checkName(f.Path); err != nil {
			return err
		}
		// Sorted means unique as well.
		if f.Path <= last {
			return fmt.Errorf("files are not in order at %q", f.Path)
		}
		last = f.Path
		if !slices.ContainsFunc(names, func(n string) bool { return strings.HasPrefix(f.Path, n+"/") }) {
			return fmt.Errorf("file %q belongs to no component", f.Path)
		}
		if _, err := f.Perm(); err != nil {
			return fmt.Errorf("file %q: %w", f.Path, err)
		}
		if f.Link != "" {
			if f.SHA256 != "" || f.Size != 0 {
				return fmt.Errorf("%q is a link with content", f.Path)
			}
			continue
		}
		if sum, err := hex.DecodeString(f.SHA256); err != nil || len(sum) != sha256.Size || f.Size < 0 {
			return fmt.Errorf("file %q: size %d, digest %q", f.Path, f.Size, f.SHA256)
		}
	}
	return nil
}

// write puts the manifest and then its checksum into dir.
func (m *Manifest) write(ctx context.Context, dir string) error {
	if err := m.check(); err != nil {
		return err
	}
	data, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return err
	}
	data = append(data, '\n')
	// The checksum covers what a restore will read back.
	again, err := ParseManifest(data)
	if err != nil {
		return err
	}
	if _, err := atomicfile.WriteBytes(ctx, filepath.Join(dir, step.ManifestName),
		atomicfile.Options{}, data); err != nil {
		return err
	}
	_, err = atomicfile.WriteBytes(ctx, filepath.Join(dir, step.ChecksumName), atomicfile.Options{},
		again.checksums(data))
	return err
}

// checksums returns the content of manifest.sha256. It lists the manifest and every file in the
// format of sha256sum, so that the set can be checked without this package.
func (m *Manifest) checksums(manifest []byte) []byte {
	var b bytes.Buffer
	sum := sha256.Sum256(manifest)
	fmt.Fprintf(&b, "%x  %s\n", sum, step.ManifestName)
	for _, f := range m.Files {
		if f.Link == "" {
			name := sumEscaper.Replace(f.Path)
			if name != f.Path {
				b.WriteByte('\\')
			}
			fmt.Fprintf(&b, "%s  %s\n", f.SHA256, name)
		}
	}
	return b.Bytes()
}

// sumEscaper escapes names as sha256sum (coreutils 9.1) does. Such a line begins with a backslash.
var sumEscaper = strings.NewReplacer(`\`, `\\`, "\n", `\n`, "\r", `\r`)

func readBounded(path string) ([]byte, error) {
	f, err := step.OpenRegular(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if info.Size() > maxManifest {
		return nil, fmt.Errorf("%s: %d bytes are too many for a manifest", path, info.Size())
	}
	data, err := io.ReadAll(io.LimitReader(f, maxManifest+1))
	if err == nil && len(data) > maxManifest {
		err = fmt.Errorf("%s: it has grown over the limit for a manifest", path)
	}
	return data, err
}
