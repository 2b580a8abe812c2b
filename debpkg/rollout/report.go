package rollout

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"example.com/tykupgrade/internal/printable"
)

// Status is the state of a target.
type Status string

// The statuses of a target. A crash can leave a target in StatusRunning.
const (
	StatusPending     Status = "pending"      // not begun
	StatusRunning     Status = "running"      // begun and not ended
	StatusDone        Status = "done"         // every step succeeded
	StatusUndone      Status = "undone"       // what was done was undone
	StatusNotRestored Status = "not_restored" // it could not be undone, and needs attention
)

// Outcome is how a run ended.
type Outcome string

// The outcomes of a run. A crash leaves OutcomeUnfinished.
const (
	OutcomeUnfinished  Outcome = ""
	OutcomeDone        Outcome = "done"         // every target is done
	OutcomePartial     Outcome = "partial"      // failures within the budget; the rest is done
	OutcomeStopped     Outcome = "stopped"      // ended between targets; can be resumed
	OutcomeHeld        Outcome = "held"         // failures beyond the budget; done targets stay
	OutcomeUndone      Outcome = "undone"       // everything that the run changed was undone
	OutcomeNotRestored Outcome = "not_restored" // a target could not be undone
	OutcomeAccepted    Outcome = "accepted"     // kept for good; it can no longer be undone
)

// Finished reports whether nothing is left to do. Run then begins a new run with the same journal.
func (o Outcome) Finished() bool {
	return o == OutcomeDone || o == OutcomeUndone || o == OutcomeAccepted
}

// words is the outcome for people.
func (o Outcome) words() string {
	switch o {
	case OutcomeUnfinished:
		return "unfinished"
	case OutcomeNotRestored:
		return "not restored"
	}
	return string(o)
}

// next is what to do after the outcome.
func (o Outcome) next() string {
	switch o {
	case OutcomeNotRestored:
		return "check the targets that are not restored: they may be out of service"
	case OutcomeUndone:
		return "nothing is changed: fix the cause, then call Run"
	}
	return "fix the cause, then call Resume or Undo"
}

// words is the status for people.
func (s Status) words() string {
	if s == StatusNotRestored {
		return "not restored"
	}
	return string(s)
}

// Report is what a run did, from its first call to its last resume or undo. It is built from the
// records alone, so a run and its journal give the same report.
type Report struct {
	Who     []Owner        `json:"who"` // who ran it, resumed it, undid it
	Plan    string         `json:"plan"`
	Started time.Time      `json:"started"`
	Ended   time.Time      `json:"ended,omitzero"` // of the last record
	Outcome Outcome        `json:"outcome"`
	Halt    string         `json:"halt,omitempty"` // why no further target was started
	Events  []Note         `json:"events,omitempty"`
	Probes  *ProbeCount    `json:"probes,omitempty"` // nil: none were sent
	Targets []TargetReport `json:"targets"`

	index  map[string]int
	soaked map[string]int64 // record of the end of a good soak, by wave

	probesSaid int
	width      int // steps of a target, for exact room

	accepting bool // what Undo would need is being removed
}

// Note is something that happened to the run as a whole.
type Note struct {
	Time time.Time `json:"time"`
	Text string    `json:"text"`
}

// TargetReport is what happened to one target.
type TargetReport struct {
	Name    string       `json:"name"`
	Wave    string       `json:"wave"`
	Status  Status       `json:"status"`
	Started time.Time    `json:"started,omitzero"`
	Ended   time.Time    `json:"ended,omitzero"`
	Error   string       `json:"error,omitempty"` // why it failed, or why it could not be undone
	Steps   []StepReport `json:"steps,omitempty"`

	ended int64 // the last record of it that was an end
}

// StepReport is one step, or the undoing of one, of a target.
type StepReport struct {
	Name    string `json:"name"`
	Undo    bool   `json:"undo,omitempty"`
	OK      bool   `json:"ok"`
	Skipped bool   `json:"skipped,omitempty"` // the effect was there already

	began bool // changed by this run and not undone; here it takes no room of its own

	Attempts int             `json:"attempts,omitempty"`
	Started  time.Time       `json:"started"`
	Took     time.Duration   `json:"took_ns"` // of all attempts with the waits between
	Error    string          `json:"error,omitempty"`
	Note     json.RawMessage `json:"note,omitempty"` // what the step saved
}

// BuildReport builds the report of a run from the records of its journal.
func BuildReport(recs []Record) *Report {
	r := &Report{}
	for _, rec := range recs {
		r.apply(rec)
	}
	return r
}

