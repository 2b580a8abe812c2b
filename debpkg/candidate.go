package debpkg

import (
	"bytes"
	"context"
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"
)

// Restart is a unit that a package's script will restart.
type Restart struct {
	Unit, Package string
	Assumed       bool `json:",omitempty"` // the script could not be read
}

// ConffilePlan is a conffile's three-way state and what will become of it.
type ConffilePlan struct {
	Package, Path            string
	Shipped, Disk, Candidate string // MD5; empty: no such file
	Outcome                  Outcome
}

// Outcome is what an installation does to a conffile.
type Outcome string

// The outcomes.
const (
	OutcomeSame     Outcome = "unchanged"
	OutcomeReplaced Outcome = "replaced"   // not edited, so dpkg replaces it without asking
	OutcomeKept     Outcome = "edits kept" // edited; the new version ships what the old one did
	OutcomeConflict Outcome = "edits kept, new one beside it as .dpkg-dist"
	OutcomeTaken    Outcome = "new one taken, edits beside it as .dpkg-old"
	OutcomeDeleted  Outcome = "stays deleted"
	OutcomeRestored Outcome = "was deleted, comes back"
	OutcomeNew      Outcome = "new"
	OutcomeObsolete Outcome = "no longer shipped, stays"
	OutcomeUnknown  Outcome = "not known: the candidate was not fetched"
)

// Overwrite is a file that is no conffile, was changed on this host, and will
// be replaced silently: policies, templates, sample scripts.
type Overwrite struct{ Package, Path string }

// fetchDebs downloads the candidates into apt's cache and returns where each
// one's file is. apt does not copy those of a file: source.
func (h *Host) fetchDebs(ctx context.Context, p *Plan, in install, fetch bool) (map[string]string, error) {
	op := task{"download", join(p.Requests)}
	out, err := h.apt(ctx, op, in, "-qq", "--print-uris")
	if err != nil {
		return nil, err
	}
	p.Downloads = parseURIs(out)
	if fetch && len(p.Downloads) > 0 {
		h.event(Event{Kind: EventStep, Text: op.String()})
		if err := h.retryLocked(ctx, op, func() error {
			_, err := h.apt(ctx, op, in, "--download-only")
			return err
		}); err != nil {
			return nil, err
		}
	}
	dir, err := h.archives(ctx)
	if err != nil {
		return nil, err
	}
	files := map[string]string{}
	var names, paths []string
	for _, a := range p.Actions {
		switch {
		case a.Kind == Remove:
		case a.Deb != "":
			files[a.Package] = a.Deb
		default:
			file := debName(a.Package, a.To, a.Arch)
			names, paths = append(names, a.Package), append(paths, path.Join(dir, file))
			for _, d := range p.Downloads {
				if local, ok := strings.CutPrefix(d.URI, "file:"); ok && d.File == file {
					paths[len(paths)-1] = path.Clean("/" + strings.TrimLeft(local, "/"))
				}
			}
		}
	}
	p.Downloads = slices.DeleteFunc(p.Downloads, func(d Download) bool { return strings.HasPrefix(d.URI, "file:") })
	// What the cache happens to hold must not make two plans differ.
	if len(paths) == 0 || !fetch {
		return files, nil
	}
	have, err := h.script(ctx, nil, `for f; do if [ -f "$f" ]; then echo y; else echo n; fi; done`, paths...)
	if err != nil {
		return nil, task{"look", "into apt's cache"}.wrap(err)
	}
	for i, yes := range strings.Fields(have) {
		if yes == "y" {
			files[names[i]] = paths[i]
		}
	}
	return files, nil
}

// candidates compares the candidates with what is installed.
func (h *Host) candidates(ctx context.Context, p *Plan, in install, before []Package, fetch bool) error {
	in.downgrade, in.held, in.removal = true, true, true
	files, err := h.fetchDebs(ctx, p, in, fetch)
	if err != nil {
		return err
	}
	for _, a := range p.Actions {
		old, _ := find(before, a.Package)
		if a.Kind == Remove {
			continue
		}
		file, ok := files[a.Package]
		if !ok {
			for _, c := range old.Conffiles {
				p.Conffiles = append(p.Conffiles, ConffilePlan{Package: a.Package, Path: c.Path, Shipped: c.Shipped, Disk: c.Disk, Outcome: OutcomeUnknown})
			}
			if c, ok := component(a.Package); ok {
				p.Restarts = append(p.Restarts, Restart{Unit: c.Unit, Package: a.Package, Assumed: true})
			}
			continue
		}
		c, err := h.contents(ctx, file)
		if err != nil {
			return err
		}
		conffiles, err := h.conffiles(ctx, a.Package, old, c)
		if err != nil {
			return err
		}
		p.Conffiles = append(p.Conffiles, conffiles...)
		for _, u := range restarts(c.postinst, c.units()) {
			p.Restarts = append(p.Restarts, Restart{Unit: u, Package: a.Package})
		}
		overwrites, err := h.overwrites(ctx, a, c)
		if err != nil {
			return err
		}
		p.Overwrites = append(p.Overwrites, overwrites...)
	}
	return nil
}

