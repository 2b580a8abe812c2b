package main

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"example.com/tykupgrade/examples/internal/cli"
)

// The states of a step.
const (
	statusOK      = "ok"
	statusSkipped = "skipped"
	statusFailed  = "failed"
)

// Report is what -json prints.
type Report struct {
	From     string    `json:"from"`
	To       string    `json:"to"`
	Fail     string    `json:"fail,omitempty"`
	OK       bool      `json:"ok"` // no step failed
	Steps    []*Step   `json:"steps"`
	Reverted bool      `json:"reverted"` // the upgrade was taken back, and every proof says "same"
	Proof    []Proof   `json:"proof,omitempty"`
	Requests *Requests `json:"requests,omitempty"` // with -fleet
	Left     *Left     `json:"left,omitempty"`     // what the rehearsal left running; all zero
	Commands []string  `json:"commands,omitempty"` // of the real upgrade
	Dir      string    `json:"dir,omitempty"`      // with -keep
	Started  string    `json:"started"`            // RFC 3339
	Duration float64   `json:"duration"`           // seconds
}

// Step is one part of the story. Its detail is what people read.
type Step struct {
	Name     string   `json:"name"`
	Status   string   `json:"status"`
	Real     bool     `json:"real"`           // no stub took part
	Stub     string   `json:"stub,omitempty"` // the stub, and for what
	Detail   []string `json:"-"`
	Duration float64  `json:"duration"` // seconds
}

// MarshalJSON joins the detail.
func (s *Step) MarshalJSON() ([]byte, error) {
	type plain Step
	return json.Marshal(struct {
		*plain
		Detail string `json:"detail"`
	}{(*plain)(s), strings.Join(s.Detail, "; ")})
}

// say adds a line of detail.
func (s *Step) say(format string, a ...any) {
	s.Detail = append(s.Detail, fmt.Sprintf(format,
		a...))
}

// skip ends a step that this machine lacks something for.
func (s *Step) skip(reason string) { s.Status, s.Detail = statusSkipped, []string{reason} }

// Proof compares digests of one part of the stack.
type Proof struct {
	What     string `json:"what"`
	Before   string `json:"before"`   // before the upgrade
	Upgraded string `json:"upgraded"` // when the gate had found the failure
	After    string `json:"after"`    // when everything was reverted
	Same     bool   `json:"same"`     // before and after

	was []string // the lines of Before
}

// Requests is what became of the load.
type Requests struct {
	Sent   int64  `json:"sent"`
	Failed int64  `json:"failed"`
	First  string `json:"first,omitempty"` // the first failure
}

// Left counts what is still there after everything was stopped.
type Left struct {
	Processes  int `json:"processes"`
	Containers int `json:"containers"`
	Images     int `json:"images"`
	Volumes    int `json:"volumes"`
	Ports      int `json:"ports"`
	Files      int `json:"files"` // 1: the directory
}

// printer shows steps as they happen.
type printer struct {
	out     *cli.Out
	verbose bool

	mu      sync.Mutex
	current string
	since   time.Time
	note    string
	bar     string
}

// heartbeat is how often a step that takes long shows what it does, where nothing can be redrawn.
const heartbeat = 10 * time.Second

// begin shows a step until the returned function is called with its end.
func (p *printer) begin(name string) (end func(*Step)) {
	p.mu.Lock()
	p.current, p.since, p.note, p.bar = name, time.Now(), "", ""
	p.mu.Unlock()
	done := make(chan struct{})
	var wg sync.WaitGroup
	every := heartbeat
	if p.out.Live() {
		every = 150 * time.Millisecond
	}
	wg.Go(func() {
		tick := time.NewTicker(every)
		defer tick.Stop()
		for {
			select {
			case <-done:
				return
			case <-tick.C:
				if lines := p.live(); p.out.Live() {
					p.out.Redraw(lines...)
				} else {
					p.out.Printf("%s\n", lines[0])
				}
			}
		}
	})
	return func(s *Step) {
		close(done)
		wg.Wait()
		p.out.Clear()
		p.print(s)
	}
}

func (p *printer) live() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	lines := []string{fmt.Sprintf("%s %-17s %6.1fs  %s", p.out.Paint(cli.Bold, "...    "), p.current,
		time.Since(p.since).Seconds(), p.out.Paint(cli.Faint, p.note))}
	if p.bar != "" {
		lines = append(lines, strings.Repeat(" ", 8)+p.bar)
	}
	return lines
}

// event is what happens inside a step: shown while it lasts, printed with -v.
func (p *printer) event(format string, a ...any) {
	text := strings.TrimSpace(fmt.Sprintf(format, a...))
	if text == "" {
		return
	}
	p.mu.Lock()
	p.note, _, _ = strings.Cut(text, "\n")
	p.mu.Unlock()
	if p.verbose {
		for line := range strings.Lines(text) {
			p.out.Printf("%s\n", p.out.Paint(cli.Faint, "        | "+strings.TrimRight(line, "\n")))
		}
	}
}

