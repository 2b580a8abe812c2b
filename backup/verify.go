package backup

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"example.com/tykupgrade/internal/atomicfile"
)

// Level is how deep a verification looks; each level includes those before it.
type Level int

// The levels.
const (
	LevelFiles     Level = 1 + iota // sizes and digests, nothing missing, nothing unexpected
	LevelStructure                  // each component can be read from end to end and holds what the manifest says
	LevelLive                       // each component equals a live system, or one that it was restored to
)

func (l Level) String() string {
	switch l {
	case LevelFiles:
		return "files"
	case LevelStructure:
		return "structure"
	case LevelLive:
		return "live"
	}
	return fmt.Sprintf("Level(%d)", int(l))
}

// VerifyOptions changes how a set is verified. The zero value is useful.
type VerifyOptions struct {
	Level    Level       // 0: LevelStructure
	Against  []Prover    // for LevelLive: what each component is compared with
	Progress func(Event) // called for one event at a time
}

// Verify reads the whole set and returns every finding, joined. Findings match
// [ErrDamaged], or [ErrDiffers] where a live system is not as the set. Nothing
// is changed.
func (s *Set) Verify(ctx context.Context, o VerifyOptions) error {
	return withEnd(ctx, s.verify(ctx, o))
}

func (s *Set) verify(ctx context.Context, o VerifyOptions) error {
	if o.Level == 0 {
		o.Level = LevelStructure
	}
	if o.Level < LevelFiles || o.Level > LevelLive {
		return fail("verify", s.Dir, fmt.Errorf("there is no level %d", o.Level))
	}
	provers := map[string]Prover{}
	for _, p := range o.Against {
		provers[p.Name()] = p
	}
	if o.Level == LevelLive {
		if err := s.checkProvers(provers); err != nil {
			return fail("verify", s.Dir, err)
		}
	}
	progress := serial(o.Progress)
	if err := s.verifyFiles(ctx, progress); err != nil {
		return err
	}
	if o.Level == LevelFiles {
		return nil
	}
	var findings []error
	for _, c := range s.Components {
		if err := s.verifyStructure(ctx, c.Name); err != nil {
			findings = append(findings, err)
		}
	}
	if len(findings) > 0 || o.Level == LevelStructure {
		return errors.Join(findings...)
	}
	for _, c := range s.Components {
		if err := s.prove(ctx, provers[c.Name], progress); err != nil {
			findings = append(findings, err)
		}
	}
	return errors.Join(findings...)
}

func (s *Set) checkProvers(provers map[string]Prover) error {
	for _, c := range s.Components {
		if provers[c.Name] == nil {
			return fmt.Errorf("level live needs something to compare component %q with", c.Name)
		}
	}
	for name := range provers {
		if _, ok := s.Component(name); !ok {
			return fmt.Errorf("the set has no component %q", name)
		}
	}
	return nil
}

func (s *Set) prove(ctx context.Context, p Prover, progress func(Event)) error {
	st, _ := s.Component(p.Name())
	e := Event{Component: st.Name, Phase: PhaseProve, TotalItems: st.Items}
	progress(e)
	if err := p.Prove(ctx, st); err != nil {
		return fail("prove", st.Name, err)
	}
	e.Items, e.Done = st.Items, true
	progress(e)
	return nil
}

func (s *Set) verifyStructure(ctx context.Context, name string) error {
	if err := ended(ctx); err != nil {
		return fail("verify", name, err)
	}
	st, _ := s.Component(name)
	if st.Kind == "" {
		return nil
	}
	check, ok := structures[st.Kind]
	if !ok {
		return &Error{Op: "verify", Object: name, Err: fmt.Errorf("the kind %q is not known to this program", st.Kind),
			Next: "use the version that took the set: " + s.Tool}
	}
	if err := check(ctx, st); err != nil {
		return fail("verify", name, damaged(err))
	}
	return nil
}

// damaged marks a finding, and leaves alone what is no finding: the end of ctx
// and errors of the system that reads.
func damaged(err error) error {
	var errno syscall.Errno
	if errors.Is(err, ErrDamaged) || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) || errors.As(err, &errno) {
		return err
	}
	return fmt.Errorf("%w: %w", ErrDamaged, err)
}

