package lazyregexp_test

import (
	"testing"

	"example.com/tykupgrade/internal/lazyregexp"
)

func TestWrongExpression(t *testing.T) {
	t.Parallel()
	defer func() {
		if recover() == nil {
			t.Error("a wrong expression passes the tests of its package")
		}
	}()
	lazyregexp.New("(")
}

func TestReplace(t *testing.T) {
	t.Parallel()
	r := lazyregexp.New(`(\w+)@(\w+)`)
	if got, want := r.ReplaceAllString("ops@gw1", "$2 of $1"), "gw1 of ops"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
