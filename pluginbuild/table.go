package pluginbuild

import (
	"bytes"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"go/version"
	"io"
	"slices"
	"strings"
	"sync"

	"github.com/Masterminds/semver/v3"
	"golang.org/x/mod/module"

	"example.com/tykupgrade/internal/lazyregexp"
	"example.com/tykupgrade/internal/tykversion"
)

//go:embed releases.json
var embedded []byte

var table = sync.OnceValues(func() (Table, error) { return ReadTable(bytes.NewReader(embedded)) })

// Table is a list of releases. To use releases that this package does not know, append to it or
// read one with [ReadTable].
type Table []Release

// Releases returns this package's table: every general release from 3.0.0 to 5.14.0, oldest
// first. The caller may append to it, but must not change slices inside the releases.
func Releases() Table { return slices.Clone(known()) }

// known returns the embedded table itself. Callers must not change it.
func known() Table {
	t, err := table()
	if err != nil {
		panic("pluginbuild: embedded release table: " + err.Error()) // a test reads it
	}
	return t
}

// Lookup finds a release in this package's table. The error for an unknown release is an
// [UnknownReleaseError].
func Lookup(v *semver.Version) (Release, error) { return known().Lookup(v) }

// Lookup finds a release by its version and ignores build metadata. If a version has several
// entries, it returns the last. The error for an unknown release is an [UnknownReleaseError].
func (t Table) Lookup(v *semver.Version) (Release, error) {
	if v == nil {
		return Release{}, errors.New("look up gateway release: no version given")
	}
	for _, r := range slices.Backward(t) {
		if r.Version != nil && r.Version.Equal(v) {
			return r, nil
		}
	}
	unknown := &UnknownReleaseError{Version: v}
	for _, r := range t {
		if r.Version != nil && (unknown.Nearest == nil || nearer(v, r.Version, unknown.Nearest.Version)) {
			unknown.Nearest = &r
		}
	}
	return Release{}, unknown
}

// nearer reports whether a is nearer to v than b. The same numbers are nearest, as of a
// pre-release. Then follow older versions, newest first, and newer ones, oldest first.
func nearer(v, a, b *semver.Version) bool {
	rank := func(x *semver.Version) int {
		switch {
		case core(x).Equal(core(v)):
			return 0
		case x.LessThan(v):
			return 1
		default:
			return 2
		}
	}
	if ra, rb := rank(a), rank(b); ra != rb {
		return ra < rb
	} else if ra == 1 {
		return a.GreaterThan(b)
	}
	return a.LessThan(b)
}

// core returns the version without its pre-release and build parts. A release candidate is built
// like its release.
func core(v *semver.Version) *semver.Version {
	return semver.New(v.Major(), v.Minor(), v.Patch(), "", "")
}

// UnknownReleaseError reports that a table lacks a release.
type UnknownReleaseError struct {
	Version *semver.Version
	Nearest *Release // by version; nil if the table is empty
}

func (e *UnknownReleaseError) Error() string {
	return fmt.Sprintf("look up gateway release %s: not in the release table; %s", e.Version, e.Hint())
}

// Retryable returns false.
func (e *UnknownReleaseError) Retryable() bool { return false }

// Hint names the nearest known release and what to do.
func (e *UnknownReleaseError) Hint() string {
	var b strings.Builder
	if e.Nearest != nil {
		fmt.Fprintf(&b, "the nearest known release is %s; ", e.Nearest.Version)
	}
	b.WriteString("if the version is right, make a Release yourself, or with ResolveCommit and Derive")
	return b.String()
}

// Write writes the table as JSON with one release per line, the form of releases.json.
func (t Table) Write(w io.Writer) error {
	var b bytes.Buffer
	b.WriteString("[\n")
	for i, r := range t {
		var line bytes.Buffer
		e := json.NewEncoder(&line)
		e.SetEscapeHTML(false)
		if err := e.Encode(r); err != nil {
			return fmt.Errorf("write release table, entry %d: %w", i+1, err)
		}
		b.Write(bytes.TrimSpace(line.Bytes()))
		if i < len(t)-1 {
			b.WriteByte(',')
		}
		b.WriteByte('\n')
	}
	b.WriteString("]\n")
	_, err := w.Write(b.Bytes())
	return err
}

// maxTable limits the input of ReadTable. The embedded table has 65 kB.
const maxTable = 8 << 20

