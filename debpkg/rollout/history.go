package rollout

import (
	"errors"
	"io/fs"
	"os"
	"slices"
)

// History returns the report of the run in a journal. Nil: there is no journal, or it is
// empty. It takes no lock and may be called while a run goes on.
func History(journal string) (*Report, error) {
	f, err := os.Open(journal)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, &Error{Op: "read", Object: journal, Err: errors.Unwrap(err)}
	}
	defer func() { _ = f.Close() }()
	recs, err := ReadJournal(f)
	if err != nil || len(recs) == 0 {
		return nil, err
	}
	return BuildReport(recs), nil
}

// Archive gives the journal of the run in rep another name, so that a new run can begin with
// the same path. A journal that somebody has locked stays, and the result is false.
func Archive(journal string, rep *Report) (bool, error) {
	if _, err := os.Lstat(journal + ".lock"); !errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	err := os.Rename(journal, journal+"."+rep.Started.UTC().Format("20060102T150405.000Z"))
	return err == nil, err
}

// Repeats reports whether running the waves again only repeats the run in the report: it is of
// the same waves and o.About, and it is done. With unfinished, a run that is not finished counts
// too. [Resume] then has the effect of one idempotent call; otherwise call [Run]. A nil report
// repeats nothing.
func (r *Report) Repeats(waves []Wave, o Options, unfinished bool) bool {
	return r != nil && r.Plan == planDigest(waves, o.About) &&
		(r.Outcome == OutcomeDone || unfinished && !r.Outcome.Finished())
}

// Begun reports whether the run has begun a target for which match is true.
func (r *Report) Begun(match func(TargetReport) bool) bool {
	return r != nil && slices.ContainsFunc(r.Targets, func(t TargetReport) bool {
		return t.Status != StatusPending && match(t)
	})
}

// Saved returns what a step of a target saved last. Nil: nothing.
func (r *Report) Saved(target, step string) []byte {
	if r == nil {
		return nil
	}
	var note []byte
	for _, t := range r.Targets {
		for _, s := range t.Steps {
			if t.Name == target && s.Name == step && s.Note != nil {
				note = s.Note
			}
		}
	}
	return note
}
