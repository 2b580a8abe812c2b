package cli

import (
	"fmt"
	"io"
	"os"
	"strconv"
	"sync"
	"time"

	xterm "golang.org/x/term"
)

// Out is one output stream of a command. On a terminal it has colours and a live region that is
// redrawn in place. It escapes control characters. Its methods are safe for concurrent use.
type Out struct {
	w      io.Writer
	live   bool // redraws in place are possible
	color  bool
	narrow bool // tables keep to the width
	width  func() int

	mu    sync.Mutex
	lines []string // the live region as drawn
	drawn time.Time
	err   error // of the first write that failed
}

// NewOut returns an Out for w. It is live only if w is a terminal. It is coloured only if also
// NO_COLOR is unset and TERM is not dumb. COLUMNS sets the width of tables if w is not a terminal.
func NewOut(w io.Writer) *Out {
	o := &Out{w: w, width: func() int { return 80 }}
	if n, err := strconv.Atoi(os.Getenv("COLUMNS")); err == nil && n > 20 {
		o.narrow, o.width = true, func() int { return n }
	}
	f, ok := w.(*os.File)
	if !ok || !xterm.IsTerminal(int(f.Fd())) || os.Getenv("TERM") == "dumb" {
		return o
	}
	o.live, o.narrow = true, true
	o.color = os.Getenv("NO_COLOR") == ""
	o.width = func() int {
		if cols, _, err := xterm.GetSize(int(f.Fd())); err == nil && cols > 20 {
			return cols
		}
		return 80
	}
	return o
}

// Live reports whether the output shows progress in place.
func (o *Out) Live() bool { return o.live }

// Width returns the width of the terminal in columns, or 80 without one.
func (o *Out) Width() int { return o.width() }

// Write prints above the live region, so that an Out can be a log's output.
func (o *Out) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	region := o.lines
	o.erase()
	err := safe(o.w, p)
	if o.err == nil {
		o.err = err
	}
	if len(p) > 0 && p[len(p)-1] == '\n' {
		o.draw(region)
	}
	if err != nil {
		return 0, err
	}
	return len(p), nil
}

// Printf prints a formatted line or lines above the live region.
func (o *Out) Printf(format string, a ...any) { _, _ = fmt.Fprintf(o, format, a...) }

// Err returns the error of the first failed print. A command has failed if it cannot print its
// answer.
func (o *Out) Err() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.err
}

// Redraw replaces the live region, at most ten times a second. It does nothing if the
// output is not a terminal.
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
		_ = safe(o.w, []byte(clip(l, width-1)+"\n"))
	}
	o.lines = lines
}

// Style is a mark of text, such as a colour.
type Style string

// Styles of good results, results that need attention, failures, headings, and minor text.
const (
	Good  Style = "\x1b[32m"
	Warn  Style = "\x1b[33m"
	Bad   Style = "\x1b[31m"
	Bold  Style = "\x1b[1m"
	Faint Style = "\x1b[2m"

	reset Style = "\x1b[0m"
)

// Paint returns s in a style if the output shows colour. The empty style changes nothing.
func (o *Out) Paint(style Style, s string) string {
	if !o.color || s == "" || style == "" {
		return s
	}
	return string(style) + s + string(reset)
}