func (s *Set) verifyFiles(ctx context.Context, progress func(Event)) error {
	findings, err := s.unexpected()
	if err != nil {
		return fail("verify", s.Dir, err)
	}
	done, total := map[string]int64{}, map[string]int64{}
	for _, c := range s.Components {
		total[c.Name] = c.Bytes
	}
	for _, f := range s.Files {
		if f.Link != "" {
			continue
		}
		c := s.owner(f.Path)
		err := checkFile(ctx, filepath.Join(s.Dir, filepath.FromSlash(f.Path)), f, func(n int64) {
			done[c] += n
			progress(Event{Component: c, Phase: PhaseVerify, Item: f.Path, Bytes: done[c], TotalBytes: total[c]})
		})
		if e := ended(ctx); e != nil {
			return fail("verify", s.Dir, e)
		}
		if err != nil {
			findings = append(findings, fail("verify", f.Path, err))
		}
	}
	if len(findings) == 0 {
		for _, c := range s.Components {
			progress(Event{Component: c.Name, Phase: PhaseVerify, Bytes: c.Bytes, TotalBytes: c.Bytes, Done: true})
		}
	}
	return errors.Join(findings...)
}

func (s *Set) owner(path string) string {
	for _, c := range s.Components {
		if strings.HasPrefix(path, c.Name+"/") {
			return c.Name
		}
	}
	return ""
}

// unexpected lists what is in the directory without being in the manifest. A
// directory is expected when it leads to a file or belongs to a component.
func (s *Set) unexpected() (findings []error, err error) {
	expected := map[string]bool{manifestName: true, checksumName: true}
	dirs := map[string]bool{".": true}
	add := func(p string) {
		for ; p != "."; p = filepath.Dir(p) {
			dirs[p] = true
		}
	}
	for _, c := range s.Components {
		add(c.Name)
	}
	for _, f := range s.Files {
		if f.Link == "" {
			expected[f.Path] = true
			add(filepath.Dir(f.Path))
		}
	}
	err = filepath.WalkDir(s.Dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(s.Dir, p)
		if err != nil {
			return err
		}
		switch {
		case d.IsDir() && dirs[rel]:
			return nil
		case d.IsDir():
			findings = append(findings, fail("verify", rel, fmt.Errorf("%w: unexpected directory", ErrDamaged)))
			return fs.SkipDir
		case !expected[rel]:
			findings = append(findings, fail("verify", rel, fmt.Errorf("%w: unexpected file", ErrDamaged)))
		}
		return nil
	})
	return findings, err
}

func checkFile(ctx context.Context, path string, want File, progress func(int64)) error {
	f, err := openRegular(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("%w: the file is missing", ErrDamaged)
	case errors.Is(err, atomicfile.ErrNotRegular):
		return fmt.Errorf("%w: %w", ErrDamaged, err)
	case err != nil:
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if info.Size() != want.Size {
		return fmt.Errorf("%w: it has %d bytes, the manifest says %d", ErrDamaged, info.Size(), want.Size)
	}
	h := sha256.New()
	n, err := io.Copy(h, &readMeter{ctx: ctx, r: f, add: progress})
	if err != nil {
		return err
	}
	if got := hex.EncodeToString(h.Sum(nil)); n != want.Size || got != want.SHA256 {
		return fmt.Errorf("%w: its SHA-256 is %s, the manifest says %s", ErrDamaged, got, want.SHA256)
	}
	return nil
}

// readMeter counts what is read and stops when ctx ends.
type readMeter struct {
	ctx context.Context
	r   io.Reader
	add func(int64)
}

func (m *readMeter) Read(p []byte) (int, error) {
	if err := ended(m.ctx); err != nil {
		return 0, err
	}
	n, err := m.r.Read(p)
	if m.add != nil && n > 0 {
		m.add(int64(n))
	}
	return n, err
}

// openRegular opens a regular file for reading and never follows a link in the
// last element, nor waits for the writer of a pipe.
func openRegular(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if errors.Is(err, syscall.ELOOP) {
		return nil, fmt.Errorf("%s: a symbolic link %w", path, atomicfile.ErrNotRegular)
	}
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s: %s %w", path, info.Mode().Type(), atomicfile.ErrNotRegular)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// names of the components, for messages.
func (s *Set) names() string {
	var names []string
	for _, c := range s.Components {
		names = append(names, c.Name)
	}
	slices.Sort(names)
	return strings.Join(names, ", ")
}
