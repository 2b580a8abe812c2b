package cli

import (
	"bufio"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode/utf8"
)

// List is a repeatable flag.
type List []string

func (l *List) String() string { return strings.Join(*l, ",") }

// Set adds a value.
func (l *List) Set(s string) error { *l = append(*l, s); return nil }

// Get returns the values.
func (l *List) Get() any { return []string(*l) }

// Words returns the function of a flag that accepts known words, separated by commas.
func Words(to *[]string, known ...string) func(string) error {
	return func(text string) error {
		for word := range strings.SplitSeq(text, ",") {
			if !slices.Contains(known, word) {
				return errUnknown("word", word, known)
			}
			*to = append(*to, word)
		}
		return nil
	}
}

// Without registers the flag that skips checks.
func Without(f *flag.FlagSet, to *[]string, checks ...string) {
	f.Func("without", "skip these checks, separated by commas: `NAMES` of "+strings.Join(checks, ", "),
		Words(to, checks...))
}

// Confirm asks a question. Only the answer "y" is a yes.
func (c *Call) Confirm(question string) bool {
	c.Err.Printf("%s [y/N] ", question)
	answer, _ := bufio.NewReader(c.In).ReadString('\n')
	return strings.EqualFold(strings.TrimSpace(answer), "y")
}

