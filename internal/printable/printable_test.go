package printable

import (
	"strings"
	"testing"
	"unicode/utf8"
)

func TestText(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"plain é 漢字":              "plain é 漢字",
		"a\x1b[2J\x1b]0;t\ab":     `a\x1b[2J\x1b]0;t\x07b`,
		"over\rwritten\r\n\tnext": "over\\x0dwritten\n\tnext",
		"\u202egnp.exe\u2066":     `\u202egnp.exe\u2066`,
		"c1 \u009b31m\x7f":        `c1 \u009b31m\x7f`,
		"torn \xff\xc3":           `torn \xff\xc3`,
	} {
		if got := Text(in); got != want {
			t.Errorf("Text(%q) = %q, want %q", in, got, want)
		}
	}
	if got := Line(" a\nb\tc\x1b "); got != `a b c\x1b` {
		t.Errorf("Line: %q", got)
	}
}

func FuzzText(f *testing.F) {
	f.Add("a\x1b[2J\u202e\xff\r\n")
	f.Fuzz(func(t *testing.T, s string) {
		for _, got := range []string{Text(s), Line(s)} {
			if strings.ContainsFunc(got, Steers) || !utf8.ValidString(got) {
				t.Errorf("%q became %q", s, got)
			}
			if Text(got) != got {
				t.Errorf("%q changes again", got)
			}
		}
	})
}
