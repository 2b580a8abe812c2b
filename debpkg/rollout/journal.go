package rollout

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"example.com/tykupgrade/internal/printable"
)

// journalVersion is written into each record. A reader refuses other ones: records of
// version 1 were not chained.
const journalVersion = 2

// Limits of a record. Longer text is cut, and a larger note is refused, so that no record comes
// near maxRecord, which bounds a line for reading and writing.
const (
	maxText   = 64 << 10
	maxNote   = 1 << 20
	maxRecord = 16 << 20
)

// Kind is what a record is about.
type Kind string

// The kinds of records, in the order in which a run writes them.
const (
	KindRun      Kind = "run"      // a call begins: Who, Plan, Mode
	KindPlan     Kind = "plan"     // Names are targets of a wave, before the first begins
	KindTakeover Kind = "takeover" // the lock of a dead process was taken: Error names it
	KindWave     Kind = "wave"     // a wave begins
	KindSoak     Kind = "soak"     // a canary's soak begins (no OK) or has ended
	KindTarget   Kind = "target"   // a target begins
	KindVerify   Kind = "verify"   // a resumed run looked at a target that the journal calls done
	KindStart    Kind = "start"    // an attempt of a step, or of its undo, begins
	KindNote     Kind = "note"     // a step called Save
	KindInfo     Kind = "info"     // Text for the operator
	KindCommand  Kind = "command"  // a command ended: Text is its program, Digest of all of it
	KindStep     Kind = "step"     // the attempt ended
	KindSkip     Kind = "skip"     // Done reported that the step's effect is there
	KindEnd      Kind = "end"      // a target ended: Status
	KindHook     Kind = "hook"     // a hook ended: Text is its name and point
	KindProbe    Kind = "probe"    // a probe failed during work on Names, or Probes were counted
	KindPause    Kind = "pause"    // no further target begins
	KindContinue Kind = "continue" // the pause ended
	KindHalt     Kind = "halt"     // no further target begins in this run: Error says why
	KindDone     Kind = "done"     // the call ended: Outcome
)

// durable reports whether a record must be on disk before the run continues. Other records get
// there with the next one that must. If one is lost, a step is only repeated.
func (k Kind) durable() bool {
	switch k {
	case KindVerify, KindInfo, KindCommand, KindStep, KindSkip, KindTarget, KindProbe, KindPause,
		KindContinue:
		return false
	}
	return true
}

// Record is one line of the journal and one event of a run. The fields after Kind are set if
// they apply.
type Record struct {
	Version int             `json:"v"`
	Seq     int64           `json:"seq"`
	Prev    string          `json:"prev,omitempty"` // SHA-256 of the line before
	Time    time.Time       `json:"time"`
	Kind    Kind            `json:"kind"`
	Mode    Mode            `json:"mode,omitempty"`
	Who     *Owner          `json:"who,omitempty"`
	Plan    string          `json:"plan,omitempty"` // digest of the names of waves, targets and steps
	Wave    string          `json:"wave,omitempty"`
	Target  string          `json:"target,omitempty"`
	Step    string          `json:"step,omitempty"`
	Undo    bool            `json:"undo,omitempty"` // the record is about the step's Undo
	Attempt int             `json:"attempt,omitempty"`
	OK      bool            `json:"ok,omitempty"`
	Status  Status          `json:"status,omitempty"`
	Outcome Outcome         `json:"outcome,omitempty"`
	Took    time.Duration   `json:"took_ns,omitempty"`
	Error   string          `json:"error,omitempty"`
	Text    string          `json:"text,omitempty"`
	Digest  string          `json:"digest,omitempty"`
	Note    json.RawMessage `json:"note,omitempty"`
	Names   []string        `json:"names,omitempty"`
	Probes  *ProbeCount     `json:"probes,omitempty"`
}

