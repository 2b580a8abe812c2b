package debpkg

import (
	"cmp"
	"context"
	"errors"
	"path"
	"slices"
	"strings"

	"example.com/tykupgrade/internal/lazyregexp"
)

// Restart is a unit that a package's maintainer script restarts.
type Restart struct {
	Unit, Package string
	Assumed       bool `json:",omitempty"` // the script could not be read
}

// ConffilePlan is the state of a conffile in the old version, on disk and in the candidate, and its
// outcome.
type ConffilePlan struct {
	Package, Path string
	// the file's path on disk, if dpkg-divert has moved it
	Diverted                 string `json:",omitempty"`
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
	OutcomeConflict Outcome = "edits kept, new one next to it as .dpkg-dist"
	OutcomeTaken    Outcome = "new one taken, edits next to it as .dpkg-old"
	OutcomeDeleted  Outcome = "stays deleted"
	OutcomeRestored Outcome = "was deleted, comes back"
	OutcomeNew      Outcome = "new"
	OutcomeObsolete Outcome = "no longer shipped, stays"
	// The new version ships the path as an ordinary file. dpkg 1.21 overwrites edits silently.
	OutcomeOverwritten Outcome = "edits overwritten, no longer a configuration file"
	// Declared remove-on-upgrade (dpkg 1.20.6 and newer).
	OutcomeRemoved Outcome = "removed"
	OutcomeMoved   Outcome = "removed, edits next to it as .dpkg-old"
	OutcomeUnknown Outcome = "not known: the candidate was not fetched"
)

// Overwrite is a changed file that is not a conffile, such as a policy or a template. dpkg will
// replace it silently.
type Overwrite struct{ Package, Path string }

// Owned is a file of a candidate that belongs to another installed package.
type Owned struct{ Package, Path, Owner string }

// inCache reports whether apt has nothing to fetch: as apt does, by the size of the files.
func (p Plan) inCache(cached map[string]int64) bool {
	return !slices.ContainsFunc(p.Actions, func(a Action) bool {
		size, ok := cached[debName(a.Package, a.To, a.Arch)]
		return a.Kind != Remove && a.Deb == "" && (!ok || size != a.Size)
	})
}

// fetchDebs downloads the candidates into apt's cache and returns the path of each file, by
// package. apt does not copy files of a file: source. It fetches nothing that does not fit on the
// disk. When a plan is made again, apt has checked the files that are there. Its run checks them
// once more, before dpkg starts.
func (h *Host) fetchDebs(ctx context.Context, p *Plan, in install, s survey, need *space,
	fetch, again bool) (map[string]string, error) {
	op := task{"download", join(p.Requests)}
	if !p.inCache(s.cached) {
		out, err := h.apt(ctx, op, in, "-qq", "--print-uris")
		if err != nil {
			return nil, err
		}
		p.Downloads = parseURIs(out)
	}
	local := map[string]string{}
	for _, d := range p.Downloads {
		if file, ok := strings.CutPrefix(d.URI, "file:"); ok {
			local[d.File] = path.Clean("/" + strings.TrimLeft(file, "/"))
		}
	}
	p.Downloads = slices.DeleteFunc(p.Downloads, func(d Download) bool { return local[d.File] != "" })
	room := space{}
	room.add(s.disk(h.path("/var/cache/apt/archives")), p.DownloadSize(), "downloads")
	if fetch && (len(p.Downloads) > 0 || len(local) > 0 && !again) && (h.o.IgnoreSpace || room.lacking() == nil) {
		if err := h.download(ctx, op, in); err != nil && (len(p.Downloads) > 0 || !errors.Is(err,
			ErrNotRoot)) {
			// With file: sources nothing is fetched; apt still refuses unsigned ones.
			return nil, err
		}
	} else {
		need.add(s.disk(h.path("/var/cache/apt/archives")), p.DownloadSize(), "downloads")
		fetch = fetch && len(p.Downloads) == 0
	}
	files := map[string]string{}
	for _, a := range p.Actions {
		switch {
		case a.Kind == Remove:
		case a.Deb != "":
			files[a.Package] = a.Deb
		case fetch:
			// Without fetching, the present content of the cache must not make two
			// plans differ.
			file := debName(a.Package, a.To, a.Arch)
			files[a.Package] = path.Join(s.archives(), file)
			if local[file] != "" {
				files[a.Package] = local[file]
			}
		}
	}
	return files, nil
}

