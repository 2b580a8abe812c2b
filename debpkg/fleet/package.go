package fleet

import (
	"context"
	"errors"
	"time"

	"example.com/tykupgrade/debpkg"
	"example.com/tykupgrade/debpkg/rollout"
)

// PackageOptions change what [Package] does. The zero value only installs.
type PackageOptions struct {
	// Swap replaces cached bundles of a gateway while its service is stopped. The package is
	// then installed without its restart, so that the service starts once, with the new version
	// and the new bundle. Nil: the package's own script restarts the service.
	Swap *Swap
	// Asked leaves out the step's Ask. Ask plans the installation before the run changes its
	// first host, and stops the run if the host cannot be upgraded.
	Asked bool
}

// stepInstall is the name of the step that [Package] makes.
const stepInstall = "install"

// Package returns the rollout step "install" for one package on one host.
//
// Do updates the package lists, plans, saves the plan in the journal and applies it. After a kill,
// Do applies the saved plan, and debpkg attaches to a job that is still running. Undo reverts only
// what the saved plan did. If the plan never started, Undo leaves the host alone. Done reports
// whether the version is installed and the record for Undo is complete. The step makes up to two
// attempts.
func Package(host *debpkg.Host, want debpkg.Request, o PackageOptions) rollout.Step {
	p := &pkg{host: host, want: want, swap: o.Swap}
	s := rollout.Step{Name: stepInstall, Do: p.install, Undo: p.revert, Done: p.done,
		Retry: rollout.Retry{Attempts: 2, Wait: 2 * time.Second}}
	if !o.Asked {
		s.Ask = p.ask
	}
	return s
}

// pkg is one package of one host.
type pkg struct {
	host *debpkg.Host
	want debpkg.Request
	swap *Swap
}

// record is what the journal keeps of an installation.
type record struct {
	Plan   *debpkg.Plan   // before anything is changed
	Change *debpkg.Change // after
	Cached []cached       `json:",omitempty"` // the bundles that were replaced
	Fresh  bool           `json:",omitempty"` // the service runs with the new bundles
}

func (p *pkg) install(ctx context.Context) error {
	var r record
	if _, err := rollout.Saved(ctx, &r); err != nil {
		return err
	}
	fresh := r.Plan == nil
	if fresh {
		if err := p.plan(ctx, &r); err != nil {
			return err
		}
	}
	apply := p.host.Apply
	if p.swap != nil && stageable(*r.Plan) {
		apply = p.host.Stage
	}
	change, err := apply(ctx, *r.Plan)
	if !change.Started.IsZero() {
		r.Change = &change
		err = errors.Join(err, rollout.Save(ctx, r))
	}
	switch {
	case errors.Is(err, debpkg.ErrChanged):
		// Nothing was changed by us. A plan that is too old is made again.
		if serr := rollout.Save(ctx, record{}); serr != nil || fresh {
			return errors.Join(err, serr)
		}
		return p.install(ctx)
	case err != nil || p.swap == nil:
		return err
	}
	return p.swap.forward(ctx, p.host, unitOf(p.want.Package), &r)
}

// ask plans with the package lists that the host has.
func (p *pkg) ask(ctx context.Context) error {
	plan, err := p.host.Plan(ctx, p.want)
	if err != nil {
		return err
	}
	return plan.Refused()
}

// plan saves the plan before anything is changed.
func (p *pkg) plan(ctx context.Context, r *record) error {
	if err := p.host.Update(ctx); err != nil {
		return err
	}
	plan, err := p.host.Plan(ctx, p.want)
	if err != nil {
		return err
	}
	if err := plan.Refused(); err != nil {
		return err
	}
	r.Plan = &plan
	return rollout.Save(ctx, r)
}

// stageable reports whether the restart can be left out. A first installation always starts its
// service.
func stageable(p debpkg.Plan) bool {
	for _, a := range p.Actions {
		if a.Kind != debpkg.Upgrade && a.Kind != debpkg.Downgrade {
			return false
		}
	}
	return len(p.Actions) > 0
}

// done is false until an installation that began has been read back, because a revert needs that
// record.
func (p *pkg) done(ctx context.Context) (bool, error) {
	var r record
	if _, err := rollout.Saved(ctx, &r); err != nil || r.Plan != nil && r.Change == nil {
		return false, err
	}
	if p.swap != nil && !r.Fresh {
		return false, nil
	}
	now, err := installed(ctx, p.host, p.want.Package)
	return err == nil && !now.IsZero() && now.Compare(p.want.Version) == 0, err
}

// revert undoes what the saved plan did. A killed process leaves a plan without a change. debpkg
// then finds the rest on the host, and never applies the plan.
func (p *pkg) revert(ctx context.Context) error {
	var r record
	if _, err := rollout.Saved(ctx, &r); err != nil || r.Plan == nil {
		return err // the step ended before the plan was saved
	}
	if p.swap != nil {
		if err := p.swap.back(ctx, p.host, unitOf(p.want.Package), &r); err != nil {
			return err
		}
	}
	return p.host.Revert(ctx, r.change(), debpkg.RevertOptions{})
}

// change returns the argument of a revert.
func (r record) change() debpkg.Change {
	if r.Change != nil {
		return *r.Change
	}
	return debpkg.Change{Plan: *r.Plan}
}

// before returns the version that a package had before the plan, or the zero version if it was not
// installed.
func (r record) before(name string) debpkg.Version {
	for _, a := range r.Plan.Actions {
		if a.Package == name {
			return a.From
		}
	}
	for _, p := range r.change().Before {
		if p.Name == name && p.Installed() {
			return p.Version
		}
	}
	return debpkg.Version{}
}