// Count returns how many targets have the status.
func (r *Report) Count(s Status) int {
	n := 0
	for i := range r.Targets {
		if r.Targets[i].Status == s {
			n++
		}
	}
	return n
}

func (r *Report) target(name string) *TargetReport {
	if i, ok := r.index[name]; ok {
		return &r.Targets[i]
	}
	return nil
}

// step returns the newest entry for a step, or nil.
func (t *TargetReport) step(name string, undo bool) *StepReport {
	for i := len(t.Steps) - 1; i >= 0; i-- {
		if t.Steps[i].Name == name && t.Steps[i].Undo == undo {
			return &t.Steps[i]
		}
	}
	return nil
}

// changed reports whether the run began the step and has not undone it, and returns what the step
// saved last.
func (t *TargetReport) changed(name string) (bool, json.RawMessage) {
	began, note := false, json.RawMessage(nil)
	for i := range t.Steps {
		s := &t.Steps[i]
		if s.Name != name {
			continue
		}
		if s.Undo {
			if s.OK {
				began, note = false, nil
			}
			continue
		}
		began = began || s.began
		if s.Note != nil {
			note = s.Note
		}
	}
	return began, note
}

func (r *Report) apply(rec Record) {
	// a journal may be somebody else's
	rec.Error, rec.Text = printable.Text(rec.Error), printable.Text(rec.Text)
	r.Ended = rec.Time
	switch rec.Kind {
	case KindRun:
		if r.Started.IsZero() {
			r.Started = rec.Time
			r.Plan = rec.Plan
		}
		if rec.Who != nil {
			r.Who = append(r.Who, *rec.Who)
			r.say(rec, fmt.Sprintf("%s by %s", rec.Mode, rec.Who))
		}
		r.accepting = r.accepting || rec.Mode == ModeAccept
		r.Outcome, r.Halt = OutcomeUnfinished, ""
		return
	case KindPlan:
		if r.index == nil {
			r.index = make(map[string]int, len(rec.Names))
		}
		r.Targets = slices.Grow(r.Targets, len(rec.Names))
		for _, name := range rec.Names {
			if _, ok := r.index[name]; !ok {
				r.index[name] = len(r.Targets)
				r.Targets = append(r.Targets, TargetReport{Name: name, Wave: rec.Wave, Status: StatusPending})
			}
		}
		return
	case KindTakeover:
		r.say(rec, rec.Error)
		return
	case KindHalt:
		r.Halt = rec.Error
		r.say(rec, "no further target: "+rec.Error)
		return
	case KindInfo:
		text := rec.Text
		if rec.Target != "" {
			text = rec.Target + ": " + text
		}
		r.say(rec, text)
		return
	case KindHook:
		if rec.Error != "" {
			r.say(rec, "hook "+strings.TrimSpace(rec.Text+" "+rec.Target)+" failed: "+rec.Error)
		}
		return
	case KindProbe:
		if rec.Probes != nil {
			if r.Probes == nil {
				r.Probes = &ProbeCount{}
			}
			r.Probes.Sent += rec.Probes.Sent
			r.Probes.Failed += rec.Probes.Failed
			return
		}
		// A load balancer that is down must not push other events out.
		if r.probesSaid++; r.probesSaid <= maxProbesSaid {
			r.say(rec, "probe failed while "+working(rec.Names)+": "+rec.Error)
		}
		return
	case KindPause:
		r.say(rec, "paused")
		return
	case KindContinue:
		r.say(rec, "continued")
		return
	case KindSoak:
		switch {
		case rec.Error != "":
			r.say(rec, "soak of the canary failed: "+rec.Error)
		case rec.OK:
			if r.soaked == nil {
				r.soaked = map[string]int64{}
			}
			r.soaked[rec.Wave] = rec.Seq
			r.say(rec, "canary soaked")
		default:
			r.say(rec, "canary soaks")
		}
		return
	case KindDone:
		r.Outcome = rec.Outcome
		return
	}
	t := r.target(rec.Target)
	if t == nil {
		return
	}
	switch rec.Kind {
	case KindTarget:
		t.Status, t.Error = StatusRunning, ""
		if t.Started.IsZero() {
			t.Started = rec.Time
		}
	case KindEnd:
		t.Status, t.Ended, t.ended = rec.Status, rec.Time, rec.Seq
		if r.width == 0 {
			r.width = len(t.Steps)
		}
		if rec.Error != "" || rec.Status == StatusDone {
			t.Error = rec.Error
		}
	case KindSkip:
		r.add(t, StepReport{Name: rec.Step, Undo: rec.Undo, OK: true, Skipped: true,
			Started: rec.Time, Took: rec.Took})
	case KindStart:
		if rec.Attempt <= 1 {
			r.add(t, StepReport{Name: rec.Step, Undo: rec.Undo, Started: rec.Time, began: !rec.Undo})
		}
		if s := t.step(rec.Step, rec.Undo); s != nil {
			s.Attempts = rec.Attempt
		}
	case KindNote:
		if s := t.step(rec.Step, false); s != nil {
			s.Note = rec.Note
		}
	case KindStep:
		if s := t.step(rec.Step, rec.Undo); s != nil {
			// The clock may have been set back meanwhile.
			s.OK, s.Error, s.Took = rec.OK, rec.Error, max(rec.Took, rec.Time.Sub(s.Started))
		}
	}
}

