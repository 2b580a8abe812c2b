package main

import (
	"context"
	"os"
	"path/filepath"
)

// gateways brings both gateways into the directory.
func (r *rehearsal) gateways(ctx context.Context, s *Step) (err error) {
	if r.from, err = r.gatewayPart(ctx, r.o.given.gatewayFrom, r.o.from.String()); err != nil {
		return err
	}
	if r.to, err = r.gatewayPart(ctx, r.o.given.gateway, r.o.to.String()); err != nil {
		return err
	}
	for _, g := range []gatewayPart{r.from, r.to} {
		s.say("%s", g.kind())
	}
	r.noteStubs(s)
	return nil
}

// noteStubs records which gateways are stubs.
func (r *rehearsal) noteStubs(s *Step) {
	switch {
	case !r.from.Real && !r.to.Real:
		s.Stub = "programs that treat bundles and plugins as the gateways of their releases do"
	case !r.from.Real:
		s.Stub = "gateway " + r.from.Version
	case !r.to.Real:
		s.Stub = "gateway " + r.to.Version
	}
}

// switchStep runs a step of the switch on the island.
func (r *rehearsal) switchStep(what string) func(context.Context, *Step) error {
	return func(ctx context.Context, s *Step) error {
		if r.plugin.zip.name == "" {
			s.skip("the two releases share no bundle: each needs one of its own, under a name of its own")
			return nil
		}
		if real := r.from.Real || r.to.Real; real && r.parts.redis != "" {
			s.skip("a gateway needs Redis: " + r.parts.redis)
			return nil
		}
		if r.island == nil {
			if err := r.land(); err != nil {
				return err
			}
		}
		r.noteStubs(s)
		err := r.island.do(ctx, what, s, func(text string) { r.print.event("%s", text) })
		if what == stepToday && err == nil {
			if r.isolated {
				s.say("the gateways have a network of their own, with nothing but loopback")
			} else {
				s.say("not isolated: this machine allows no network namespace; only stubs run")
			}
		}
		if what == stepBack && err == nil {
			r.island.close()
		}
		return err
	}
}

func (r *rehearsal) land() (err error) {
	given := r.o.given
	j := job{Dir: filepath.Join(r.dir, "host"), From: r.from, To: r.to, Bundle: r.plugin.zip.name,
		Old: r.plugin.zip.old, New: r.plugin.zip.new,
		Redis: program("redis-server"), Gates: r.o.gates}
	if r.parts.redis != "" {
		j.Redis = ""
	}
	for into, path := range map[*string]string{&j.Conf: given.conf, &j.APIs: given.apis} {
		if path != "" {
			if *into, err = filepath.Abs(path); err != nil {
				return err
			}
		}
	}
	if err := os.Mkdir(j.Dir, 0o755); err != nil {
		return err
	}
	r.island, r.isolated, err = land(j)
	if err == nil {
		r.later(func(context.Context) error { r.island.close(); return nil })
	}
	return err
}
