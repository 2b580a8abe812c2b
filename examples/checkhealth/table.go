package main

import (
	"fmt"
	"strings"

	"example.com/tykupgrade/examples/internal/term"
	"example.com/tykupgrade/health"
)

// live is the table that is redrawn while waiting.
type live struct {
	out   *term.Out
	order []string // probes as they first answered
	rows  map[string][]string
	of    int
}

func newTable(out *term.Out, probes int) *live {
	return &live{out: out, rows: map[string][]string{}, of: probes}
}

func (l *live) event(e health.Event) {
	name := e.Result.Probe
	if l.rows[name] == nil {
		l.order = append(l.order, name)
	}
	remark := ""
	if e.Result.Err != nil {
		remark = e.Result.Error
	}
	l.rows[name] = []string{name, string(e.Result.Status), e.Result.Version, fmt.Sprintf("%d of %d", min(e.Passes, e.Needed), e.Needed), fmt.Sprint(e.Try), remark}
	rows := [][]string{{"PROBE", "STATUS", "VERSION", "PASSES", "TRIES", "REMARK"}}
	for _, n := range l.order {
		rows = append(rows, l.rows[n])
	}
	text := table(l.out, rows) + fmt.Sprintf("%d of %d ready", e.Done, l.of)
	l.out.Redraw(strings.Split(text, "\n")...)
}

// table colours the status column.
func table(out *term.Out, rows [][]string) string {
	styles := map[string]term.Style{"pass": term.Good, "warn": term.Warn, "unknown": term.Warn, "fail": term.Bad}
	painted := make([][]string, len(rows))
	for i, row := range rows {
		painted[i] = append([]string(nil), row...)
		if style, ok := styles[row[1]]; ok && i > 0 {
			painted[i][1] = out.Paint(style, row[1])
		}
	}
	return out.Table(painted)
}
