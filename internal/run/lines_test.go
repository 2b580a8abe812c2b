package run

import (
	"bytes"
	"strings"
	"testing"
)

// Lines arrive whole whatever the pieces that they come in, and a stream
// without line ends does not fill the memory.
func TestLines(t *testing.T) {
	t.Parallel()
	var got []string
	l := Lines{Emit: func(s string) { got = append(got, s) }}
	for _, piece := range []string{"a", "b\nc\r\n", "", "\n", "d"} {
		if n, err := l.Write([]byte(piece)); n != len(piece) || err != nil {
			t.Errorf("%d, %v", n, err)
		}
	}
	l.Flush()
	l.Flush()
	if text := strings.Join(got, "|"); text != "ab|c||d" {
		t.Errorf("%q", text)
	}
	got = nil
	for range 100 {
		_, _ = l.Write(bytes.Repeat([]byte("x"), 10_000))
	}
	if len(got) < 10 || cap(l.rest) > 256<<10 {
		t.Errorf("%d pieces, %d bytes held", len(got), cap(l.rest))
	}
}
