package backup

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// Rows are the components of the set as a table for people. The first row is the heading.
func (s Summary) Rows() [][]string {
	rows := [][]string{{"COMPONENT", "SERVER", "METHOD", "CONSISTENCY", "ITEMS", "SIZE"}}
	for _, c := range s.Components {
		rows = append(rows, []string{c.Name, c.Server, c.Method, words(string(c.Consistency)),
			fmt.Sprint(c.Items), size(c.Bytes)})
	}
	return rows
}

// Warnings returns the warnings of all sources.
func (s Summary) Warnings() (all []string) {
	for _, c := range s.Components {
		all = append(all, c.Warnings...)
	}
	return all
}

// String returns text for people: the directory of the set, its components, and the warnings of its
// sources.
func (s Summary) String() string {
	text := s.Dir + "\n" + aligned(s.Rows())
	for _, w := range s.Warnings() {
		text += "note: " + w + "\n"
	}
	return text
}

// ListRows are sets as a table for people, in their order. The first row is the heading.
func ListRows(sets []Summary) [][]string {
	rows := [][]string{{"ID", "TAKEN", "COMPONENTS", "SIZE", "LABEL"}}
	for _, s := range sets {
		var names []string
		var bytes int64
		for _, c := range s.Components {
			names, bytes = append(names, c.Name), bytes+c.Bytes
		}
		rows = append(rows, []string{filepath.Base(s.Dir), s.Start.Local().Format(time.DateTime),
			strings.Join(names, " "), size(bytes), s.Label})
	}
	return rows
}

// Rows are the items of the component as a table for people. The first row is the heading.
func (c ComponentReport) Rows() [][]string {
	rows := [][]string{{"ACTION", "ITEM", "COUNT", "SIZE", ""}}
	for _, i := range c.Items {
		count := ""
		if i.Count != 0 {
			count = fmt.Sprint(i.Count)
		}
		rows = append(rows, []string{string(i.Action), i.Name, count, size(i.Bytes), i.Detail})
	}
	return rows
}

// Keeps reports whether the target has data that the set does not have, and that the restore leaves
// there.
func (c ComponentReport) Keeps() bool {
	return slices.ContainsFunc(c.Items, func(i Item) bool { return i.Action == ActionKeep })
}

// String returns text for people: the state of each component, and what happens to its items.
func (r Report) String() string {
	text := ""
	for _, c := range r.Components {
		text += c.Name + ": " + words(string(c.State)) + "\n"
		if len(c.Items) > 0 {
			text += aligned(c.Rows())
		}
	}
	if r.DryRun && text != "" {
		text += "dry run: nothing was changed\n"
	}
	return text
}

// words returns a token as words for people.
func words(token string) string { return strings.ReplaceAll(token, "_", " ") }

// aligned returns rows in columns.
func aligned(rows [][]string) string {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	for _, row := range rows {
		fmt.Fprintln(w, strings.Join(row, "\t"))
	}
	_ = w.Flush() // a Builder takes everything
	lines := strings.Split(b.String(), "\n")
	for i, line := range lines {
		lines[i] = strings.TrimRight(line, " ")
	}
	return strings.Join(lines, "\n")
}

// size returns a size with a binary unit.
func size(n int64) string {
	if n < 1024 {
		return fmt.Sprintf("%d B", n)
	}
	const units = "KMGTPE"
	f, i := float64(n)/1024, 0
	for f >= 1024 && i < len(units)-1 {
		f, i = f/1024, i+1
	}
	return fmt.Sprintf("%.1f %ciB", f, units[i])
}
