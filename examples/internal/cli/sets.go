package cli

import (
	"fmt"
	"slices"

	"example.com/tykupgrade/backup"
)

// Sets shows how a set is taken, verified or restored: a bar for each component, and a
// line for each collection or table in progress. Use one for each call. It shows nothing
// if the output is not a terminal.
func (o *Out) Sets() func(backup.Event) {
	var order []string
	bars, items := map[string]string{}, map[string][]string{}
	parts := map[string]*itemLines{}
	return func(e backup.Event) {
		if parts[e.Component] == nil {
			order = append(order, e.Component)
			parts[e.Component] = &itemLines{text: map[string]string{}}
		}
		label := string(e.Phase)
		if e.Component != "" {
			label = e.Component + " " + label
		}
		bar := Bar(label, e.Bytes, max(e.TotalBytes, e.Bytes))
		switch {
		case e.Done:
			bar += o.Paint(Good, "  done")
		case e.Item != "":
			bar += "  " + o.Paint(Faint, e.Item)
		}
		bars[e.Component], items[e.Component] = bar, parts[e.Component].take(e)
		var lines []string
		for _, name := range order {
			lines = append(append(lines, bars[name]), items[name]...)
		}
		o.Redraw(lines...)
	}
}

// itemLines has a line for each item that has begun and not ended.
type itemLines struct {
	order []string
	text  map[string]string
}

func (l *itemLines) take(e backup.Event) (lines []string) {
	if e.ItemTotal > 0 {
		at := slices.Index(l.order, e.Item)
		switch {
		case e.ItemDone >= e.ItemTotal && at >= 0:
			l.order = slices.Delete(l.order, at, at+1)
		case e.ItemDone < e.ItemTotal && at < 0:
			l.order = append(l.order, e.Item)
		}
		l.text[e.Item] = fmt.Sprintf("  %-40s %3d%%  %d of %d", e.Item, 100*e.ItemDone/e.ItemTotal,
			e.ItemDone, e.ItemTotal)
	}
	if e.Done {
		l.order = nil
	}
	for _, name := range l.order {
		lines = append(lines, l.text[name])
	}
	return lines
}
