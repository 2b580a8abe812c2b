package debpkg

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"time"
)

// Plan is what an Apply will do. It can be printed, and marshalled and read back on another
// machine.
type Plan struct {
	Host       Identity
	OS         OS
	Arch       string
	Created    time.Time
	Requests   []Request
	Actions    []Action
	Unchanged  []string   // requested, but installed already
	KeptBack   []string   // Tyk packages on hold that stay as they are
	Downloads  []Download // files that were missing when planning began
	Restarts   []Restart
	Conffiles  []ConffilePlan
	Overwrites []Overwrite
	Owned      []Owned `json:",omitempty"` // files of other packages that dpkg would refuse to replace
	Hold       bool    `json:",omitempty"` // Apply puts the packages on hold: see [Options]
	Pin        bool    `json:",omitempty"` // Apply pins their versions
	Problems   []Problem
	Fetched    bool   // the candidates were read; otherwise their conffiles and scripts are unknown
	Digest     string // of everything that Apply compares with the host
}

// Empty reports whether there is nothing to do.
func (p Plan) Empty() bool { return len(p.Actions) == 0 }

// DownloadSize returns the number of bytes to fetch.
func (p Plan) DownloadSize() int64 {
	var n int64
	for _, d := range p.Downloads {
		n += d.Size
	}
	return n
}

// Refused returns an [ErrRefused] with every reason, or nil.
func (p Plan) Refused() error {
	var reasons []string
	next := ""
	for _, pr := range p.Problems {
		if pr.Refuse {
			reasons = append(reasons, pr.Text)
			if next == "" {
				next = pr.Next
			}
		}
	}
	if reasons == nil {
		return nil
	}
	return &Error{Op: "apply", Object: "the plan", Kind: ErrRefused, Detail: strings.Join(reasons,
		"; "), Next: next}
}

// digest covers what must be the same when the plan is applied: the host, its packages and files,
// and the candidates. It leaves out times, downloads and the wording of problems.
func (p Plan) digest() string {
	p.Created, p.Downloads, p.Digest = time.Time{}, nil, ""
	p.Problems = slices.Clone(p.Problems)
	p.Problems = slices.DeleteFunc(p.Problems, func(pr Problem) bool { return !pr.Refuse })
	p.Actions = slices.Clone(p.Actions)
	for i := range p.Actions {
		// Fetching or cleaning the cache changes where a rollback comes from.
		p.Actions[i].Rollback, p.Actions[i].Candidate = "", ""
	}
	data, err := json.Marshal(p)
	if err != nil {
		return "" // strings, numbers and times always marshal
	}
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

// Plan plans the requested changes. It fetches the candidates into apt's cache, unless
// [Options].NoFetch is set, to compare their conffiles and read their scripts. It changes nothing
// else. Call [Host.Update] first.
//
// Plan returns an error if no plan is possible, for example because of an unknown version or unmet
// dependencies. If a plan must not be applied, its Problems have the reasons.
func (h *Host) Plan(ctx context.Context, want ...Request) (Plan, error) {
	return h.plan(ctx, want, !h.o.NoFetch)
}

// Plans makes a plan for each group of requests, see [InOrder]. If some plans must not be applied,
// it returns all plans with an [ErrRefused] that has the reasons. With another error, it returns
// the plans made so far.
func (h *Host) Plans(ctx context.Context, groups [][]Request) ([]Plan, error) {
	var plans []Plan
	var refused error
	for _, want := range groups {
		p, err := h.Plan(ctx, want...)
		if err != nil {
			return plans, err
		}
		plans, refused = append(plans, p), errors.Join(refused, p.Refused())
	}
	return plans, refused
}

func (h *Host) plan(ctx context.Context, want []Request, fetch bool) (Plan, error) {
	p, _, err := h.planned(ctx, want, fetch, false)
	return p, err
}

// planned also returns the survey that the plan is made from. again is set to compare an
// earlier plan with the host, which an [ErrLocked] says is busy.
func (h *Host) planned(ctx context.Context, want []Request, fetch,
	again bool) (Plan, survey, error) {
	want = slices.Clone(want)
	if err := validRequests(want); err != nil {
		return Plan{}, survey{}, err
	}
	op := task{"plan", join(want)}
	h.event(Event{Kind: EventStep, Text: op.String()})
	names := []string{"tyk-*"}
	for _, r := range want {
		if !strings.HasPrefix(r.Package, "tyk-") {
			names = append(names, r.Package)
		}
	}
	s, err := h.survey(ctx, names...)
	if err != nil {
		return Plan{}, s, err
	}
	if again && len(s.Locks) > 0 {
		return Plan{}, s, h.locked(op, s.Locks)
	}
	if s.Journal {
		return Plan{}, s, op.fail(Error{Kind: ErrInterrupted,
			Detail: "its run is unfinished", Next: "call Repair, or Revert the change that " +
				"was interrupted"})
	}
	p := Plan{Host: s.Identity, OS: s.OS, Arch: s.Arch,
		Created: time.Now().UTC().Truncate(time.Second), Requests: want, Fetched: fetch, Hold: h.o.Hold,
		Pin: h.o.Pin}
	debs, err := h.resolveDebs(ctx, s.Arch, want)
	if err != nil {
		return Plan{}, s, err
	}
	in := installOf(want, debs)
	sim, err := h.simulate(ctx, op, in.args)
	if err != nil {
		return Plan{}, s, h.explainPlan(ctx, err, want)
	}
	// Packages that come along with the requested ones.
	if more := slices.DeleteFunc(sim.names(), func(n string) bool {
		return slices.Contains(names, n) ||
			strings.HasPrefix(n, "tyk-")
	}); len(more) > 0 {
		if s, err = h.survey(ctx, append(names, more...)...); err != nil {
			return Plan{}, s, err
		}
	}
	if err := h.actions(ctx, &p, sim, &s, debs, again); err != nil {
		return Plan{}, s, err
	}
	for _, b := range s.Packages {
		if b.Held() && !slices.ContainsFunc(p.Actions,
			func(a Action) bool { return a.Package == b.Name }) {
			p.KeptBack = append(p.KeptBack, b.Name)
		}
	}
	var need space
	if !p.Empty() {
		if need, err = h.candidates(ctx, &p, in, s, fetch, again); err != nil {
			return Plan{}, s, err
		}
	}
	h.problems(&p, s, need)
	p.Digest = p.digest()
	return p, s, nil
}
