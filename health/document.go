package health

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode"
)

// MediaType is the type of the documents that [Parse] reads and
// [Report.WriteHealth] writes.
const MediaType = "application/health+json"

// Status is the state of a component, a probe or a report.
type Status string

// The four states, from best to worst. A report has the worst state of its probes.
const (
	Pass    Status = "pass"
	Warn    Status = "warn"
	Unknown Status = "unknown" // no reliable answer yet
	Fail    Status = "fail"
)

func worst(a, b Status) Status {
	order := []Status{Pass, Warn, Unknown, Fail}
	return order[max(slices.Index(order, a), slices.Index(order, b))]
}

// Component is one entry of a health document: the state of one dependency of the program
// that answers.
type Component struct {
	Name   string    `json:"name"`
	Status Status    `json:"status"`
	Output string    `json:"output,omitempty"`
	Type   string    `json:"component_type,omitempty"`
	Time   time.Time `json:"time,omitzero"` // of the check; zero: not reported
}

// Document is a health document. Its texts are safe to print: they have a bounded length and
// no control characters.
type Document struct {
	Status      Status
	Version     string
	Description string
	Output      string // also the message of Tyk's error objects
	Components  []Component
}

// ErrMalformed means that a body is not a health document.
var ErrMalformed = errors.New("not a health document")

// Parse reads an application/health+json body. It accepts early drafts with "details", as Tyk
// writes them, and later ones with "checks" and arrays. It also accepts the aliases ok and up,
// error and down. It skips unknown members and sorts components by name. The error wraps
// [ErrMalformed].
func Parse(body []byte) (Document, error) {
	var raw struct {
		Status      string          `json:"status"`
		Version     json.RawMessage `json:"version"`
		ReleaseID   json.RawMessage `json:"releaseId"`
		Description json.RawMessage `json:"description"`
		Output      json.RawMessage `json:"output"`
		Message     json.RawMessage `json:"message"`
		Details     json.RawMessage `json:"details"`
		Checks      json.RawMessage `json:"checks"`
	}
	body = bytes.TrimSpace(bytes.TrimPrefix(body, []byte("\ufeff")))
	if len(body) == 0 {
		return Document{}, fmt.Errorf("%w: empty body", ErrMalformed)
	}
	if body[0] == '<' {
		return Document{}, fmt.Errorf("%w: HTML or XML, as a proxy in front answers", ErrMalformed)
	}
	if body[0] != '{' && json.Valid(body) {
		return Document{}, fmt.Errorf("%w: JSON, but not an object", ErrMalformed)
	}
	if err := json.Unmarshal(body, &raw); err != nil {
		// The error quotes at most one character of the body.
		return Document{}, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	if raw.Status == "" {
		return Document{}, fmt.Errorf("%w: no status", ErrMalformed)
	}
	status, ok := parseStatus(raw.Status)
	if !ok {
		return Document{}, fmt.Errorf("%w: unknown status %q", ErrMalformed, clean(raw.Status))
	}
	d := Document{Status: status, Version: text(raw.Version), Description: text(raw.Description),
		Output: text(raw.Output)}
	if d.Version == "" {
		d.Version = text(raw.ReleaseID)
	}
	if d.Output == "" {
		d.Output = text(raw.Message)
	}
	for _, section := range []json.RawMessage{raw.Details, raw.Checks} {
		cs, err := components(section)
		if err != nil {
			return Document{}, err
		}
		d.Components = append(d.Components, cs...)
	}
	slices.SortStableFunc(d.Components, func(a, b Component) int {
		return strings.Compare(a.Name,
			b.Name)
	})
	return d, nil
}

func components(section json.RawMessage) ([]Component, error) {
	if len(section) == 0 || string(section) == "null" {
		return nil, nil
	}
	var entries map[string]json.RawMessage
	if err := json.Unmarshal(section, &entries); err != nil {
		return nil, fmt.Errorf("%w: details: %w", ErrMalformed, err)
	}
	type entry struct {
		Status        string          `json:"status"`
		Output        json.RawMessage `json:"output"`
		ComponentType json.RawMessage `json:"componentType"`
		Time          json.RawMessage `json:"time"`
	}
	var cs []Component
	for name, value := range entries {
		var list []entry
		if err := json.Unmarshal(value, &list); err != nil {
			var one entry
			if err := json.Unmarshal(value, &one); err != nil {
				return nil, fmt.Errorf("%w: details of %q: %w", ErrMalformed, clean(name), err)
			}
			list = []entry{one}
		}
		for _, e := range list {
			c := Component{Name: clean(name), Output: text(e.Output), Type: text(e.ComponentType)}
			// The drafts let an entry leave its status out; that says nothing.
			c.Status, _ = parseStatus(e.Status)
			if t, err := time.Parse(time.RFC3339, text(e.Time)); err == nil {
				c.Time = t.UTC()
			}
			cs = append(cs, c)
		}
	}
	return cs, nil
}

func parseStatus(s string) (Status, bool) {
	switch strings.ToLower(s) {
	case "pass", "ok", "up":
		return Pass, true
	case "warn":
		return Warn, true
	case "fail", "error", "down":
		return Fail, true
	}
	return Unknown, false
}

// text returns the string in raw, cleaned. It returns "" if raw holds anything else.
func text(raw json.RawMessage) string {
	var s string
	if json.Unmarshal(raw, &s) != nil {
		return ""
	}
	return clean(s)
}

const maxText = 300

// clean makes foreign text safe to print: one short line without escape sequences.
func clean(s string) string {
	if len(s) > maxText {
		s = s[:maxText] + "…"
	}
	return printable(s)
}

func printable(s string) string {
	return strings.TrimSpace(strings.Map(func(r rune) rune {
		switch {
		case unicode.IsSpace(r):
			return ' '
		case !unicode.IsPrint(r):
			return '�'
		}
		return r
	}, s))
}
