package backup

import "slices"

// Summary is what a list or a report shows of a set: its directory, and its manifest without the
// files. It is meant for JSON.
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

// Untouched reports whether the restore changed nothing, because it was refused or only planned.
// The error of such a restore is a refusal.
func (r Report) Untouched() bool {
	return !slices.ContainsFunc(r.Components, func(c ComponentReport) bool {
		return c.State != StatePlanned && c.State != StateNotRequested
	})
}
