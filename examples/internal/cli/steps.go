package cli

import (
	"strings"
	"time"

	"example.com/tykupgrade/pluginbuild"
)

// Steps shows the steps of preparing and compiling a plugin. It prints lines of output, and a line
// at the end of each step. On a terminal it also shows bars for transfers, and the last line of the
// go command until its step ends. Use one Steps for each call.
func (o *Out) Steps() func(pluginbuild.Event) {
	var parts []string
	bars := map[string]string{}
	return func(e pluginbuild.Event) {
		head := e.Stage + " …"
		switch e.Kind {
		case pluginbuild.Started:
			parts, bars = nil, map[string]string{}
			o.Redraw(head)
		case pluginbuild.Progress:
			if bars[e.Part] == "" {
				parts = append(parts, e.Part)
			}
			label := strings.TrimSpace(e.Part + " " + e.Line)
			if bars[e.Part] = label; e.Current > 0 {
				bars[e.Part] = Bar(label, e.Current, e.Total)
			}
			// Images of many layers would scroll the terminal.
			lines := []string{head}
			for _, part := range parts[max(0, len(parts)-12):] {
				lines = append(lines, "  "+bars[part])
			}
			o.Redraw(lines...)
		case pluginbuild.Output:
			line := o.Paint(Faint, e.Line)
			if strings.HasPrefix(e.Stage, "go ") {
				o.Redraw(head, "  "+line)
			} else {
				o.Printf("%s\n", line)
			}
		case pluginbuild.Done:
			o.Clear()
			mark := o.Paint(Good, "ok")
			if e.Err != nil {
				mark = o.Paint(Bad, "failed")
			}
			o.Printf("%-14s %s  %s\n", e.Stage, mark, e.Elapsed.Round(time.Millisecond))
		}
	}
}