// JSON prints v as one indented JSON document.
func (c *Call) JSON(v any) error {
	enc := json.NewEncoder(c.Out)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

// Count returns a number with its noun: "1 host", "3 hosts".
func Count(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

// Lines returns the values one a line.
func Lines[T any](values []T) string {
	var b strings.Builder
	for _, v := range values {
		fmt.Fprintln(&b, v)
	}
	return b.String()
}

// Bar returns one line of progress: label, bar, percent, amounts. A total of 0 or less means that
// the total is unknown.
func Bar(label string, done, total int64) string {
	const cells = 28
	if total <= 0 {
		return fmt.Sprintf("%-28s %s", label, Bytes(done))
	}
	done = min(max(done, 0), total)
	part := float64(done) / float64(total)
	full := int(part * cells)
	return fmt.Sprintf("%-28s [%s%s] %3.0f%%  %s of %s", label, strings.Repeat("█", full),
		strings.Repeat("·", cells-full), part*100, Bytes(done), Bytes(total))
}

// Bytes returns a size with a binary unit.
func Bytes(n int64) string {
	const units = "KMGTPE"
	if n < 1024 {
		return fmt.Sprintf("%d B", n)
	}
	f, i := float64(n)/1024, 0
	for f >= 1024 && i < len(units)-1 {
		f, i = f/1024, i+1
	}
	return fmt.Sprintf("%.1f %ciB", f, units[i])
}

// Table aligns rows in columns two spaces apart. The first row is the heading. Colour codes do not
// count as width. On a terminal the last column breaks between words. It gets separate lines if the
// other columns leave too little room.
func (o *Out) Table(rows [][]string) string {
	var widths []int
	for _, row := range rows {
		for i, cell := range row {
			if i == len(widths) {
				widths = append(widths, 0)
			}
			widths[i] = max(widths[i], visible(cell))
		}
	}
	before := 0
	for _, w := range widths[:max(len(widths)-1, 0)] {
		before += w + 2
	}
	const least = 24 // columns for a last cell that breaks
	var b strings.Builder
	for r, row := range rows {
		var line strings.Builder
		for i, cell := range row {
			pad := widths[i] - visible(cell) + 2
			if r == 0 {
				cell = o.Paint(Bold, cell)
			}
			if last := i == len(widths)-1; last && o.narrow && before+visible(cell) > o.width() {
				head := line.String()
				if o.width()-before < least {
					b.WriteString(strings.TrimRight(head, " ") + "\n")
					head = "    "
				}
				line.Reset()
				line.WriteString(strings.TrimSuffix(indent(head, cell, o.width()), "\n"))
				continue
			}
			line.WriteString(cell)
			if i < len(row)-1 {
				line.WriteString(strings.Repeat(" ", pad))
			}
		}
		b.WriteString(strings.TrimRight(line.String(), " ") + "\n")
	}
	return b.String()
}

// Marked is [Out.Table] with the cells of one column in the style of their text.
func (o *Out) Marked(rows [][]string, column int, styles map[string]Style) string {
	marked := make([][]string, len(rows))
	for i, row := range rows {
		if marked[i] = slices.Clone(row); i > 0 {
			marked[i][column] = o.Paint(styles[row[column]], row[column])
		}
	}
	return o.Table(marked)
}

// Labelled is [Out.Table] with the second cell of a row in the style of the first.
func (o *Out) Labelled(rows [][]string, styles map[string]Style) string {
	marked := make([][]string, len(rows))
	for i, row := range rows {
		marked[i] = slices.Clone(row)
		marked[i][1] = o.Paint(styles[row[0]], row[1])
	}
	return o.Table(marked)
}

// indent writes text behind head, broken between words, all lines below one another.
func indent(head, text string, width int) string {
	start := visible(head)
	var b strings.Builder
	for i, part := range strings.Split(text, "\n") {
		if i > 0 {
			head = strings.Repeat(" ", start)
		}
		b.WriteString(head)
		at := start
		for j, word := range strings.Fields(part) {
			switch n := visible(word); {
			case j == 0:
				at += n
			case at+1+n > width:
				b.WriteString("\n" + strings.Repeat(" ", start))
				at = start + n
			default:
				b.WriteString(" ")
				at += 1 + n
			}
			b.WriteString(word)
		}
		b.WriteString("\n")
	}
	return b.String()
}

// fill breaks the lines that are wider than a narrow output between words, and indents what
// follows by two columns more.
func (o *Out) fill(text string) string {
	if !o.narrow {
		return text
	}
	lines := strings.Split(text, "\n")
	for i, line := range lines {
		if visible(line) <= o.width() {
			continue
		}
		left := line[:len(line)-len(strings.TrimLeft(line, " "))]
		rest := strings.TrimSuffix(indent("", line, o.width()-len(left)-2), "\n")
		lines[i] = left + strings.ReplaceAll(rest, "\n", "\n  "+left)
	}
	return strings.Join(lines, "\n")
}

// visible counts the columns of a text.
func visible(s string) int {
	n := 0
	for i := 0; i < len(s); {
		if s[i] == '\x1b' {
			if end := strings.IndexByte(s[i:], 'm'); end >= 0 {
				i += end + 1
				continue
			}
		}
		_, size := utf8.DecodeRuneInString(s[i:])
		n, i = n+1, i+size
	}
	return n
}

// clip shortens a line to n visible columns and keeps colour codes whole.
func clip(s string, n int) string {
	var b strings.Builder
	for i := 0; i < len(s); {
		if s[i] == '\x1b' {
			end := strings.IndexByte(s[i:], 'm')
			if end < 0 {
				break
			}
			b.WriteString(s[i : i+end+1])
			i += end + 1
			continue
		}
		r, size := utf8.DecodeRuneInString(s[i:])
		if n > 0 {
			b.WriteRune(r)
			n--
		}
		i += size
	}
	return b.String()
}

// safe writes p with control characters escaped, because foreign text must not control the
// terminal. It keeps line ends, tabs and this package's colours. The escapes are those of JSON, so
// a JSON document keeps its meaning.
func safe(w io.Writer, p []byte) error {
	var b strings.Builder
	b.Grow(len(p))
	for i := 0; i < len(p); {
		r, size := utf8.DecodeRune(p[i:])
		switch {
		case r == '\x1b' && style(p[i:]) > 0:
			size = style(p[i:])
			b.Write(p[i : i+size])
		case r == utf8.RuneError && size == 1:
			b.WriteRune(r)
		case r == '\n', r == '\t', r >= ' ' && !steers(r):
			b.Write(p[i : i+size])
		default:
			fmt.Fprintf(&b, `\u%04x`, r)
		}
		i += size
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// style returns the length of this package's colour code at the beginning of p, or 0.
func style(p []byte) int {
	for _, s := range []Style{Good, Warn, Bad, Bold, Faint, reset} {
		if strings.HasPrefix(string(p[:min(len(p), len(s))]), string(s)) {
			return len(s)
		}
	}
	return 0
}

// steers reports whether a character is DEL, C1, or changes the direction of text.
func steers(r rune) bool {
	switch {
	case r >= 0x7f && r <= 0x9f, r == 0x61c, r == 0x200e, r == 0x200f, r >= 0x2028 && r <= 0x202e,
		r >= 0x2066 && r <= 0x2069:
		return true
	}
	return false
}