// add gives a target room for as many steps as the one that ended first had.
func (r *Report) add(t *TargetReport, s StepReport) {
	if t.Steps == nil {
		t.Steps = make([]StepReport, 0, r.width)
	}
	t.Steps = append(t.Steps, s)
}

const maxProbesSaid = 100

func working(names []string) string {
	if len(names) == 0 {
		return "no target was worked on"
	}
	const most = 5
	text := strings.Join(names[:min(most, len(names))], ", ")
	if len(names) > most {
		text += fmt.Sprintf(" and %d more", len(names)-most)
	}
	return text + " was worked on"
}

// say keeps the newest of a bounded number of events.
func (r *Report) say(rec Record, text string) {
	const most = 1000
	if len(r.Events) == most {
		r.Events = append(r.Events[:0], r.Events[1:]...)
	}
	r.Events = append(r.Events, Note{rec.Time, text})
}

// WriteText writes the report for a terminal or a ticket: a summary, then a line for each target
// that has begun, with its errors below.
func (r *Report) WriteText(w io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, "outcome   %s\n", r.Outcome.words())
	if r.Halt != "" {
		fmt.Fprintf(&b, "halted    %s\n", r.Halt)
	}
	for _, o := range r.Who {
		fmt.Fprintf(&b, "by        %s\n", o)
	}
	fmt.Fprintf(&b, "time      %s to %s (%s)\n", stamp(r.Started), stamp(r.Ended), r.took())
	fmt.Fprintf(&b, "targets   %s\n", r.counts())
	if r.Probes != nil {
		fmt.Fprintf(&b, "probes    %s\n", r.Probes)
	}
	for _, e := range r.Events {
		fmt.Fprintf(&b, "%s  %s\n", stamp(e.Time), e.Text)
	}
	b.WriteByte('\n')
	tw := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(tw, "TARGET\tWAVE\tSTATUS\tTOOK\tSTEPS")
	for i := range r.Targets {
		t := &r.Targets[i]
		if t.Status == StatusPending {
			continue
		}
		_, _ = fmt.Fprintf(tw, "%s\t%s\t%s\t%s\t%s\n", t.Name, t.Wave, t.Status.words(),
			t.took(r.Ended).Round(100*time.Millisecond), t.steps())
	}
	_ = tw.Flush()
	for i := range r.Targets {
		if t := &r.Targets[i]; t.Error != "" {
			fmt.Fprintf(&b, "\n%s: %s\n", t.Name, t.Error)
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func (r *Report) took() time.Duration { return max(0, r.Ended.Sub(r.Started)).Round(time.Second) }

func (r *Report) counts() string {
	parts := []string{fmt.Sprintf("%d", len(r.Targets))}
	for _, s := range []Status{StatusDone, StatusUndone, StatusNotRestored, StatusRunning,
		StatusPending} {
		if n := r.Count(s); n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", n, s.words()))
		}
	}
	return strings.Join(parts, ", ")
}

func (t *TargetReport) took(now time.Time) time.Duration {
	if t.Started.IsZero() {
		return 0
	}
	if t.Ended.IsZero() {
		return max(0, now.Sub(t.Started))
	}
	return max(0, t.Ended.Sub(t.Started))
}

func (t *TargetReport) steps() string {
	var parts []string
	for _, s := range t.Steps {
		name := s.Name
		if s.Undo {
			name = "undo " + name
		}
		switch {
		case s.Skipped:
			name += " (was done)"
		case !s.OK && s.Error == "":
			name += " (not ended)"
		case !s.OK:
			name += " FAILED"
		}
		if s.Attempts > 1 {
			name += fmt.Sprintf(" ×%d", s.Attempts)
		}
		parts = append(parts, name)
	}
	return strings.Join(parts, ", ")
}

func stamp(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05Z") }
