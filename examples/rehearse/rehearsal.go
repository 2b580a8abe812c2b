package main

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"time"

	runner "example.com/tykupgrade/internal/run"
)

// rehearsal is one run. It holds the data that the steps share.
type rehearsal struct {
	o      options
	print  *printer
	report *Report
	ctx    context.Context // of the run, for cleanUp, which has its own
	dir    string
	undo   []func(context.Context) error
	ports  []string // that the rehearsal listened on
	parts  parts
	engine *engine // nil: no Docker engine, or not to be used
	hosts  string  // directory that containers of -fleet mount; empty: there were none

	from, to gatewayPart
	island   *island
	isolated bool // it has a network of its own

	own *own // nil: no packages of the user

	library, loader *ahead // see compileAhead; nil: not needed

	plugin   pluginState
	stack    *stack
	store    stores
	services map[string]*service
}

func newRehearsal(o options) *rehearsal {
	return &rehearsal{o: o, print: &printer{out: o.out(), verbose: o.verbose},
		services: map[string]*service{},
		report: &Report{From: o.from.String(), To: o.to.String(), Fail: o.fail, OK: true,
			Steps: []*Step{}}}
}

// step runs one part of the story and reports it.
func (r *rehearsal) step(ctx context.Context, name string, f func(context.Context,
	*Step) error) error {
	s := &Step{Name: name, Status: statusOK, Real: true}
	end, began := r.print.begin(name), time.Now()
	err := ctx.Err()
	if err == nil {
		err = f(ctx, s)
	}
	s.Duration = seconds(began)
	if err != nil {
		s.Status = statusFailed
		text := err.Error()
		if ctx.Err() != nil {
			text = "interrupted"
		}
		s.say("%s", text)
		r.report.OK = false
	}
	s.Real = s.Stub == "" && s.Status != statusSkipped
	r.report.Steps = append(r.report.Steps, s)
	end(s)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

// seconds since a time, to the millisecond.
func seconds(began time.Time) float64 { return float64(time.Since(began).Milliseconds()) / 1000 }

// later registers a function that runs at the end in any case.
func (r *rehearsal) later(f func(context.Context) error) { r.undo = append(r.undo, f) }

func (r *rehearsal) interrupted() bool { return r.ctx != nil && r.ctx.Err() != nil }

// perform runs all steps and cleans up.
func (r *rehearsal) perform(ctx context.Context) (_ *Report, err error) {
	began := time.Now()
	r.ctx = ctx
	if r.dir, err = workDir(); err != nil {
		r.report.OK = false
		return r.report, err
	}
	r.report.Started = began.UTC().Format(time.RFC3339)
	r.report.Commands = r.commands()
	r.print.out.Printf("%s → %s in %s\n\n", r.o.from, r.o.to, r.dir)
	defer context.AfterFunc(ctx,
		func() { r.print.out.Printf("interrupted: ending what is under way, cleaning up\n") })()
	story := r.story
	if r.o.fleet {
		story = r.fleet
	}
	err = story(ctx)
	// The context of the run may have ended; cleaning up must not.
	err = errors.Join(err, r.step(context.WithoutCancel(ctx), "clean up", func(_ context.Context,
		s *Step) error {
		return r.cleanUp(s)
	}))
	r.report.Duration = seconds(began)
	return r.report, err
}

// step is one part of the upgrade.
type step struct {
	name string
	do   func(context.Context, *Step) error
}

// story is the procedure, from the plugin's module to the health check.
func (r *rehearsal) story(ctx context.Context) error {
	// What needs no plugin comes first: meanwhile Go compiles its library for the plugin.
	steps := []step{
		{"components", r.components},
		{"gateways", r.gateways},
		{"redis", r.startRedis},
		{"mongodb", r.startMongo},
		{"install " + r.o.from.String(), r.installOld},
		{"plugin today", r.pluginToday},
		{"path and plan", r.pathAndPlan},
		{"prepare module", r.prepareModule},
		{"compile plugin", r.compilePlugin},
		{"preflight", r.preflight},
		{"bundle", r.bundle},
		{"gateway today", r.switchStep(stepToday)},
		{"publish bundle", r.switchStep(stepPublish)},
		{"gateway switched", r.switchStep(stepNext)},
		{"gateway back", r.switchStep(stepBack)},
	}
	if r.o.given.debs != "" {
		steps = append(steps, step{"your packages", r.debsToday}, step{"your packages upgraded",
			r.debsNext}, step{"your packages reverted", r.debsBack})
	}
	steps = append(steps, []step{
		{"services", r.startServices},
		{"backup", r.takeBackup},
		{"apt update, plan", r.planPackages},
		{"upgrade dashboard", r.upgrade("dashboard")},
	}...)
	if r.o.fail == "" {
		steps = append(steps, step{"upgrade gateway", r.upgrade("gateway")}, step{"upgrade pump",
			r.upgrade("pump")}, step{"health gate", r.gateAll})
	} else {
		steps = append(steps, step{"broken gateway", r.brokenGateway}, step{"revert packages",
			r.revertPackages},
			step{"restore data", r.restoreData}, step{"health gate", r.gateOld}, step{"proof", r.prove})
	}
	for _, s := range steps {
		if err := r.step(ctx, s.name, s.do); err != nil {
			return err
		}
	}
	return nil
}

// parts explains which outside programs are missing; empty: all are present.
type parts struct{ gcc, engine, redis, apt string }

// components finds the outside programs. Only a Go command is required.
func (r *rehearsal) components(ctx context.Context, s *Step) error {
	out, err := r.output(ctx, "go", "env", "GOVERSION")
	if err != nil {
		return err
	}
	have, lack := []string{strings.TrimSpace(out)}, []string{}
	note := func(name, version string, why *string, err error) {
		if err != nil {
			*why = err.Error()
			lack = append(lack, *why)
			return
		}
		have = append(have, strings.TrimSpace(name+" "+version))
	}
	version, err := r.compiler(ctx)
	note("C compiler", version, &r.parts.gcc, err)
	version, err = r.connectEngine(ctx)
	note("Docker engine", version, &r.parts.engine, err)
	version, err = r.redisVersion(ctx)
	note("redis-server", version, &r.parts.redis, err)
	version, err = r.aptVersion(ctx)
	note("apt", version, &r.parts.apt, err)
	s.say("%s", strings.Join(have, ", "))
	for _, l := range lack {
		s.say("not here: %s", l)
	}
	return r.compileAhead(ctx)
}

const module = "example.com/tykupgrade"

// inModule is an error unless the working directory is in this module, whose stubs the hosts of
// -fleet run.
func (r *rehearsal) inModule(ctx context.Context) error {
	out, err := r.output(ctx, "go", "list", "-m", "-f", "{{.Path}}")
	if err != nil || strings.TrimSpace(out) != module {
		return fmt.Errorf("find the stubs' sources: the working directory is not inside of the module "+
			"%s; run it there: go run ./examples/rehearse -fleet", module)
	}
	return nil
}

// compiler asks the Go command for its C compiler, without which it links no
// plugin.
func (r *rehearsal) compiler(ctx context.Context) (string, error) {
	cc, err := r.output(ctx, "go", "env", "CC")
	if err != nil {
		return "", err
	}
	name := strings.Fields(cc + " gcc")[0]
	if _, err := exec.LookPath(name); err != nil {
		return "", fmt.Errorf("%s is not on PATH, and Go links no plugins without a C compiler (Debian "+
			"packages gcc and libc6-dev)", name)
	}
	out, err := r.output(ctx, name, "-dumpfullversion", "-dumpversion")
	if err != nil {
		return name, nil //nolint:nilerr // a compiler that does not tell its version will do
	}
	return name + " " + strings.TrimSpace(out), nil
}

// output runs a command and returns what it prints.
func (r *rehearsal) output(ctx context.Context, argv ...string) (string, error) {
	r.print.event("%s", strings.Join(argv, " "))
	var out strings.Builder
	err := runner.Local(runner.Options{})(ctx, argv, nil, &out, nil)
	return out.String(), err
}