// journal appends records durably and hands them on as events. Without a path it only hands
// them on.
type journal struct {
	path    string
	secrets []string
	event   func(Record)
	now     func() time.Time

	mu      sync.Mutex
	synced  sync.Cond // of mu: done has grown, or a sync ended
	f       *os.File
	seq     int64
	head    string // SHA-256 of the last line
	size    int64
	line    bytes.Buffer // for one record at a time, with rec
	rec     Record
	rep     *Report
	bad     error // the first write that failed
	syncing bool
	done    int64 // the last record that is on disk
}

func newJournal(o Options) *journal {
	j := &journal{path: o.Journal, secrets: o.Secrets, event: o.Progress, now: time.Now,
		rep: &Report{}}
	j.synced.L = &j.mu
	return j
}

// add writes a record and reports it. If the record must be durable, add returns once it is on
// disk. After an error nothing more may begin: a change without a record could not be undone after
// a crash.
func (j *journal) add(rec Record) error {
	// Text from a host must not control a terminal or a page that shows the record.
	rec.Error = printable.Text(shorten(j.redact(rec.Error)))
	rec.Text = printable.Text(shorten(j.redact(rec.Text)))
	if rec.Note != nil {
		var err error
		if rec.Note, err = j.redactJSON(rec.Note); err != nil {
			return err
		}
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.bad != nil && rec.Kind == KindStart && !rec.Undo {
		return j.bad
	}
	j.seq++
	rec.Version, rec.Seq, rec.Prev, rec.Time = journalVersion, j.seq, j.head, j.now().UTC()
	err := j.write(rec)
	j.rep.apply(rec)
	if j.event != nil {
		j.event(rec)
	}
	if err == nil && rec.Kind.durable() {
		err = j.sync(rec.Seq)
	}
	return err
}

func (j *journal) write(rec Record) error {
	if j.f == nil {
		return nil
	}
	if j.bad != nil {
		return j.bad
	}
	j.line.Reset()
	j.rec = rec
	err := json.NewEncoder(&j.line).Encode(&j.rec) // with a line end
	if err == nil && j.line.Len() > maxRecord {
		err = fmt.Errorf("a record of %d bytes is over the limit of %d", j.line.Len(), maxRecord)
	}
	if err == nil {
		j.head = hash(j.line.Bytes()[:j.line.Len()-1])
		_, err = j.f.Write(j.line.Bytes())
	}
	j.size += int64(j.line.Len())
	return j.failed(err)
}

// sync returns once the record is on disk. One sync serves all the records that wait for it.
func (j *journal) sync(seq int64) error {
	for j.f != nil && j.done < seq {
		if j.bad != nil {
			return j.bad
		}
		if j.syncing {
			j.synced.Wait()
			continue
		}
		j.syncing = true
		upto := j.seq
		j.mu.Unlock()
		err := j.f.Sync()
		j.mu.Lock()
		j.syncing = false
		if j.failed(err) == nil {
			j.done = upto
		}
		j.synced.Broadcast()
	}
	return nil
}

// failed keeps the first failure, after which nothing may begin.
func (j *journal) failed(err error) error {
	if err == nil {
		return nil
	}
	if j.bad == nil {
		j.bad = &Error{
			Op: "write", Object: "journal " + j.path, Err: err,
			Next: "nothing further starts; what is undone now is reported but not recorded",
		}
	}
	return j.bad
}

func (j *journal) broken() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.bad
}

// saved returns what a step saved last and has not undone.
func (j *journal) saved(target, step string) json.RawMessage {
	j.mu.Lock()
	defer j.mu.Unlock()
	t := j.rep.target(target)
	if t == nil {
		return nil
	}
	_, note := t.changed(step)
	return note
}

func (j *journal) close() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	err := j.sync(j.seq)
	if cerr := j.f.Close(); !errors.Is(err, cerr) {
		err = errors.Join(err, cerr)
	}
	return err
}

func hash(line []byte) string {
	sum := sha256.Sum256(line)
	return hex.EncodeToString(sum[:])
}
