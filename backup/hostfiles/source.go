package hostfiles

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"example.com/tykupgrade/backup"
	"example.com/tykupgrade/backup/internal/step"
)

// Kind is the kind of the components that [Files] writes.
const Kind = "files"

// Files backs up files of one host: content, mode, owner, modification time
// and symbolic links. A link is recorded, and the file that it names is
// included. Exactly one of FS and Runner is set.
//
// Without paths it takes what a Tyk upgrade touches, for the components that
// are installed: their configuration, which is a Debian conffile for gateway
// and pump only, and everything that the packages overwrite without asking.
//
// A Files is a [Source], and a [Prover] that compares the host with a set.
type Source struct {
	Component string        // name in the set, best with the host: "config/gateway-1"; empty: "config"
	FS        fs.FS         // this host: os.DirFS("/")
	Runner    backup.Runner // another host: needs GNU find and tar there

	// Paths must exist, IfPresent may. Both are absolute, name a file or a
	// directory with all that is in it, and may hold the wildcards of
	// path.Match. Both empty: see above.
	Paths, IfPresent []string
}

// Details is what a files component's details hold.
type Details struct {
	Paths []string `json:"paths"` // the absolute paths that were asked for and found
}

// tykComponents are the directories of Tyk's packages with the file that each
// needs to start, and what an upgrade overwrites silently (measured on the
// packages 4.0 to 5.14).
var tykComponents = []struct {
	dir, config string
	also        []string
}{
	{"/opt/tyk-dashboard", "tyk_analytics.conf", []string{"/opt/tyk-dashboard/email_templates", "/opt/tyk-dashboard/portal", "/opt/tyk-dashboard/schemas"}},
	{"/opt/tyk-gateway", "tyk.conf", []string{"/opt/tyk-gateway/policies", "/opt/tyk-gateway/apps", "/opt/tyk-gateway/templates", "/opt/tyk-gateway/middleware", "/opt/tyk-gateway/event_handlers"}},
	{"/opt/tyk-pump", "pump.conf", nil},
}

// tykAlways is taken along where there is a component.
var tykAlways = []string{"/etc/default/tyk-*", "/lib/systemd/system/tyk-*.service", "/etc/systemd/system/tyk-*.service", "/etc/systemd/system/tyk-*.service.d"}

// Name returns the component's name.
func (f *Source) Name() string {
	if f.Component == "" {
		return "config"
	}
	return f.Component
}

// entry is one file or link as a host lists it.
type entry struct {
	path string // absolute
	typ  byte   // 'f', 'd', 'l', or anything else
	size int64
	link string
}

// target is the absolute path that a link names.
func (e entry) target() string {
	if path.IsAbs(e.link) {
		return path.Clean(e.link)
	}
	return path.Join(path.Dir(e.path), e.link)
}

// host reads the files of one machine.
type host interface {
	// list returns what the patterns match, and what is in matched directories.
	list(ctx context.Context, patterns []string) ([]entry, error)
	// read calls f once for every entry of kind 'f' or 'l', in any order, and
	// again from the start where something changed meanwhile: reset comes first.
	read(ctx context.Context, entries []entry, reset func() error, f func(e entry, m backup.Meta, r io.Reader) error) error
}

func (f *Source) host() (host, error) {
	if (f.FS == nil) == (f.Runner == nil) {
		return nil, errors.New("exactly one of FS and backup.Runner must be given")
	}
	for _, p := range append(slices.Clone(f.Paths), f.IfPresent...) {
		if !path.IsAbs(p) || path.Clean(p) != p || p == "/" {
			return nil, fmt.Errorf("path %q is not absolute and clean", p)
		}
		if _, err := path.Match(p, ""); err != nil {
			return nil, fmt.Errorf("path %q: %w", p, err)
		}
	}
	if f.FS != nil {
		return localHost{f.FS}, nil
	}
	return remoteHost{f.Runner}, nil
}

// Plan finds the files.
func (f *Source) Plan(ctx context.Context) (backup.Estimate, error) {
	h, err := f.host()
	if err != nil {
		return backup.Estimate{}, err
	}
	entries, _, _, err := f.find(ctx, h)
	if err != nil {
		return backup.Estimate{}, err
	}
	e := backup.Estimate{Items: int64(len(entries))}
	for _, x := range entries {
		e.Bytes += x.size
	}
	return e, nil
}

// Backup copies the files.
func (f *Source) Backup(ctx context.Context, w *backup.Writer) (backup.Component, error) {
	c := backup.Component{Kind: Kind, Topology: "host", Consistency: backup.ConsistencyPerItem, Method: "read"}
	h, err := f.host()
	if err != nil {
		return c, err
	}
	if f.Runner != nil {
		c.Method = "tar"
	}
	entries, found, warnings, err := f.find(ctx, h)
	if err != nil {
		return c, err
	}
	c.Warnings = warnings
	err = h.read(ctx, entries, w.Reset, func(e entry, m backup.Meta, r io.Reader) error {
		name := strings.TrimPrefix(e.path, "/")
		if e.typ == 'l' {
			return w.Link(name, e.link, m)
		}
		_, err := w.Create(ctx, name, &m, func(out io.Writer) error {
			_, err := io.Copy(out, r)
			return err
		})
		return err
	})
	if err != nil {
		return c, err
	}
	c.Items = int64(len(entries))
	w.Progress("", 0, c.Items)
	return c, c.SetDetails(Details{Paths: found})
}

