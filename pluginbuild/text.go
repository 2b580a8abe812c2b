package pluginbuild

import "strings"

// Rows returns the table for people: a heading, and a row for each release. It shortens Notes;
// [Table.Write] has them in full.
func (t Table) Rows() [][]string {
	rows := [][]string{{"RELEASE", "COMMIT", "DATE", "PATH", "GO", "BUILD", "REPLACES", "EDITIONS",
		"NOTES"}}
	for _, r := range t {
		var editions, replaces []string
		for _, e := range r.editions() {
			editions = append(editions, string(e))
		}
		for _, p := range r.Replaces {
			replaces = append(replaces, p.Old[strings.LastIndexByte(p.Old, '/')+1:])
		}
		date, build := "", string(r.Compiler.Mode)
		if !r.Date.IsZero() {
			date = r.Date.Format("2006-01-02")
		}
		if r.Next != nil {
			build = strings.TrimPrefix(build+"+ng", "+")
		}
		note := []rune(strings.Join(r.Notes, "; "))
		if len(note) > 60 {
			note = append(note[:60], '…')
		}
		text := string(note)
		if r.Broken {
			text = "broken: " + text
		}
		rows = append(rows, []string{r.Version.String(), r.Commit[:12], date, string(rune('0' + r.Path())),
			r.Compiler.Go, build, strings.Join(replaces, ","), strings.Join(editions, " "), text})
	}
	return rows
}
