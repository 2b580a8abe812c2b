package cli

import (
	"fmt"
	"slices"
	"strings"

	"example.com/tykupgrade/backup"
)

// Sets shows the progress while a set is taken, verified or restored. It has a bar for each
// component, and a line for each collection or table in progress. Use one Sets for each call. It
// shows nothing if the output is not a terminal.
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

// Set prints the contents of a set and the warnings of its sources.
func (c *Call) Set(s *backup.Set) {
	sum := s.Summary()
	c.Say("%s %s\n%s", c.Out.Paint(Good, "complete and verified:"), s.Dir, c.rows(sum.Rows()))
	for _, w := range sum.Warnings() {
		c.Say("%s %s", c.Out.Paint(Warn, "note:"), w)
	}
}

// SetList prints a line for each set.
func (c *Call) SetList(sets []backup.Summary) {
	if len(sets) > 0 {
		c.Say("%s", c.rows(backup.ListRows(sets)))
	}
}

// rows is a table without its last line end.
func (c *Call) rows(rows [][]string) string { return strings.TrimSuffix(c.Out.Table(rows), "\n") }

// Pruned prints which sets were removed, or with a dry run would be, and which are kept.
func (c *Call) Pruned(p backup.Pruned, dryRun bool) {
	word := map[bool]string{false: "removed", true: "would remove"}[dryRun]
	for _, id := range p.Removed {
		c.Say("%s %s", word, id)
	}
	for _, id := range p.Kept {
		c.Say("kept %s", id)
	}
}

// Restored prints what a restore did or would do. extra is the flag that removes data that the set
// lacks. It returns the error of the restore, with the exit code [Refused] if nothing was changed.
func (c *Call) Restored(r backup.Report, extra string, err error) error {
	style := map[backup.State]Style{backup.StateVerified: Good, backup.StateFailed: Bad,
		backup.StateUndone: Bad, backup.StateNotRequested: Faint}
	for _, x := range r.Components {
		c.Say("%s: %s", x.Name, c.Out.Paint(style[x.State], strings.ReplaceAll(string(x.State), "_",
			" ")))
		if len(x.Items) > 0 {
			c.Say("%s", c.rows(x.Rows()))
		}
		if x.Keeps() {
			c.Say("%s %s holds what the set does not have (keep above); %s drops it",
				c.Out.Paint(Warn, "note:"), x.Name, extra)
		}
	}
	if r.DryRun && len(r.Components) > 0 {
		c.Say("dry run: nothing was changed")
	}
	if r.Untouched() && Code(err) == No {
		return Refuse(err)
	}
	return err
}

// Undone prints what an undo restored.
func (c *Call) Undone(r backup.Report) {
	for _, x := range r.Components {
		switch x.State {
		case backup.StateUndone:
			c.Say("%s: the previous state is restored", x.Name)
		case backup.StateNothing:
			c.Say("%s: there was nothing to undo", x.Name)
		}
	}
}

// itemLines returns a line for each item in progress.
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