// find lists files and links by path, follows links to the files that they
// name, and makes sure that nothing is missing that must be there.
func (f *Source) find(ctx context.Context, h host) (entries []entry, found, warnings []string, err error) {
	must, may := f.Paths, f.IfPresent
	if len(must)+len(may) == 0 {
		if must, may, err = tykPaths(ctx, h); err != nil {
			return nil, nil, nil, err
		}
	}
	patterns := append(slices.Clone(must), may...)
	all := map[string]entry{}
	for round := 0; len(patterns) > 0; round++ {
		if round == maxLinks {
			return nil, nil, nil, fmt.Errorf("links lead to links: %v", patterns)
		}
		listed, err := h.list(ctx, patterns)
		if err != nil {
			return nil, nil, nil, err
		}
		patterns = nil
		for _, e := range listed {
			if _, dup := all[e.path]; dup {
				continue
			}
			if !utf8.ValidString(e.path) || !utf8.ValidString(e.link) {
				return nil, nil, nil, &backup.Error{Op: "find", Object: fmt.Sprintf("%q", e.path), Err: errors.New("its name or target is not UTF-8, which the manifest cannot hold"), Next: "rename it or leave it out"}
			}
			all[e.path] = e
			switch e.typ {
			case 'f', 'd':
			case 'l':
				patterns = append(patterns, escapePattern(e.target()))
			default:
				warnings = append(warnings, e.path+" is neither a file, a directory nor a link and was left out")
			}
		}
	}
	for _, p := range append(slices.Clone(must), may...) {
		ok := false
		for name := range all {
			if hit, _ := path.Match(p, name); hit {
				ok = true
			}
		}
		if ok {
			found = append(found, p)
		} else if slices.Contains(must, p) {
			return nil, nil, nil, &backup.Error{Op: "find", Object: p, Err: fs.ErrNotExist, Next: "correct the path, or name it as one that may be missing"}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(all)) {
		if e := all[name]; e.typ == 'f' || e.typ == 'l' {
			entries = append(entries, e)
		}
	}
	if len(entries) == 0 {
		return nil, nil, nil, fmt.Errorf("no file at any of %v", append(must, may...))
	}
	for _, e := range entries {
		if _, ok := all[e.target()]; e.typ == 'l' && !ok {
			warnings = append(warnings, fmt.Sprintf("%s is a link to %s, which is not there", e.path, e.target()))
		}
	}
	slices.Sort(warnings)
	return entries, found, warnings, nil
}

// maxLinks is the kernel's limit.
const maxLinks = 40

func tykPaths(ctx context.Context, h host) (must, may []string, err error) {
	var dirs []string
	for _, c := range tykComponents {
		dirs = append(dirs, c.dir)
	}
	listed, err := h.list(ctx, dirs)
	if err != nil {
		return nil, nil, err
	}
	for _, c := range tykComponents {
		if slices.ContainsFunc(listed, func(e entry) bool { return e.path == c.dir && e.typ == 'd' }) {
			must = append(must, c.dir+"/"+c.config)
			may = append(may, c.also...)
		}
	}
	if len(must) == 0 {
		return nil, nil, &backup.Error{Op: "find", Object: "Tyk's configuration", Err: fmt.Errorf("none of %v is there: %w", dirs, fs.ErrNotExist),
			Next: "name the paths, or run it on a host that has Tyk installed"}
	}
	return must, append(may, tykAlways...), nil
}

// escapePattern makes a pattern that matches p alone.
func escapePattern(p string) string {
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(p)
}

// isPattern says whether p has wildcards; plain is p without escapes.
func isPattern(p string) (wild bool, plain string) {
	var b strings.Builder
	for i := 0; i < len(p); i++ {
		switch p[i] {
		case '*', '?', '[':
			wild = true
		case '\\':
			if i++; i == len(p) {
				return wild, b.String()
			}
		}
		b.WriteByte(p[i])
	}
	return wild, b.String()
}

// readTries is how often a file that changes while it is read is read again.
const readTries = 5

// readPause lets a program that is writing finish.
const readPause = 100 * time.Millisecond

func pause(ctx context.Context) error {
	t := time.NewTimer(readPause)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return step.Ended(ctx)
	case <-t.C:
		return nil
	}
}

func errKeepsChanging(name string) error {
	return &backup.Error{Op: "read", Object: name, Err: fmt.Errorf("%w, %d times in a row", backup.ErrChanged, readTries), Retry: true,
		Next: "stop the program that writes it for a moment"}
}

func init() { backup.RegisterKind(Kind, filesStructure) }

// filesStructure is LevelStructure: as many files as the component says.
func filesStructure(_ context.Context, s *backup.Stored) error {
	if int64(len(s.Files)) != s.Items {
		return fmt.Errorf("it holds %d files and links, the manifest says %d", len(s.Files), s.Items)
	}
	var d Details
	return s.DecodeDetails(&d)
}

var (
	_ backup.Source = (*Source)(nil)
	_ backup.Prover = (*Source)(nil)
)
