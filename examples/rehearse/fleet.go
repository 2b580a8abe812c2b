package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/filters"

	"example.com/tykupgrade/debpkg/fleet"
	"example.com/tykupgrade/debpkg/rollout"
	"example.com/tykupgrade/internal/lab/host"
	"example.com/tykupgrade/internal/lab/stage"
	"example.com/tykupgrade/pluginbuild/compiler"
)

// fleet is the story of two hosts under load.
func (r *rehearsal) fleet(ctx context.Context) error {
	var st *stage.Stage
	var load *stage.Load
	steps := []step{
		{"components", func(ctx context.Context, s *Step) error {
			if err := r.inModule(ctx); err != nil {
				return err
			}
			if err := stage.Available(); err != nil {
				return fmt.Errorf("-fleet needs more than this machine has: %w", err)
			}
			s.say("a Docker engine, HAProxy, redis-server, ssh, dpkg-deb and apt-ftparchive are here")
			return nil
		}},
		{"two hosts", func(ctx context.Context, s *Step) (err error) {
			st, err = r.stage(ctx, s)
			return err
		}},
		{"load", func(ctx context.Context, s *Step) error {
			load = stage.StartLoad(st.Front, 16)
			r.later(func(context.Context) error { load.Stop(); return nil })
			s.say("16 clients send requests of up to 2.5 s through HAProxy, each on a connection of its own")
			return r.await(ctx, load, 500)
		}},
		{"rolling upgrade", func(ctx context.Context, s *Step) error { return r.roll(ctx, s, st) }},
		{"requests", func(ctx context.Context, s *Step) error {
			s.Stub = "the gateways that answer; HAProxy and load are real"
			total, _ := load.Sent()
			if err := r.await(ctx, load, total+500); err != nil {
				return err
			}
			load.Stop()
			q := &Requests{First: load.First()}
			q.Sent, q.Failed = load.Sent()
			r.report.Requests = q
			s.say("%d failed of %d requests", q.Failed, q.Sent)
			if q.Failed > 0 {
				return fmt.Errorf("requests failed, the first: %s", q.First)
			}
			return nil
		}},
	}
	for _, s := range steps {
		if err := r.step(ctx, s.name, s.do); err != nil {
			return err
		}
	}
	return nil
}

// await waits until the load has sent so many requests.
func (r *rehearsal) await(ctx context.Context, load *stage.Load, least int64) error {
	for {
		total, failed := load.Sent()
		if total >= least {
			return nil
		}
		r.print.event("%d requests, %d failed", total, failed)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// stage boots the hosts.
func (r *rehearsal) stage(ctx context.Context, s *Step) (*stage.Stage, error) {
	s.Stub = "containers with systemd and sshd for the hosts, small packages for Tyk's; " +
		"HAProxy, Redis, ssh, apt and dpkg are real"
	dir := filepath.Join(r.dir, "stage")
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, err
	}
	r.hosts = dir
	st, err := stage.New(ctx, stage.Options{Dir: dir, Old: r.o.from.String(), New: r.o.to.String(),
		Broken: r.broken(),
		Say:    func(text string) { r.print.event("%s", text) }})
	if err != nil {
		return nil, err
	}
	r.later(func(context.Context) error { return st.Close() })
	r.ports = append(r.ports, st.Front, st.Split, st.Redis.Addr)
	image, err := host.Image(ctx, "")
	s.say("h1 and h2 with tyk-gateway %s behind HAProxy; the image %s stays for the next time",
		r.o.from, image)
	return st, err
}

// hostsLeft counts the containers of hosts that mount something below dir.
func hostsLeft(ctx context.Context, dir string, left *Left) error {
	docker, err := compiler.Connect(compiler.ConnectOptions{})
	if err != nil {
		return err
	}
	defer func() { _ = docker.Close() }()
	all, err := docker.ContainerList(ctx, container.ListOptions{All: true,
		Filters: filters.NewArgs(filters.Arg("label", host.Label))})
	if err != nil {
		return err
	}
	var names []string
	for _, c := range all {
		if slices.ContainsFunc(c.Mounts, func(m container.MountPoint) bool {
			return strings.HasPrefix(
				m.Source, dir+"/")
		}) {
			names = append(names, c.ID[:min(12, len(c.ID))])
		}
	}
	if left.Containers += len(names); len(names) > 0 {
		return fmt.Errorf("the engine still has the containers of hosts %s; docker rm -f removes them",
			strings.Join(names, ", "))
	}
	return nil
}

// broken is the version whose gateway cannot start: another one than -to, as
// both are in the repository.
func (r *rehearsal) broken() string {
	v := r.o.to.IncPatch()
	return v.String() + "~broken1"
}

// roll upgrades one host after the other, or with -fail one alone, which the
// rollout then reverts.
func (r *rehearsal) roll(ctx context.Context, s *Step, st *stage.Stage) error {
	s.Stub = "the gateways; rollout, ssh, apt and HAProxy are real"
	target := r.o.to.String()
	if r.o.fail != "" {
		target = r.broken()
	}
	path, err := st.Inventory(target, "")
	if err != nil {
		return err
	}
	inv, err := fleet.Load(path, nil)
	if err != nil {
		return err
	}
	waves, err := inv.Waves(fleet.Options{Progress: func(host, text string) {
		r.print.event("%s: %s",
			host, text)
	}})
	if err != nil {
		return err
	}
	o := inv.RunOptions()
	o.Journal = path + ".journal"
	o.Progress = func(rec rollout.Record) {
		r.print.event("%s %s %s %s %s", rec.Kind, rec.Target, rec.Step, rec.Status, rec.Error)
	}
	rep, runErr := rollout.Run(ctx, waves, o)
	if ctx.Err() != nil {
		return runErr
	}
	versions, err := st.Versions(ctx)
	if err != nil {
		return errors.Join(runErr, err)
	}
	for _, t := range rep.Targets {
		s.say("%s: %s", t.Name, t.Status)
	}
	s.say("dpkg and the gateways say: %s", strings.Join(versions, ", "))
	want := target
	switch {
	case r.o.fail == "" && runErr != nil:
		return runErr
	case r.o.fail != "" && runErr == nil:
		return errors.New("the rollout of a gateway that cannot start succeeded")
	case r.o.fail != "":
		want = r.o.from.String()
		s.say("the broken gateway was found and reverted: %s", rep.Halt)
	}
	for _, v := range versions {
		if v != want {
			return fmt.Errorf("the hosts have %s, not %s", strings.Join(versions, ", "), want)
		}
	}
	r.report.Reverted = r.o.fail != ""
	return nil
}
