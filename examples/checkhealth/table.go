package main

import (
	"fmt"
	"strings"

	"example.com/tykupgrade/examples/internal/cli"
	"example.com/tykupgrade/health"
)

// live is the table that is redrawn while waiting.
type live struct {
	out  *cli.Out
	rows [][]string // by probe; nil until its first answer
}

func (l *live) event(e health.Event) {
	l.rows[e.Index] = []string{e.Result.Probe, string(e.Result.Status), e.Result.Version,
		fmt.Sprintf("%d of %d", min(e.Passes, e.Needed), e.Needed), fmt.Sprint(e.Try), e.Result.Error}
	rows := [][]string{{"PROBE", "STATUS", "VERSION", "PASSES", "TRIES", "REMARK"}}
	for _, row := range l.rows {
		if row != nil {
			rows = append(rows, row)
		}
	}
	text := table(l.out, rows) + fmt.Sprintf("%d of %d ready", e.Done, e.Of)
	l.out.Redraw(strings.Split(text, "\n")...)
}

// table colours the status column.
func table(out *cli.Out, rows [][]string) string {
	styles := map[string]cli.Style{"pass": cli.Good, "warn": cli.Warn, "unknown": cli.Warn,
		"fail": cli.Bad}
	painted := make([][]string, len(rows))
	for i, row := range rows {
		painted[i] = append([]string(nil), row...)
		if style, ok := styles[row[1]]; ok && i > 0 {
			painted[i][1] = out.Paint(style, row[1])
		}
	}
	return out.Table(painted)
}
