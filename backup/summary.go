package backup

import "slices"

// Summary describes a set for a list or a report, usually as JSON. It has the directory, and the
// manifest without its files.
type Summary struct {
	Dir string `json:"dir"`
	Manifest
}

// Summary returns the summary of the set.
func (s *Set) Summary() Summary {
	d := Summary{Dir: s.Dir, Manifest: s.Manifest}
	d.Files = nil
	return d
}

// Summaries returns the summaries of sets, in their order. The result is never nil.
func Summaries(sets []*Set) []Summary {
	all := []Summary{}
	for _, s := range sets {
		all = append(all, s.Summary())
	}
	return all
}

// Untouched reports whether the restore changed nothing, because it was refused or a dry run.
func (r Report) Untouched() bool {
	return !slices.ContainsFunc(r.Components, func(c ComponentReport) bool {
		return c.State != StatePlanned && c.State != StateNotRequested
	})
}
