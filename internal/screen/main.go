// Command screen draws the text on its standard input as an SVG picture of a
// terminal, for the README: make screen.
package main

import (
	"bufio"
	"encoding/xml"
	"fmt"
	"io"
	"os"
	"strings"
	"unicode/utf8"
)

const (
	lineHeight = 17
	charWidth  = 7.8 // of a 13 px monospace font
	margin     = 14
	tabWidth   = 8
)

func main() {
	if err := draw(os.Stdin, os.Stdout, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "screen:", err)
		os.Exit(1)
	}
}

// draw writes the picture. The words of command are its first line.
func draw(in io.Reader, out io.Writer, command []string) error {
	var lines []string
	if len(command) > 0 {
		lines = append(lines, "$ "+strings.Join(command, " "))
	}
	columns := 0
	text := bufio.NewScanner(in)
	for text.Scan() {
		lines = append(lines, expand(text.Text()))
	}
	if err := text.Err(); err != nil {
		return fmt.Errorf("read standard input: %w", err)
	}
	for _, line := range lines {
		columns = max(columns, utf8.RuneCountInString(line))
	}
	w := bufio.NewWriter(out)
	width, height := int(float64(columns)*charWidth)+2*margin, len(lines)*lineHeight+2*margin
	fmt.Fprintf(w, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %d %d" role="img">`+"\n",
		width, height, width, height)
	fmt.Fprintln(w, `<style>
rect { fill: #f6f8fa; stroke: #d0d7de }
text { font: 13px ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; fill: #1f2328; white-space: pre }
@media (prefers-color-scheme: dark) {
rect { fill: #161b22; stroke: #30363d }
text { fill: #e6edf3 }
}
</style>`)
	fmt.Fprintf(w, `<rect x="0.5" y="0.5" width="%d" height="%d" rx="8"/>`+"\n", width-1, height-1)
	for i, line := range lines {
		if line == "" {
			continue
		}
		fmt.Fprintf(w, `<text x="%d" y="%d">`, margin, margin+12+i*lineHeight)
		if err := xml.EscapeText(w, []byte(line)); err != nil {
			return err
		}
		fmt.Fprintln(w, "</text>")
	}
	fmt.Fprintln(w, "</svg>")
	return w.Flush()
}

// expand replaces tabs with spaces up to the next stop.
func expand(line string) string {
	var b strings.Builder
	column := 0
	for _, r := range line {
		if r != '\t' {
			b.WriteRune(r)
			column++
			continue
		}
		n := tabWidth - column%tabWidth
		b.WriteString(strings.Repeat(" ", n))
		column += n
	}
	return b.String()
}