func (h *Host) conffiles(ctx context.Context, pkg string, old Package, c contents) ([]ConffilePlan, error) {
	var list []ConffilePlan
	for _, f := range old.Conffiles {
		list = append(list, ConffilePlan{Package: pkg, Path: f.Path, Shipped: f.Shipped, Disk: f.Disk, Candidate: c.conffiles[f.Path]})
	}
	var fresh []string
	for p := range c.conffiles {
		if !slices.ContainsFunc(list, func(f ConffilePlan) bool { return f.Path == p }) {
			fresh = append(fresh, p)
		}
	}
	slices.Sort(fresh)
	var full []string
	for _, p := range fresh {
		full = append(full, h.path(p))
	}
	disk, err := h.md5(ctx, full)
	if err != nil {
		return nil, err
	}
	for i, p := range fresh {
		list = append(list, ConffilePlan{Package: pkg, Path: p, Disk: disk[i], Candidate: c.conffiles[p]})
	}
	for i := range list {
		list[i].Outcome = outcome(list[i], h.o.NewConffiles)
	}
	return list, nil
}

// outcome follows dpkg's table (dpkg 1.21 with --force-confdef and
// --force-confold, or --force-confnew).
func outcome(c ConffilePlan, takeNew bool) Outcome {
	switch {
	case c.Candidate == "":
		return OutcomeObsolete
	case c.Shipped == "" && c.Disk == "":
		return OutcomeNew
	case c.Disk == c.Candidate:
		return OutcomeSame
	case c.Disk == "" && c.Candidate != c.Shipped && takeNew:
		return OutcomeRestored
	case c.Disk == "":
		return OutcomeDeleted
	case c.Disk == c.Shipped:
		return OutcomeReplaced
	case c.Candidate == c.Shipped:
		return OutcomeKept
	case takeNew:
		return OutcomeTaken
	default:
		return OutcomeConflict
	}
}

var verifyLine = regexp.MustCompile(`^(\S{9})\s+(?:([a-z]) )?\s*(/.*)$`)

// overwrites finds files changed on the host that the candidate ships too,
// and files of the candidate that already exist though no package owns them.
func (h *Host) overwrites(ctx context.Context, a Action, c contents) ([]Overwrite, error) {
	var list []Overwrite
	if !a.From.IsZero() {
		// Differences are what it prints, and exit code 1.
		var out bytes.Buffer
		argv := append([]string{"dpkg"}, h.dpkgRoot()...)
		if err := h.stream(ctx, nil, &out, nil, append(argv, "--verify", a.Package)...); err != nil && exitCode(err) != 1 {
			return nil, task{"look", "for changed files of " + a.Package}.wrap(err)
		}
		for line := range strings.Lines(out.String()) {
			m := verifyLine.FindStringSubmatch(strings.TrimSuffix(line, "\n"))
			if m != nil && m[1][2] == '5' && m[2] != "c" && slices.Contains(c.files, m[3]) {
				list = append(list, Overwrite{a.Package, m[3]})
			}
		}
	}
	out, err := h.script(ctx, strings.NewReader(strings.Join(c.files, "\n")+"\n"), `d=$(mktemp) || exit 1; trap 'rm -f "$d"' EXIT
dpkg-query --admindir="$2" -L "$3" >"$d" 2>/dev/null
while read -r f; do
	[ -f "$1$f" ] && ! grep -qxF -- "$f" "$d" && ! dpkg-query --admindir="$2" -S "$f" >/dev/null 2>&1 && printf '%s\n' "$f"
done
true`, h.o.Root, h.path("/var/lib/dpkg"), a.Package)
	if err != nil {
		return nil, task{"look", fmt.Sprintf("for files that %s would overwrite", a.Package)}.wrap(err)
	}
	for line := range strings.Lines(out) {
		list = append(list, Overwrite{a.Package, strings.TrimSuffix(line, "\n")})
	}
	slices.SortFunc(list, func(a, b Overwrite) int { return strings.Compare(a.Path, b.Path) })
	return list, nil
}