// progress shows a bar.
func (p *printer) progress(label string, done, total int64) {
	p.mu.Lock()
	p.bar = cli.Bar(label, done, total)
	p.mu.Unlock()
}

// indent is where the text of a step begins on a wide screen, and narrow where it begins elsewhere.
const (
	indent = 45
	narrow = 8
)

// kind says whether a step was carried out for real.
func kind(s *Step) string {
	switch {
	case s.Status == statusSkipped:
		return "-"
	case !s.Real:
		return "stub"
	}
	return "real"
}

// print is one step: state, name, time, real or not, and what happened. Below 90 columns the text
// begins on a line of its own.
func (p *printer) print(s *Step) {
	style := map[string]cli.Style{statusOK: cli.Good, statusSkipped: cli.Warn,
		statusFailed: cli.Bad}[s.Status]
	at, width := indent, 96
	if screen := p.columns(); screen > 0 {
		if screen < 90 {
			at = narrow
		}
		width = min(width, screen-at-1)
	}
	var lines, notes []string
	for _, d := range s.Detail {
		lines = append(lines, wrap(d, width)...)
	}
	if s.Stub != "" && s.Status != statusSkipped {
		notes = wrap("stub: "+s.Stub, width)
	}
	head := fmt.Sprintf("%s %-17s %6.1fs  %-8s", p.out.Paint(style, fmt.Sprintf("%-7s", s.Status)),
		s.Name, s.Duration, kind(s))
	if at == indent && len(lines) > 0 {
		head, lines = head+"  "+lines[0], lines[1:]
	}
	p.out.Printf("%s\n", strings.TrimRight(head, " "))
	pad := strings.Repeat(" ", at)
	for _, l := range lines {
		p.out.Printf("%s%s\n", pad, l)
	}
	for _, l := range notes {
		p.out.Printf("%s%s\n", pad, p.out.Paint(cli.Faint, l))
	}
}

// columns is the width to keep to; 0: any.
func (p *printer) columns() int {
	if p.out.Live() || os.Getenv("COLUMNS") != "" {
		return p.out.Width()
	}
	return 0
}

// wrap breaks a line between words.
func wrap(text string, width int) []string {
	var lines []string
	line := ""
	for _, word := range strings.Fields(text) {
		if line != "" && len([]rune(line))+1+len([]rune(word)) > width {
			lines = append(lines, line)
			line = ""
		}
		if line != "" {
			line += " "
		}
		line += word
	}
	return append(lines, line)
}

// summary is the end of the story.
func (r *rehearsal) summary(rep *Report) {
	out := r.print.out
	count := map[string]int{}
	var stubs int
	for _, s := range rep.Steps {
		count[s.Status]++
		if s.Status == statusOK && !s.Real {
			stubs++
		}
	}
	out.Printf("\n")
	if q := rep.Requests; q != nil {
		style := cli.Good
		if q.Failed > 0 {
			style = cli.Bad
		}
		out.Printf("%s\n", out.Paint(style, fmt.Sprintf("%d failed of %d requests", q.Failed, q.Sent)))
	}
	if len(rep.Proof) > 0 {
		rows := [][]string{{"PROOF", "BEFORE", "UPGRADED", "REVERTED", ""}}
		for _, p := range rep.Proof {
			verdict := out.Paint(cli.Good, "as before")
			if !p.Same {
				verdict = out.Paint(cli.Bad, "DIFFERS")
			}
			rows = append(rows, []string{p.What, short(p.Before), short(p.Upgraded), short(p.After),
				verdict})
		}
		out.Printf("%s\n", out.Table(rows))
	}
	verdict, style := fmt.Sprintf("%s → %s rehearsed", rep.From, rep.To), cli.Good
	switch {
	case r.interrupted():
		verdict, style = fmt.Sprintf("%s → %s: interrupted", rep.From, rep.To), cli.Warn
	case !rep.OK:
		verdict, style = fmt.Sprintf("%s → %s: a step failed", rep.From, rep.To), cli.Bad
	case rep.Reverted && len(rep.Proof) > 0:
		verdict = fmt.Sprintf("%s → %s failed as requested, was found, and is reverted", rep.From, rep.To)
	}
	counts := fmt.Sprintf("%d steps ok (%d with stubs), %d skipped, %d failed, in %.0f s",
		count[statusOK], stubs, count[statusSkipped], count[statusFailed], rep.Duration)
	if screen := r.print.columns(); screen > 0 && screen < len(verdict)+len(counts)+2 {
		out.Printf("%s:\n%s\n", out.Paint(style, verdict), strings.Join(wrap(counts, screen-1), "\n"))
	} else {
		out.Printf("%s: %s\n", out.Paint(style, verdict), counts)
	}
	if rep.Dir != "" {
		out.Printf("kept: %s\n", rep.Dir)
	}
}

func short(digest string) string { return digest[:min(12, len(digest))] }
