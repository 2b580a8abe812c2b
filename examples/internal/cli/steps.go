package cli

import (
	"strings"
	"time"
)

// Steps shows steps that come one after another: bars for what is transferred on a
// terminal, lines of output as they come, and a line for each step that has ended.
type Steps struct {
	Out   *Out
	parts []string
	bars  map[string]string
}

// Start begins a step.
func (s *Steps) Start(step string) {
	s.parts, s.bars = nil, map[string]string{}
	s.Out.Redraw(step + " …")
}

// Move shows how far a part of the step is; a total of 0 is unknown.
func (s *Steps) Move(step, part, text string, current, total int64) {
	if s.bars[part] == "" {
		s.parts = append(s.parts, part)
	}
	label := strings.TrimSpace(part + " " + text)
	if s.bars[part] = label; current > 0 {
		s.bars[part] = Bar(label, current, total)
	}
	// Images of many layers would scroll the terminal.
	lines := []string{step + " …"}
	for _, part := range s.parts[max(0, len(s.parts)-12):] {
		lines = append(lines, "  "+s.bars[part])
	}
	s.Out.Redraw(lines...)
}

// Line shows a line of output; a passing one is seen until the next.
func (s *Steps) Line(step, text string, passing bool) {
	if text = s.Out.Paint(Faint, text); passing {
		s.Out.Redraw(step+" …", "  "+text)
		return
	}
	s.Out.Printf("%s\n", text)
}

// End reports the outcome of the step.
func (s *Steps) End(step string, elapsed time.Duration, err error) {
	s.Out.Clear()
	mark := s.Out.Paint(Good, "ok")
	if err != nil {
		mark = s.Out.Paint(Bad, "failed")
	}
	s.Out.Printf("%-14s %s  %s\n", step, mark, elapsed.Round(time.Millisecond))
}
