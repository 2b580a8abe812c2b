package cli

import (
	"errors"
	"io"
	"strings"
	"testing"
)

func TestPlainOutputHasNoEscapes(t *testing.T) {
	t.Parallel()
	var b strings.Builder
	o := NewOut(&b)
	o.Redraw(Bar("x", 1, 2))
	o.Printf("%s\n%s", o.Paint(Bad, "failed"), o.Table([][]string{{"a", "b"}, {"long cell", ""}}))
	o.Clear()
	if want := "failed\na          b\nlong cell\n"; b.String() != want {
		t.Errorf("got %q, want %q", b.String(), want)
	}
}

func TestLiveRegionStaysBelowTheLog(t *testing.T) {
	t.Parallel()
	var b strings.Builder
	o := &Out{w: &b, live: true, color: true, width: func() int { return 10 }}
	o.Redraw("one", "two is too long")
	o.Printf("log\n")
	o.Clear()
	want := "one\ntwo is to\n" + "\x1b[2A\r\x1b[J" + "log\n" + "one\ntwo is to\n" + "\x1b[2A\r\x1b[J"
	if b.String() != want {
		t.Errorf("got %q, want %q", b.String(), want)
	}
}

func TestErrKeepsTheFirstFailure(t *testing.T) {
	t.Parallel()
	r, w := io.Pipe()
	o := NewOut(w)
	if o.Err() != nil {
		t.Error(o.Err())
	}
	full, other := errors.New("disk full"), errors.New("other")
	_ = r.CloseWithError(full)
	o.Printf("lost\n")
	_ = r.CloseWithError(other)
	o.Printf("lost too\n")
	if !errors.Is(o.Err(), full) {
		t.Errorf("got %v", o.Err())
	}
}

func TestBarAndBytes(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		done, total int64
		want        string
	}{
		{512, 1024, " 50%  512 B of 1.0 KiB"},
		{5 << 30, 5 << 30, "100%  5.0 GiB of 5.0 GiB"},
		{9, 3, "100%  3 B of 3 B"},
		{7, 0, "7 B"},
	} {
		if got := Bar("pull", c.done, c.total); !strings.HasPrefix(got, "pull ") ||
			!strings.HasSuffix(got, c.want) {
			t.Errorf("Bar(%d, %d) = %q", c.done, c.total, got)
		}
	}
}

func TestTableIgnoresColour(t *testing.T) {
	t.Parallel()
	o := &Out{color: true}
	got := o.Table([][]string{{"h", "i"}, {o.Paint(Good, "ok"), "x"}})
	if want := "\x1b[1mh\x1b[0m   \x1b[1mi\x1b[0m\n\x1b[32mok\x1b[0m  x\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// Lines of prose break between words at the width of a terminal, and rows of two columns keep
// their columns. Without a terminal a line stays whole, for programs that read it.
func TestNarrow(t *testing.T) {
	t.Parallel()
	out := &Out{narrow: true, width: func() int { return 30 }}
	long := "run: connection to the host failed: refused\n  check the address of the host"
	if got, want := out.fill(long), "run: connection to the host\n  failed: refused\n"+
		"  check the address of the\n    host"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	if got := (&Out{}).fill(long); got != long {
		t.Errorf("%q", got)
	}
	help := "A command that does\nmany things.\n\n  plan  show what would be done to a host\n\n" +
		"  cmd -x y z a b c d e f g h i j\n"
	if got, want := prose(help, out), "A command that does many\nthings.\n\n  plan  show what would be\n"+
		"        done to a host\n\n  cmd -x y z a b c d e f g h i j\n"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}