// ReadTable reads a JSON array of releases, as [Table.Write] writes it, and validates each. It
// refuses unknown fields.
func ReadTable(r io.Reader) (Table, error) {
	data, err := readBounded(r, maxTable)
	if err != nil {
		return nil, fmt.Errorf("read release table: %w", err)
	}
	var t Table
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(&t); err != nil {
		return nil, fmt.Errorf("read release table: %w", err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("read release table: unexpected data after the array")
	}
	for i, r := range t {
		if err := r.Validate(); err != nil {
			return nil, fmt.Errorf("read release table, entry %d: %w", i+1, err)
		}
	}
	return t, nil
}

func readBounded(r io.Reader, limit int64) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err == nil && int64(len(data)) > limit {
		return nil, tooLarge(limit)
	}
	return data, err
}

func tooLarge(limit int64) error { return fmt.Errorf("larger than %d bytes", limit) }

var (
	commitForm = lazyregexp.New(`^[0-9a-f]{40}$`)
	goForm     = lazyregexp.New(
		`^[1-9][0-9]*\.(0|[1-9][0-9]*)(\.(0|[1-9][0-9]*)|(rc|beta)[1-9][0-9]*)?$`)
	toolchainForm = lazyregexp.New(`^go[1-9][0-9.]*(rc[0-9]+|beta[0-9]+)?(-[A-Za-z0-9.+-]+)?$`)
)

// Validate returns an error if a field of the release is missing or malformed.
func (r Release) Validate() error {
	if r.Version == nil {
		return errors.New("release: no version")
	}
	bad := func(format string, a ...any) error {
		return fmt.Errorf("release %s: %s", r.Version, fmt.Sprintf(format, a...))
	}
	switch {
	case !commitForm.MatchString(r.Commit):
		return bad("commit %q is not 40 lower-case hex digits", r.Commit)
	case r.Go != "" && !goForm.MatchString(r.Go):
		return bad("invalid go directive %q: want a Go version such as 1.16 or 1.25.0", r.Go)
	case r.Compiler.Go != "" && !version.IsValid("go"+r.Compiler.Go):
		return bad("invalid compiler Go version %q: want a version such as 1.19", r.Compiler.Go)
	case r.Toolchain != "" && !toolchainForm.MatchString(r.Toolchain):
		return bad("invalid toolchain directive %q: want a name such as go1.21.4", r.Toolchain)
	case r.Compiler.Mode == "" && r.Next == nil:
		return bad("no compiler mode given (want vendor, gopath, modules or workspace)")
	}
	compilers := []Compiler{r.Compiler}
	if r.Next != nil {
		if r.Next.Variant != NextGen || r.Next.Mode == "" {
			return bad("the next compiler needs variant ng and a mode")
		}
		compilers = append(compilers, *r.Next)
	}
	var editions []Edition
	for _, c := range compilers {
		editions = append(editions, c.Editions...)
		if c.Mode != "" && !slices.Contains([]Mode{Vendor, GOPATH, Modules, Workspace}, c.Mode) {
			return bad("unknown compiler mode %q (want vendor, gopath, modules or workspace)", c.Mode)
		}
		if !slices.Contains([]Variant{"", Classic, NextGen}, c.Variant) {
			return bad("unknown compiler variant %q (want classic or ng)", c.Variant)
		}
		for _, h := range c.Hosts {
			if !strings.HasPrefix(h, "linux/") {
				return bad("compiler host %q: want a platform such as linux/amd64", h)
			}
		}
	}
	for _, e := range editions {
		if !slices.Contains([]Edition{Standard, Enterprise, FIPS}, e) {
			return bad("unknown edition %q (want std, ee or fips)", e)
		}
	}
	for _, p := range r.Replaces {
		if err := p.validate(); err != nil {
			return bad("replace %s: %v", p, err)
		}
	}
	return nil
}

func (r Replace) validate() error {
	if err := module.CheckPath(r.Old); err != nil {
		return err
	}
	if r.OldVersion != "" && module.CanonicalVersion(r.OldVersion) != r.OldVersion {
		return fmt.Errorf("version %q is not canonical", r.OldVersion)
	}
	return module.Check(r.New, r.NewVersion)
}

// ParseVersion parses a gateway version of three numbers, such as 5.3.0. A leading v is optional.
// A pre-release part may be semantic or Debian ("5.3.0-rc1", "5.3.0~rc1").
func ParseVersion(s string) (*semver.Version, error) {
	v, err := tykversion.Parse(s)
	if err != nil {
		return nil, fmt.Errorf("gateway %w", err)
	}
	return v, nil
}
