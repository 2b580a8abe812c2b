package installation

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"example.com/tykupgrade/debpkg/fleet"
	"example.com/tykupgrade/debpkg/rollout"
	"example.com/tykupgrade/pluginbuild/preflight"
)

// Notes that the journal keeps of each step.
type (
	moduleNote struct {
		Release  string   `json:"release"`
		Findings []string `json:"findings,omitempty"`
		Changed  []string `json:"changed,omitempty"`
	}
	compileNote struct {
		File   string `json:"file"`
		SHA256 string `json:"sha256"`
		Image  string `json:"image,omitempty"` // with its digest; none: the file was given
		Go     string `json:"go,omitempty"`
		Source string `json:"source,omitempty"` // fingerprint of what was compiled
	}
	preflightNote struct {
		Verdict    preflight.Verdict `json:"verdict,omitempty"`
		Gateway    string            `json:"gateway,omitempty"`
		SHA256     string            `json:"gateway_sha256,omitempty"`
		Findings   []string          `json:"findings,omitempty"`
		Overridden string            `json:"overridden,omitempty"`
	}
	bundleNote struct {
		File   string            `json:"file"`
		SHA256 string            `json:"sha256"`
		Size   int64             `json:"size"`
		Signed bool              `json:"signed"`
		Asked  string            `json:"manifest"` // digest of the manifest before checksum and signature
		Loads  map[string]string `json:"loads"`    // by gateway version
		Inputs map[string]string `json:"inputs"`   // digests by path
	}
	publishNote struct {
		Name       string `json:"name"`
		URL        string `json:"url,omitempty"` // where it was found
		Overridden string `json:"overridden,omitempty"`
	}
	// hostsNote has the number of hosts for each package before the upgrade.
	hostsNote struct {
		Now map[string]int `json:"now"`
	}
	findingsNote struct {
		Findings   []fleet.Finding `json:"findings,omitempty"`
		Overridden string          `json:"overridden,omitempty"`
	}
	usesNote struct {
		APIs       int      `json:"apis"` // that use a bundle or a plugin; 0 without a store
		Notes      []string `json:"notes,omitempty"`
		Overridden string   `json:"overridden,omitempty"`
	}
	setNote struct {
		Dir        string    `json:"dir,omitempty"`
		Taken      time.Time `json:"taken,omitzero"`
		Components []string  `json:"components,omitempty"`
		Bytes      int64     `json:"bytes,omitempty"`
		Existing   bool      `json:"existing,omitempty"` // not taken by this run
		Warnings   []string  `json:"warnings,omitempty"`
		Overridden string    `json:"overridden,omitempty"`
	}
	// overriddenNote is the note of a step that was skipped.
	overriddenNote struct {
		Overridden string `json:"overridden,omitempty"`
	}
)

// Skipped adds the skipped checks to the events of a report, so that every reader sees them.
func Skipped(rep *rollout.Report) *rollout.Report {
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

// Prepared is the result of one step of the preparation, in words.
type Prepared struct {
	Target, Step, Text string
}

// Preparation returns the results of the steps of the preparation, in their order.
func Preparation(rep *rollout.Report) []Prepared {
	var all []Prepared
	for _, t := range rep.Targets {
		if t.Wave != WavePrepare {
			continue
		}
		latest := map[string]json.RawMessage{}
		var order []string
		for _, s := range t.Steps {
			if s.Note == nil {
				continue
			}
			if latest[s.Name] == nil {
				order = append(order, s.Name)
			}
			latest[s.Name] = s.Note
		}
		for _, step := range order {
			if text := describe(step, latest[step]); text != "" {
				all = append(all, Prepared{t.Name, step, text})
			}
		}
	}
	return all
}

// describe returns a step's note in words.
func describe(step string, data json.RawMessage) string {
	kind, _, _ := strings.Cut(step, " ") // the rest names a plugin
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
		uses   usesNote
		parts  []string
	)
	switch {
	case kind == "module" && read(&module):
		return fmt.Sprintf("fits %s, findings: %d", module.Release, len(module.Findings))
	case kind == "compile" && read(&built):
		return built.File + " with " + built.Image
	case kind == "given" && read(&built):
		return built.File
	case kind == "preflight" && read(&pre) && pre.Verdict != "":
		return fmt.Sprintf("the plugin %s in %s", pre.Verdict, pre.Gateway)
	case kind == "bundle" && read(&zip):
		for _, v := range slices.Sorted(maps.Keys(zip.Loads)) {
			parts = append(parts, v+" loads "+zip.Loads[v])
		}
		return zip.File + ": " + strings.Join(parts, ", ")
	case kind == "publish" && read(&out) && out.URL != "":
		return out.URL + " has it"
	case kind == "publish" && read(&out):
		return out.Name
	case kind == "plan" && read(&hosts):
		for _, v := range slices.Sorted(maps.Keys(hosts.Now)) {
			parts = append(parts, fmt.Sprintf("%d with %s", hosts.Now[v], v))
		}
		return strings.Join(parts, ", ")
	case kind == "findings" && read(&found):
		for _, f := range found.Findings {
			parts = append(parts, f.String())
		}
		return strings.Join(parts, "; ")
	case kind == "apis" && read(&uses) && (uses.APIs > 0 || len(uses.Notes) > 0):
		if uses.APIs > 0 {
			parts = []string{fmt.Sprintf("that use plugins: %d", uses.APIs)}
		}
		return strings.Join(append(parts, uses.Notes...), "; ")
	case kind == "set" && read(&set) && set.Dir != "":
		return fmt.Sprintf("%s: %s, %d bytes", set.Dir, strings.Join(set.Components, ", "), set.Bytes)
	}
	return ""
}
