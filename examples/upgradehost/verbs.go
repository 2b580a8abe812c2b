package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"example.com/tykupgrade/debpkg"
	"example.com/tykupgrade/examples/internal/cli"
)

// done prints the result: as JSON, or for people.
func (j *job) done(v any, show func()) error {
	j.Err.Clear()
	if j.json {
		return j.JSON(v)
	}
	show()
	return nil
}

func (j *job) facts(ctx context.Context) error {
	f, err := j.host.Facts(ctx)
	if err != nil {
		return err
	}
	return j.done(f, func() { j.Out.Printf("%s", f) })
}

// requests reads the arguments, in the order in which they are carried out.
func (j *job) requests() ([][]debpkg.Request, error) {
	var all []debpkg.Request
	for _, arg := range j.Args {
		r, err := debpkg.ParseRequest(arg)
		if err != nil {
			return nil, cli.Exit(cli.Usage, err)
		}
		if !r.Remove {
			r.Deb = j.debs
		}
		all = append(all, r)
	}
	if all == nil {
		return nil, cli.Wrong("PACKAGE is missing: want tyk-gateway=5.2.5 or the like")
	}
	return debpkg.InOrder(all), nil
}

// plans makes and prints the plans, and refuses what must not be applied.
func (j *job) plans(ctx context.Context, list [][]debpkg.Request) ([]debpkg.Plan, error) {
	if !j.noUpdate && j.debs == "" {
		if err := j.host.Update(ctx); err != nil {
			return nil, err
		}
	}
	var plans []debpkg.Plan
	var refused error
	for _, want := range list {
		p, err := j.host.Plan(ctx, want...)
		if err != nil {
			return plans, err
		}
		plans = append(plans, p)
		refused = errors.Join(refused, p.Refused())
	}
	j.Err.Clear()
	if !j.json {
		for _, p := range plans {
			j.Out.Printf("%s\n", p)
		}
	}
	return plans, refused
}

func (j *job) plan(ctx context.Context) error {
	list, err := j.requests()
	if err != nil {
		return err
	}
	plans, err := j.plans(ctx, list)
	if j.json && plans != nil {
		return errors.Join(err, j.JSON(plans))
	}
	return err
}

func (j *job) apply(ctx context.Context) error {
	list, err := j.requests()
	if err != nil {
		return err
	}
	if j.out == "" {
		j.out = "upgradehost-" + time.Now().UTC().Format("20060102T150405Z") + ".json"
	}
	all, err := readChanges(j.out)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	made, err := j.work(ctx, list, all)
	if j.json && made != nil {
		err = errors.Join(err, j.JSON(made))
	}
	return err
}

// work carries the requests out, after what an earlier apply began: all is
// what its file tells.
func (j *job) work(ctx context.Context, list [][]debpkg.Request,
	all []debpkg.Change) (made []debpkg.Change, err error) {
	finished := len(all) > 0
	for i := range all {
		if all[i].Started.IsZero() {
			// Its process was killed; the same plan finds what became of it.
			finished = false
			j.Err.Printf("finishing what an earlier apply began\n")
			if made, err = j.carryOut(ctx, all, i, made, true); err != nil {
				return made, err
			}
		}
	}
	plans, err := j.plans(ctx, list)
	if err != nil {
		return made, err
	}
	plans = slices.DeleteFunc(plans, debpkg.Plan.Empty)
	switch {
	case len(plans) == 0:
		return made, nil
	case finished:
		return made, cli.Wrong("%s holds what a revert of earlier changes needs: name another "+
			"file with -out", j.out)
	case !j.yes && !j.Confirm("Carry this out?"):
		return made, cli.Refuse(errors.New("not approved; nothing was changed"))
	}
	for _, p := range plans {
		all = append(all, debpkg.Change{Plan: p})
		if made, err = j.carryOut(ctx, all, len(all)-1, made, false); err != nil {
			return made, err
		}
	}
	if !j.json {
		j.Out.Printf("To go back: upgradehost revert -change %s\n", j.out)
	}
	return made, nil
}

