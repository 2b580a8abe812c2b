package main

import (
	"context"
	"io"
	"testing"

	"example.com/tykupgrade/internal/lab"
)

// Go's library is compiled ahead only if a plugin will be compiled. An interrupt ends that, and
// the end of the rehearsal waits for it.
func TestCompileAhead(t *testing.T) {
	t.Parallel()
	lab.Program(t, "go", "golang-go")
	for name, c := range map[string]struct {
		to              string
		change          func(*rehearsal)
		library, loader bool
	}{
		"a plugin": {"5.2.5", func(*rehearsal) {}, true, true},
		"no C compiler": {"5.2.5", func(r *rehearsal) { r.parts.gcc = "none" },
			false, false},
		"compiled builds": {"5.2.5", func(r *rehearsal) { r.o.given.target = "a.so" },
			false, false},
		"a gateway of the user": {"5.2.5", func(r *rehearsal) { r.o.given.gateway = "tyk" },
			true, false},
		"a release before workspaces": {"5.0.15", func(*rehearsal) {}, true, false},
	} {
		r := newRehearsal(options{from: mustVersion(t, "4.0.8"), to: mustVersion(t, c.to),
			stdout: io.Discard, err: io.Discard})
		c.change(r)
		if plain := r.goFlags() == "-buildvcs=false"; plain != (r.o.given.gateway != "") {
			t.Errorf("%s: flags %s", name, r.goFlags())
		}
		ctx, interrupt := context.WithCancel(t.Context())
		interrupt()
		if err := r.compileAhead(ctx); err != nil {
			t.Fatal(err)
		}
		for what, x := range map[string]struct {
			work *ahead
			want bool
		}{"library": {r.library, c.library}, "loader": {r.loader, c.loader}} {
			if _, err := x.work.wait(); (x.work != nil) != x.want || (err != nil) != x.want {
				t.Errorf("%s: %s: began %v, %v", name, what, x.work != nil, err)
			}
		}
		for _, f := range r.undo {
			if err := f(t.Context()); err != nil {
				t.Error(err)
			}
		}
	}
}
