// Package printable makes text from hosts, files and peers safe to show. A terminal obeys escape
// sequences, and bidirectional marks change the order of the shown text. The package writes both as
// escapes, so nothing is lost.
package printable

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

// Text escapes the control characters of s but keeps its lines and tabs. It drops a carriage return
// before a newline.
func Text(s string) string { return spell(s, true) }

// Line returns [Text] on one line: line ends and tabs become spaces.
func Line(s string) string { return strings.TrimSpace(spell(s, false)) }

func spell(s string, lines bool) string {
	if !strings.ContainsFunc(s, func(r rune) bool {
		return Steers(r) || r == utf8.RuneError ||
			!lines && (r == '\n' || r == '\t')
	}) {
		return s
	}
	var b strings.Builder
	s = strings.ReplaceAll(s, "\r\n", "\n")
	for i := 0; i < len(s); {
		r, size := utf8.DecodeRuneInString(s[i:])
		switch {
		case r == utf8.RuneError && size == 1:
			fmt.Fprintf(&b, `\x%02x`, s[i])
		case r == '\n' || r == '\t':
			if !lines {
				r = ' '
			}
			b.WriteRune(r)
		case r < 0x20 || r == 0x7f:
			fmt.Fprintf(&b, `\x%02x`, r)
		case Steers(r):
			fmt.Fprintf(&b, `\u%04x`, r)
		default:
			b.WriteString(s[i : i+size])
		}
		i += size
	}
	return b.String()
}

// Steers reports whether a terminal obeys r instead of showing it: C0 and C1
// controls other than newline and tab, and the marks that change the direction
// of text or separate lines.
func Steers(r rune) bool {
	switch {
	case r == '\n' || r == '\t':
		return false
	case r < 0x20, r >= 0x7f && r <= 0x9f, r == 0x61c, r == 0x200e, r == 0x200f, r >= 0x2028 &&
		r <= 0x202e, r >= 0x2066 && r <= 0x2069:
		return true
	}
	return false
}