// carryOut applies the plan of all[i], which an earlier apply may have begun.
// The file tells of it before it begins, and a failed change stays in it: that is
// what has to be reverted.
func (j *job) carryOut(ctx context.Context, all []debpkg.Change, i int, made []debpkg.Change,
	begun bool) ([]debpkg.Change, error) {
	if err := j.record(all); err != nil {
		return made, err
	}
	do := j.host.Apply
	if j.stage {
		do = j.host.Stage
	}
	change, err := do(ctx, all[i].Plan)
	// Only the host's own word settles that what an earlier apply began is not there.
	if begun && change.Started.IsZero() && err != nil && !errors.Is(err, debpkg.ErrChanged) &&
		!errors.Is(err, debpkg.ErrRefused) {
		return made, cli.Advice(err, j.out+" still tells of it: call again, or name another file with "+
			"-out to leave it")
	}
	if change.Started.IsZero() { // nothing was done
		return made, errors.Join(err, j.record(slices.Delete(slices.Clone(all), i, i+1)))
	}
	all[i], made = change, append(made, change)
	if werr := j.record(all); werr != nil {
		return made, errors.Join(err, werr)
	}
	if err != nil {
		return made, cli.Advice(err, "to go back: upgradehost revert -change "+j.out)
	}
	j.Err.Clear()
	if !j.json {
		j.printChange(change)
	}
	return made, nil
}

// readChanges reads a file that decides what root does on the host.
func readChanges(file string) ([]debpkg.Change, error) {
	data, err := cli.ReadOwn(file)
	if err != nil {
		return nil, err
	}
	var changes []debpkg.Change
	if err := json.Unmarshal(data, &changes); err != nil {
		return nil, cli.Advice(fmt.Errorf("read %s: %w", file, err), "name a file that apply wrote")
	}
	return changes, nil
}

// record replaces the file, and removes it when there is nothing to tell.
func (j *job) record(changes []debpkg.Change) error {
	if len(changes) == 0 {
		return os.Remove(j.out)
	}
	data, err := json.MarshalIndent(changes, "", "  ")
	if err == nil {
		err = cli.WriteFile(j.out, append(data, '\n'))
	}
	if err != nil {
		return fmt.Errorf("write what a revert needs: %w", err)
	}
	return nil
}

func (j *job) revert(ctx context.Context) error {
	var changes []debpkg.Change
	var err error
	switch {
	case (j.change == "") == (j.last == nil):
		return cli.Wrong("give either -change FILE or -last PACKAGES")
	case j.last == nil:
		changes, err = readChanges(j.change)
	default:
		changes = make([]debpkg.Change, 1)
		changes[0], err = j.host.RevertFromHistory(ctx, j.last...)
	}
	if err != nil {
		return err
	}
	for _, change := range slices.Backward(changes) { // the last one first
		if err := j.host.Revert(ctx, change, debpkg.RevertOptions{Files: j.files}); err != nil {
			return err
		}
		j.Err.Clear()
		for _, a := range change.Plan.Actions {
			j.ok("%s is back from %s", state(a.Package, a.From), state(a.Package, a.To))
		}
	}
	return nil
}

func (j *job) repair(ctx context.Context) error {
	if err := j.host.Repair(ctx); err != nil {
		return err
	}
	j.Err.Clear()
	j.ok("no package is left half-installed")
	return nil
}

// forget asks the host first: the file is of use as long as the host keeps
// anything of what it tells.
func (j *job) forget(ctx context.Context) error {
	if j.change == "" {
		return cli.Wrong("-change is missing: give the file that apply wrote")
	}
	changes, err := readChanges(j.change)
	if err != nil {
		return err
	}
	for _, change := range changes {
		if err := j.host.Forget(ctx, change); err != nil {
			return err
		}
	}
	if err := os.Remove(j.change); err != nil {
		return err
	}
	j.ok("nothing is kept of %s any more; it cannot be reverted", j.change)
	return nil
}

func (j *job) history(ctx context.Context) error {
	entries, err := j.host.History(ctx)
	if err != nil {
		return err
	}
	if entries == nil {
		entries = []debpkg.Entry{} // [] rather than null
	}
	return j.done(entries, func() { j.printHistory(entries) })
}