// download lets apt fetch the candidates, or check those that are there. It looks for other
// package managers only after apt has met one.
func (h *Host) download(ctx context.Context, op task, in install) error {
	h.event(Event{Kind: EventStep, Text: op.String()})
	fetch := func() error {
		_, err := h.apt(ctx, op, in, "--download-only")
		return err
	}
	if err := fetch(); !errors.Is(err, ErrLocked) {
		return err
	}
	return h.retryLocked(ctx, op, fetch)
}

// candidates compares the candidates with the installed versions. It returns the space that the
// plan needs.
func (h *Host) candidates(ctx context.Context, p *Plan, in install, s survey,
	fetch, again bool) (space, error) {
	in.downgrade, in.held, in.removal = true, true, true
	var need space
	files, err := h.fetchDebs(ctx, p, in, s, &need, fetch, again)
	if err != nil {
		return nil, err
	}
	found, err := h.contents(ctx, files)
	if err != nil && fetch && again {
		// apt says what is wrong with a file that was there when the plan was made.
		err = cmp.Or(h.download(ctx, task{"download", join(p.Requests)}, in), err)
	}
	if err != nil {
		return nil, err
	}
	for _, a := range p.Actions {
		if !a.From.IsZero() {
			need.add(s.disk(h.o.StateDir), max(a.Size, 1<<20), "saved packages")
		}
		if a.Kind == Remove {
			continue
		}
		old, _ := find(s.Packages, a.Package)
		c, ok := found[a.Package]
		if !ok {
			need.add(s.disk(h.path("/opt")), a.Installed, "new files")
			for _, c := range old.Conffiles {
				p.Conffiles = append(p.Conffiles, ConffilePlan{Package: a.Package, Path: c.Path,
					Shipped: c.Shipped, Disk: c.Disk, Outcome: OutcomeUnknown})
			}
			if c, ok := component(a.Package); ok {
				p.Restarts = append(p.Restarts, Restart{Unit: c.Unit, Package: a.Package, Assumed: true})
			}
			continue
		}
		// dpkg unpacks the new files next to the old ones before it replaces them.
		listed := int64(0)
		for _, d := range c.disks {
			listed += d.need
			need.add(d.Disk, d.need, "new files")
		}
		need.add(s.disk(h.path("/opt")), max(c.size, a.Installed)-listed, "new files")
		p.Conffiles = append(p.Conffiles, h.conffiles(a.Package, old, c)...)
		for _, u := range restarts(c.postinst, c.units()) {
			p.Restarts = append(p.Restarts, Restart{Unit: u, Package: a.Package})
		}
		for _, f := range c.changed {
			p.Overwrites = append(p.Overwrites, Overwrite{a.Package, f})
		}
		for _, o := range c.owned {
			going := slices.ContainsFunc(p.Actions, func(b Action) bool {
				return b.Package == o.Owner &&
					b.Kind == Remove
			})
			if !going && !slices.Contains(c.replaces, o.Owner) {
				p.Owned = append(p.Owned, o)
			}
		}
	}
	return need, nil
}

func (h *Host) conffiles(pkg string, old Package, c contents) []ConffilePlan {
	var list []ConffilePlan
	for _, f := range old.Conffiles {
		list = append(list, ConffilePlan{Package: pkg, Path: f.Path, Diverted: f.Diverted,
			Shipped: f.Shipped, Disk: f.Disk, Candidate: c.conffiles[f.Path]})
	}
	var fresh []string
	for p := range c.conffiles {
		if !slices.ContainsFunc(list, func(f ConffilePlan) bool { return f.Path == p }) {
			fresh = append(fresh, p)
		}
	}
	slices.Sort(fresh)
	for _, p := range fresh {
		list = append(list, ConffilePlan{Package: pkg, Path: p, Disk: c.disk[p],
			Candidate: c.conffiles[p]})
	}
	for i, f := range list {
		switch {
		case f.Candidate != "":
			list[i].Outcome = outcome(f, h.o.NewConffiles)
		case slices.Contains(c.files, f.Path):
			list[i].Outcome = OutcomeReplaced
			if f.Disk != "" && f.Disk != f.Shipped {
				list[i].Outcome = OutcomeOverwritten
			}
		case slices.Contains(c.leaving, f.Path) && f.Disk != "":
			list[i].Outcome = OutcomeRemoved
			if f.Disk != f.Shipped {
				list[i].Outcome = OutcomeMoved
			}
		default:
			list[i].Outcome = OutcomeObsolete
		}
	}
	return list
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

var verifyLine = lazyregexp.New(`^(\S{9})\s+(?:([a-z]) )?\s*(/.*)$`)
