package backup

import (
	"context"
	"crypto"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"example.com/tykupgrade/backup/internal/step"
	"example.com/tykupgrade/internal/atomicfile"
)

// Level is the depth of a verification. Each level includes those before it.
type Level int

// The levels.
const (
	LevelFiles Level = 1 + iota // sizes and digests, nothing missing, nothing unexpected
	// each component can be read completely and matches the manifest
	LevelStructure
	// each component equals a live system, or a scratch one that it was restored to
	LevelLive
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
	Against  []Prover    // for LevelLive: one for each component
	Progress func(Event) // called for one event at a time

	// RequireSignature refuses a set that none of these keys signed: see
	// [Set.VerifySignature]. Empty: sets need no signature.
	RequireSignature []crypto.PublicKey
}

// Verify reads the whole set and returns all findings, joined. It changes nothing. Findings match
// [ErrDamaged], or [ErrDiffers] if a live system differs from the set. Without a required
// signature, the only finding matches [ErrUnsafe].
func (s *Set) Verify(ctx context.Context, o VerifyOptions) error {
	if len(o.RequireSignature) > 0 {
		if err := s.VerifySignature(o.RequireSignature...); err != nil {
			return err
		}
	}
	return step.WithEnd(ctx, s.verify(ctx, o, nil))
}

// verify skips the structure of the components in later, whose restorers check it.
func (s *Set) verify(ctx context.Context, o VerifyOptions, later map[string]bool) error {
	if o.Level == 0 {
		o.Level = LevelStructure
	}
	if o.Level < LevelFiles || o.Level > LevelLive {
		return step.Fail("verify", s.Dir, fmt.Errorf("unknown level %d", o.Level))
	}
	provers := map[string]Prover{}
	for _, p := range o.Against {
		provers[p.Name()] = p
	}
	if o.Level == LevelLive {
		if err := s.checkProvers(provers); err != nil {
			return step.Fail("verify", s.Dir, err)
		}
	}
	progress := step.Serial(o.Progress)
	var findings []error
	// Both levels read concurrently, because the second reader finds in memory what the first
	// has read.
	readers := int(min(o.Level, LevelStructure))
	err := step.Together(ctx, readers, func(ctx context.Context, i int) error {
		if i == 0 {
			return s.verifyFiles(ctx, progress)
		}
		for _, c := range s.Components {
			if later[c.Name] {
				continue
			}
			if err := s.verifyStructure(ctx, c.Name); err != nil {
				findings = append(findings, err)
			}
		}
		return nil
	})
	if err != nil || o.Level == LevelFiles {
		return err // damaged files explain the other findings
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
			return fmt.Errorf("level live needs a Prover for component %q", c.Name)
		}
	}
	for name := range provers {
		if _, ok := s.Component(name); !ok {
			return fmt.Errorf("unknown component %q", name)
		}
	}
	return nil
}

func (s *Set) prove(ctx context.Context, p Prover, progress func(Event)) error {
	st, _ := s.Component(p.Name())
	e := Event{Component: st.Name, Phase: PhaseProve, TotalItems: st.Items}
	progress(e)
	if err := p.Prove(ctx, st); err != nil {
		return step.Fail("compare", st.Name, err)
	}
	e.Items, e.Done = st.Items, true
	progress(e)
	return nil
}

func (s *Set) verifyStructure(ctx context.Context, name string) error {
	if err := step.Ended(ctx); err != nil {
		return step.Fail("verify", name, err)
	}
	st, _ := s.Component(name)
	if st.Kind == "" {
		return nil
	}
	check, err := structure(st.Kind)
	if err != nil {
		return step.Fail("verify", name, err)
	}
	if err := check(ctx, st); err != nil {
		return step.Fail("verify", name, step.Damaged(err))
	}
	return nil
}

func (s *Set) verifyFiles(ctx context.Context, progress func(Event)) error {
	findings, err := s.unexpected()
	if err != nil {
		return step.Fail("verify", s.Dir, err)
	}
	if _, err := s.signedBy(); err != nil && !errors.Is(err, fs.ErrNotExist) {
		findings = append(findings, step.Fail("verify", signatureName, err))
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
			progress(Event{Component: c, Phase: PhaseVerify, Item: f.Path, Bytes: done[c],
				TotalBytes: total[c]})
		})
		if e := step.Ended(ctx); e != nil {
			return step.Fail("verify", s.Dir, e)
		}
		if err != nil {
			findings = append(findings, step.Fail("verify", f.Path, err))
		}
	}
	if len(findings) == 0 {
		for _, c := range s.Components {
			progress(Event{Component: c.Name, Phase: PhaseVerify, Bytes: c.Bytes, TotalBytes: c.Bytes,
				Done: true})
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

// unexpected lists what the directory contains but the manifest does not. A directory is expected
// if it leads to a file or belongs to a component.
func (s *Set) unexpected() (findings []error, err error) {
	expected := map[string]bool{step.ManifestName: true, step.ChecksumName: true, signatureName: true}
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
			findings = append(findings, step.Fail("verify", rel, fmt.Errorf("%w: unexpected directory",
				ErrDamaged)))
			return fs.SkipDir
		case !expected[rel]:
			findings = append(findings, step.Fail("verify", rel, fmt.Errorf("%w: unexpected file",
				ErrDamaged)))
		}
		return nil
	})
	return findings, err
}

func checkFile(ctx context.Context, path string, want File, progress func(int64)) error {
	f, err := step.OpenRaw(unix.AT_FDCWD, path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("%w: the file is missing", ErrDamaged)
	case errors.Is(err, atomicfile.ErrNotRegular):
		return fmt.Errorf("%w: %w", ErrDamaged, err)
	case err != nil:
		return err
	}
	n, got, err := int64(0), "", error(nil)
	if f.Stat.Size == want.Size {
		h := sha256.New()
		n, err = step.Copy(h, &step.ReadMeter{Ctx: ctx, R: f, Add: progress})
		got = hex.EncodeToString(h.Sum(nil))
	}
	switch err = errors.Join(err, f.Close()); {
	case err != nil:
		return err
	case f.Stat.Size != want.Size:
		return fmt.Errorf("%w: it has %d bytes, the manifest says %d", ErrDamaged, f.Stat.Size, want.Size)
	case n != want.Size || got != want.SHA256:
		return fmt.Errorf("%w: its SHA-256 is %s, the manifest says %s", ErrDamaged, got, want.SHA256)
	}
	return nil
}

// names returns the names of the components, for messages.
func (s *Set) names() string {
	var names []string
	for _, c := range s.Components {
		names = append(names, c.Name)
	}
	slices.Sort(names)
	return strings.Join(names, ", ")
}
