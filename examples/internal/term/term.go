// Package term is what the example commands share for printing: colour only on
// a terminal, a live region that is redrawn in place, progress bars and tables.
// It is a hundred lines instead of a library because bars, pull layers and
// live tables are then one thing.
package term

import (
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"time"
	"unicode/utf8"

	xterm "golang.org/x/term"
)

// OutliveReader keeps a command alive when the reader of its output has gone, as
// after Ctrl-C in "upgrade apply | tee log": it has to undo and clean up.
func OutliveReader() { signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE) }

// Out is one output stream of a command. Its methods may be called by several
// goroutines.
type Out struct {
	w     io.Writer
	live  bool // redraws in place are possible
	color bool
	width func() int

	mu    sync.Mutex
	lines []string // the live region as drawn
	drawn time.Time
	err   error // of the first write that failed
}

// New describes w: live and coloured only when it is a terminal, and coloured
// only when NO_COLOR is unset and TERM is not dumb.
func New(w io.Writer) *Out {
	o := &Out{w: w, width: func() int { return 80 }}
	f, ok := w.(*os.File)
	if !ok || !xterm.IsTerminal(int(f.Fd())) || os.Getenv("TERM") == "dumb" {
		return o
	}
	o.live = true
	o.color = os.Getenv("NO_COLOR") == ""
	o.width = func() int {
		if cols, _, err := xterm.GetSize(int(f.Fd())); err == nil && cols > 20 {
			return cols
		}
		return 80
	}
	return o
}

// Live says whether progress is shown at all.
func (o *Out) Live() bool { return o.live }

// Width is the terminal's, in columns; 80 where there is none.
func (o *Out) Width() int { return o.width() }

// Write prints above the live region, so that an Out can be a log's output.
func (o *Out) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	region := o.lines
	o.erase()
	n, err := o.w.Write(p)
	if o.err == nil {
		o.err = err
	}
	if len(p) > 0 && p[len(p)-1] == '\n' {
		o.draw(region)
	}
	return n, err
}

// Printf prints a formatted line or lines above the live region.
func (o *Out) Printf(format string, a ...any) { _, _ = fmt.Fprintf(o, format, a...) }

// Err returns the error of the first print that failed: a command whose answer
// could not be written has not succeeded.
func (o *Out) Err() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.err
}

// Redraw replaces the live region, at most ten times a second. It does nothing
// where the output is not a terminal.
func (o *Out) Redraw(lines ...string) {
	if !o.live {
		return
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if time.Since(o.drawn) < 100*time.Millisecond {
		return
	}
	o.drawn = time.Now()
	o.erase()
	o.draw(lines)
}

// Clear removes the live region.
func (o *Out) Clear() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.erase()
	o.drawn = time.Time{}
}

func (o *Out) erase() {
	if len(o.lines) > 0 {
		_, _ = fmt.Fprintf(o.w, "\x1b[%dA\r\x1b[J", len(o.lines))
		o.lines = nil
	}
}

func (o *Out) draw(lines []string) {
	width := o.width()
	for _, l := range lines {
		_, _ = fmt.Fprintln(o.w, clip(l, width-1))
	}
	o.lines = lines
}

// clip shortens a line to n visible columns, keeping colour codes whole.
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

// Bar renders one line of progress: label, bar, percent, amounts. A total of 0
// or less means that the amount to come is unknown.
func Bar(label string, done, total int64) string {
	const cells = 28
	if total <= 0 {
		return fmt.Sprintf("%-28s %s", label, Bytes(done))
	}
	done = min(max(done, 0), total)
	full := int(float64(done) / float64(total) * cells)
	return fmt.Sprintf("%-28s [%s%s] %3.0f%%  %s of %s", label, strings.Repeat("█", full), strings.Repeat("·", cells-full),
		float64(done)/float64(total)*100, Bytes(done), Bytes(total))
}

// Bytes renders a size with a binary unit.
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

// Style is one of the few ways in which the commands mark text.
type Style string

// What each style is for: results that are fine, that need a look, that
// failed, headings, and what matters less.
const (
	Good  Style = "\x1b[32m"
	Warn  Style = "\x1b[33m"
	Bad   Style = "\x1b[31m"
	Bold  Style = "\x1b[1m"
	Faint Style = "\x1b[2m"
)

// Paint returns s in a style where the output shows colour.
func (o *Out) Paint(style Style, s string) string {
	if !o.color || s == "" {
		return s
	}
	return string(style) + s + "\x1b[0m"
}

// Table aligns rows in columns two spaces apart; the first row is the heading.
// Colour codes do not count as width.
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
	var b strings.Builder
	for r, row := range rows {
		var line strings.Builder
		for i, cell := range row {
			pad := widths[i] - visible(cell) + 2
			if r == 0 {
				cell = o.Paint(Bold, cell)
			}
			line.WriteString(cell)
			if i < len(row)-1 {
				line.WriteString(strings.Repeat(" ", pad))
			}
		}
		b.WriteString(strings.TrimRight(line.String(), " "))
		b.WriteByte('\n')
	}
	return b.String()
}

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
