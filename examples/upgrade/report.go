package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"example.com/tykupgrade/debpkg/rollout"
	"example.com/tykupgrade/examples/internal/cli"
)

// show puts what was skipped among the report's events, where every reader sees it.
func show(rep *rollout.Report) *rollout.Report {
	if rep == nil {
		return nil
	}
	for _, t := range rep.Targets {
		for _, s := range t.Steps {
			var note overriddenNote
			if json.Unmarshal(s.Note, &note) == nil && note.Overridden != "" {
				text := fmt.Sprintf("%s %s SKIPPED: %s", t.Name, s.Name, note.Overridden)
				if !slices.ContainsFunc(rep.Events, func(n rollout.Note) bool { return n.Text == text }) {
					rep.Events = append(rep.Events, rollout.Note{Time: s.Started, Text: text})
				}
			}
		}
	}
	return rep
}

// report prints what was done, and what the preparation found.
func (u *upgrade) report(c *cli.Call, rep *rollout.Report) error {
	switch {
	case rep == nil:
		return nil
	case u.json:
		return c.JSON(rep)
	}
	err := rep.WriteText(c.Out)
	if rows := preparation(rep); len(rows) > 1 {
		c.Out.Printf("\n%s", c.Out.Table(rows))
	}
	return err
}

// preparation is what the preparation found, as a table.
func preparation(rep *rollout.Report) [][]string {
	rows := [][]string{{"PREPARED", "WHAT"}}
	for _, t := range rep.Targets {
		if t.Wave != wavePrepare {
			continue
		}
		latest := map[string]json.RawMessage{}
		var order []string
		for _, s := range t.Steps {
			if s.Note != nil && !slices.Contains(order, s.Name) {
				order = append(order, s.Name)
			}
			if s.Note != nil {
				latest[s.Name] = s.Note
			}
		}
		for _, step := range order {
			if text := describe(step, latest[step]); text != "" {
				rows = append(rows, []string{t.Name + " " + step, text})
			}
		}
	}
	return rows
}

// describe says what a step's note holds.
func describe(step string, data json.RawMessage) string {
	read := func(v any) bool { return json.Unmarshal(data, v) == nil }
	var (
		module moduleNote
		built  compileNote
		pre    preflightNote
		zip    bundleNote
		out    publishNote
		hosts  hostsNote
		set    setNote
		found  findingsNote
		parts  []string
	)
	switch {
	case step == "module" && read(&module):
		return fmt.Sprintf("fits %s, findings: %d", module.Release, len(module.Findings))
	case step == "compile" && read(&built):
		return built.File + " with " + built.Image
	case step == "given" && read(&built):
		return built.File
	case step == "preflight" && read(&pre) && pre.Verdict != "":
		return fmt.Sprintf("the plugin %s in %s", pre.Verdict, pre.Gateway)
	case step == "bundle" && read(&zip):
		for _, v := range slices.Sorted(maps.Keys(zip.Loads)) {
			parts = append(parts, v+" loads "+zip.Loads[v])
		}
		return zip.File + ": " + strings.Join(parts, ", ")
	case step == "publish" && read(&out) && out.URL != "":
		return out.URL + " has it"
	case step == "publish" && read(&out):
		return out.Name
	case step == "plan" && read(&hosts):
		for _, v := range slices.Sorted(maps.Keys(hosts.Now)) {
			parts = append(parts, fmt.Sprintf("%d with %s", hosts.Now[v], v))
		}
		return strings.Join(parts, ", ")
	case step == "findings" && read(&found):
		for _, f := range found.Findings {
			parts = append(parts, f.String())
		}
		return strings.Join(parts, "; ")
	case step == "set" && read(&set) && set.Dir != "":
		return fmt.Sprintf("%s: %s, %s", set.Dir, strings.Join(set.Components, ", "), cli.Bytes(set.Bytes))
	}
	return ""
}

// saved is the latest note of a step. Nil: there is none.
func saved(rep *rollout.Report, target, step string) json.RawMessage {
	var note json.RawMessage
	if rep == nil {
		return nil
	}
	for _, t := range rep.Targets {
		for _, s := range t.Steps {
			if t.Name == target && s.Name == step && s.Note != nil {
				note = s.Note
			}
		}
	}
	return note
}
