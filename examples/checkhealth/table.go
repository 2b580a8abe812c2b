package main

import (
	"fmt"
	"strings"

	"example.com/tykupgrade/examples/internal/cli"
	"example.com/tykupgrade/health"
)

// styles are those of the column STATUS.
var styles = map[string]cli.Style{"pass": cli.Good, "warn": cli.Warn, "unknown": cli.Warn,
	"fail": cli.Bad}

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
	text := l.out.Marked(rows, 1, styles) + fmt.Sprintf("%d of %d ready", e.Done, e.Of)
	l.out.Redraw(strings.Split(text, "\n")...)
}
