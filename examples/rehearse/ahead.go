package main

import (
	"context"

	"example.com/tykupgrade/internal/lab/compiler"
	"example.com/tykupgrade/pluginbuild"
)

// ahead is work that begins before its step, because it takes half a minute if Go's build cache is
// empty.
type ahead struct {
	done chan struct{}
	data []byte
	err  error
}

func begin(f func() ([]byte, error)) *ahead {
	a := &ahead{done: make(chan struct{})}
	go func() {
		defer close(a.done)
		a.data, a.err = f()
	}()
	return a
}

// wait returns the outcome. Without work it returns nothing.
func (a *ahead) wait() ([]byte, error) {
	if a == nil {
		return nil, nil
	}
	<-a.done
	return a.data, a.err
}

// compileAhead begins to compile Go's library for the plugin, and then links the gateway that loads
// it with the same library.
func (r *rehearsal) compileAhead(ctx context.Context) error {
	given := r.o.given
	mine := given.target != "" || given.plugin != "" && !isModule(given.plugin)
	if r.parts.gcc != "" || mine {
		return nil
	}
	release, err := pluginbuild.Lookup(r.o.to)
	if err != nil {
		return err
	}
	ctx, stop := context.WithCancel(ctx)
	r.library = begin(func() ([]byte, error) {
		return nil, compiler.FillGoLibrary(ctx, release.Version, "GOFLAGS="+r.goFlags())
	})
	if given.gatewayFrom == "" && given.gateway == "" && release.Compiler.Trimpath {
		r.loader = begin(func() ([]byte, error) {
			_, _ = r.library.wait() // if it failed, the link tells the cause
			return compiler.BuildGateway(ctx, "GOFLAGS="+r.goFlags())
		})
	}
	r.later(func(context.Context) error {
		stop()
		_, _ = r.library.wait()
		_, _ = r.loader.wait()
		return nil
	})
	return nil
}

// awaitLibrary waits until Go's library is compiled.
func (r *rehearsal) awaitLibrary() {
	r.print.event("compile Go's library")
	_, _ = r.library.wait() // if it failed, the compilation tells the cause
}
