package debpkg

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"slices"
	"strings"
	"time"
)

// Plan says what an Apply will do. It can be printed, and marshalled and read
// back, on another machine as well.
type Plan struct {
	Host       Identity
	OS         OS
	Arch       string
	Created    time.Time
	Requests   []Request
	Actions    []Action
	Unchanged  []string   // requested and already there
	HeldBack   []string   // Tyk packages on hold that stay as they are
	Downloads  []Download // still to be fetched when the plan was begun
	Restarts   []Restart
	Conffiles  []ConffilePlan
	Overwrites []Overwrite
	Problems   []Problem
	Fetched    bool   // the candidates were read; without, their conffiles and scripts are not known
	Digest     string // of what Apply compares with the host
}

// Empty says whether there is nothing to do.
func (p Plan) Empty() bool { return len(p.Actions) == 0 }

// DownloadSize is the number of bytes to fetch.
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
	return &Error{Op: "apply", Object: "the plan", Kind: ErrRefused, Detail: strings.Join(reasons, "; "), Next: next}
}

// digest covers what must still hold when the plan is applied: the host, its
// packages and files, and the candidates. Times, progress of downloads and the
// wording of problems are left out.
func (p Plan) digest() string {
	p.Created, p.Downloads, p.Digest = time.Time{}, nil, ""
	p.Problems = slices.Clone(p.Problems)
	p.Problems = slices.DeleteFunc(p.Problems, func(pr Problem) bool { return !pr.Refuse })
	p.Actions = slices.Clone(p.Actions)
	for i := range p.Actions {
		// Fetching or cleaning the cache changes where a rollback comes from.
		p.Actions[i].Rollback = ""
	}
	data, err := json.Marshal(p)
	if err != nil {
		return "" // strings, numbers and times always marshal
	}
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

// Plan finds out what would happen if the requests were carried out. It
// changes nothing but apt's cache of downloaded packages: unless
// [Options].NoFetch is set it fetches the candidates, to compare their
// conffiles and read their scripts. Call [Host.Update] before.
//
// What cannot be planned at all (an unknown version, unmet dependencies) is an
// error; what must not be applied is in the plan's Problems.
func (h *Host) Plan(ctx context.Context, want ...Request) (Plan, error) {
	return h.plan(ctx, want, !h.o.NoFetch)
}

func (h *Host) plan(ctx context.Context, want []Request, fetch bool) (Plan, error) {
	want = slices.Clone(want)
	if err := validRequests(want); err != nil {
		return Plan{}, err
	}
	op := task{"plan", join(want)}
	h.event(Event{Kind: EventStep, Text: op.String()})
	facts, err := h.basics(ctx)
	if err != nil {
		return Plan{}, err
	}
	if facts.Journal {
		return Plan{}, &Error{Op: op.verb, Object: op.object, Kind: ErrInterrupted, Detail: "dpkg has work of its own to finish", Next: "call Repair, or Revert the change that was interrupted"}
	}
	if facts.Broken, err = h.broken(ctx); err != nil {
		return Plan{}, err
	}
	p := Plan{Host: facts.Identity, OS: facts.OS, Arch: facts.Arch, Created: time.Now().UTC().Truncate(time.Second), Requests: want, Fetched: fetch}
	debs, err := h.resolveDebs(ctx, facts.Arch, want)
	if err != nil {
		return Plan{}, err
	}
	in := installOf(want, debs)
	sim, err := h.simulate(ctx, op, in.args)
	if err != nil {
		return Plan{}, h.explainPlan(ctx, err, want)
	}
	before, err := h.Packages(ctx, append(sim.names(), "tyk-*")...)
	if err != nil {
		return Plan{}, err
	}
	if err := h.actions(ctx, &p, sim, before, debs); err != nil {
		return Plan{}, err
	}
	for _, b := range before {
		if b.Held() && !slices.ContainsFunc(p.Actions, func(a Action) bool { return a.Package == b.Name }) {
			p.HeldBack = append(p.HeldBack, b.Name)
		}
	}
	if !p.Empty() {
		if err := h.candidates(ctx, &p, in, before, fetch); err != nil {
			return Plan{}, err
		}
	}
	h.problems(ctx, &p, facts)
	p.Digest = p.digest()
	return p, nil
}
