package fleet

import (
	"context"
	"errors"
	"time"

	"example.com/tykupgrade/debpkg"
	"example.com/tykupgrade/debpkg/rollout"
)

// PackageOptions change what [Package] does. The zero value installs and no more.
type PackageOptions struct {
	// Swap replaces cached bundles of a gateway while its service is stopped. The package
	// is then installed with the restart held back, so that the service starts once, with
	// the new version and the new bundle. Nil: the package's own script restarts the
	// service.
	Swap *Swap
	// Asked leaves out the step's Ask, which plans the installation before the run touches its
	// first host and refuses the run if the host cannot be upgraded.
	Asked bool
}

// stepInstall is the name of the step that [Package] makes.
const stepInstall = "install"

// Package is the rollout step "install" for one package on one host.
//
// Do updates the package lists, plans, saves the plan in the journal and carries it out. A
// plan that was saved is carried out as it is: debpkg attaches to what a killed run began.
// Undo reverts what the saved plan did, and nothing else: a plan that was never begun
// leaves the host alone. Done reports whether the version is installed and the record
// that Undo needs is complete. The step may be tried twice.
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

// ask plans by the package lists that the host has.
func (p *pkg) ask(ctx context.Context) error {
	plan, err := p.host.Plan(ctx, p.want)
	if err != nil {
		return err
	}
	return plan.Refused()
}

// plan saves what will be done before anything is changed.
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

// stageable reports whether the restart can be held back: a first installation starts
// its service whatever is done.
func stageable(p debpkg.Plan) bool {
	for _, a := range p.Actions {
		if a.Kind != debpkg.Upgrade && a.Kind != debpkg.Downgrade {
			return false
		}
	}
	return len(p.Actions) > 0
}

// done is false while an installation that was begun has not been read back, because its
// record is what a revert needs.
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

// revert takes back what the saved plan did. A killed process leaves a plan without a change:
// debpkg finds the rest on the host, and never carries the plan out.
func (p *pkg) revert(ctx context.Context) error {
	var r record
	if _, err := rollout.Saved(ctx, &r); err != nil || r.Plan == nil {
		return err // it ended before anything was planned
	}
	if p.swap != nil {
		if err := p.swap.back(ctx, p.host, unitOf(p.want.Package), &r); err != nil {
			return err
		}
	}
	return p.host.Revert(ctx, r.change(), debpkg.RevertOptions{})
}

// change is what a revert is given.
func (r record) change() debpkg.Change {
	if r.Change != nil {
		return *r.Change
	}
	return debpkg.Change{Plan: *r.Plan}
}

// before is the version that a package had before the plan. The zero version means that
// it was not installed.
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
