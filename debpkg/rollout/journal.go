package rollout

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"example.com/tykupgrade/internal/atomicfile"
)

// journalVersion is written into each record. A reader refuses a newer one.
const journalVersion = 1

// What a record may hold: text beyond maxText is cut, a larger note refused. So
// none comes near maxRecord, which bounds a line for reading and writing.
const (
	maxText   = 64 << 10
	maxNote   = 1 << 20
	maxRecord = 16 << 20
)

// Kind says what a record is about.
type Kind string

// The kinds of records, in the order in which a run writes them.
const (
	KindRun      Kind = "run"      // a run, resumption or undo begins: Who, Plan, Mode
	KindPlan     Kind = "plan"     // Names of targets of a wave, before the first begins
	KindTakeover Kind = "takeover" // the lock of a dead process was taken: Error names it
	KindWave     Kind = "wave"     // a wave begins
	KindSoak     Kind = "soak"     // a canary's soak begins (no OK) or has ended
	KindTarget   Kind = "target"   // a target begins
	KindVerify   Kind = "verify"   // a resumed run looked at a target that the journal calls done
	KindStart    Kind = "start"    // an attempt of a step, or of its undo, begins
	KindNote     Kind = "note"     // a step has something to remember
	KindInfo     Kind = "info"     // Text for the operator
	KindStep     Kind = "step"     // the attempt ended
	KindSkip     Kind = "skip"     // Done said that the step's effect holds
	KindEnd      Kind = "end"      // a target ended: Status
	KindPause    Kind = "pause"    // no further target begins
	KindContinue Kind = "continue" // the pause ended
	KindHalt     Kind = "halt"     // no further target begins in this run: Error says why
	KindDone     Kind = "done"     // the run ended: Outcome
)

// Record is one line of the journal and one event of a run. The fields beside
// Version, Seq, Time and Kind are set where they apply.
type Record struct {
	Version int             `json:"v"`
	Seq     int64           `json:"seq"`
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
	Note    json.RawMessage `json:"note,omitempty"`
	Names   []string        `json:"names,omitempty"`
}

// damaged says which line of a journal cannot be used and why.
func damaged(line int, err error) *Error {
	return &Error{Op: "read", Object: "journal", Kind: ErrJournal, Line: line,
		Err:  fmt.Errorf("%w: line %d: %w", ErrJournal, line, err),
		Next: "restore the file, or look at each host and begin a run with another journal"}
}

// ReadJournal reads the records of a journal. A last line without its line end
// is what a crash leaves and is dropped; anything else that is not a record in
// sequence is an [ErrJournal].
func ReadJournal(r io.Reader) ([]Record, error) {
	recs, _, err := readJournal(r)
	return recs, err
}

// readJournal also returns how many bytes the whole records take.
func readJournal(r io.Reader) (recs []Record, size int64, err error) {
	br := bufio.NewReaderSize(r, 64<<10)
	for line := 1; ; line++ {
		data, err := readLine(br)
		if errors.Is(err, io.EOF) {
			return recs, size, nil
		}
		if err != nil {
			return nil, 0, damaged(line, err)
		}
		var rec Record
		dec := json.NewDecoder(bytes.NewReader(data))
		if err := dec.Decode(&rec); err != nil {
			return nil, 0, damaged(line, err)
		}
		switch {
		case rec.Version > journalVersion:
			err = fmt.Errorf("format %d is newer than this program's %d: use the program that wrote it", rec.Version, journalVersion)
		case rec.Version < 1 || rec.Kind == "":
			err = errors.New("not a journal record")
		case rec.Seq != int64(line):
			err = fmt.Errorf("record %d stands where record %d belongs", rec.Seq, line)
		}
		if err != nil {
			return nil, 0, damaged(line, err)
		}
		recs = append(recs, rec)
		size += int64(len(data))
	}
}

// readLine returns a line with its line end; a last line without one is EOF.
func readLine(br *bufio.Reader) ([]byte, error) {
	var line []byte
	for {
		part, err := br.ReadSlice('\n')
		line = append(line, part...)
		if len(line) > maxRecord {
			return nil, fmt.Errorf("longer than %d bytes", maxRecord)
		}
		if !errors.Is(err, bufio.ErrBufferFull) {
			return line, err
		}
	}
}

// journal appends records durably and hands them on as events. Without a path
// it only hands them on.
type journal struct {
	path    string
	secrets []string
	event   func(Record)
	now     func() time.Time

	mu  sync.Mutex
	f   *os.File
	seq int64
	rep *Report
	bad error // the first write that failed
}

// openJournal opens or creates path, drops what a crash left half-written, and
// returns the records that are there.
func openJournal(path string) (*os.File, []Record, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, nil, fmt.Errorf("open journal: %w", err)
	}
	recs, size, err := readJournal(f)
	if err != nil {
		if e := (*Error)(nil); errors.As(err, &e) {
			e.Object = "journal " + path
		}
		return nil, nil, errors.Join(err, f.Close())
	}
	err = f.Truncate(size)
	if err == nil {
		_, err = f.Seek(size, io.SeekStart)
	}
	if err == nil && size == 0 {
		err = atomicfile.SyncDir(filepath.Dir(path))
	}
	if err != nil {
		return nil, nil, errors.Join(fmt.Errorf("open journal %s: %w", path, err), f.Close())
	}
	return f, recs, nil
}

// add makes a record durable and then known. Its error means that nothing more
// may be begun: what is not journalled could not be undone after a crash.
func (j *journal) add(rec Record) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.bad != nil && rec.Kind == KindStart && !rec.Undo {
		return j.bad
	}
	rec.Version, rec.Seq, rec.Time = journalVersion, j.seq+1, j.now().UTC()
	rec.Error, rec.Text = shorten(j.redact(rec.Error)), shorten(j.redact(rec.Text))
	var err error
	if rec.Note != nil {
		if rec.Note, err = j.redactJSON(rec.Note); err != nil {
			return err
		}
	}
	err = j.write(rec)
	if err != nil {
		err = fmt.Errorf("write journal %s: %w; nothing further is begun, what is undone now is reported but not recorded", j.path, err)
		if j.bad == nil {
			j.bad = err
		}
	}
	j.seq++
	j.rep.apply(rec)
	if j.event != nil {
		j.event(rec)
	}
	return err
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

// broken returns the first failure to write, after which nothing may begin.
func (j *journal) broken() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.bad
}

func (j *journal) write(rec Record) error {
	if j.f == nil {
		return nil
	}
	if j.bad != nil {
		return j.bad
	}
	line, err := json.Marshal(rec)
	if err != nil {
		return err
	}
	if len(line) >= maxRecord {
		return fmt.Errorf("a record of %d bytes is over the limit of %d", len(line), maxRecord)
	}
	if _, err := j.f.Write(append(line, '\n')); err != nil {
		return err
	}
	return j.f.Sync()
}

// redact also finds a secret as it looks inside a JSON string, a Go string and
// a URL.
func (j *journal) redact(s string) string {
	for _, secret := range j.secrets {
		if secret == "" {
			continue
		}
		forms := []string{secret, url.QueryEscape(secret), url.PathEscape(secret), url.User(secret).String()}
		for _, quoted := range []string{strconv.Quote(secret), jsonQuote(secret)} {
			forms = append(forms, quoted[1:len(quoted)-1])
		}
		for _, form := range forms {
			s = strings.ReplaceAll(s, form, "[redacted]")
		}
	}
	return s
}

func jsonQuote(s string) string {
	data, _ := json.Marshal(s) // a string never fails
	return string(data)
}

// redactJSON changes strings only: a secret of digits would otherwise turn
// numbers into what is no JSON.
func (j *journal) redactJSON(note json.RawMessage) (json.RawMessage, error) {
	if j.redact(string(note)) == string(note) {
		return note, nil
	}
	dec := json.NewDecoder(bytes.NewReader(note))
	dec.UseNumber()
	var v any
	if err := dec.Decode(&v); err != nil {
		return nil, err
	}
	return json.Marshal(j.redactAny(v))
}

func (j *journal) redactAny(v any) any {
	switch v := v.(type) {
	case string:
		return j.redact(v)
	case []any:
		for i := range v {
			v[i] = j.redactAny(v[i])
		}
	case map[string]any:
		out := make(map[string]any, len(v))
		for k, x := range v {
			out[j.redact(k)] = j.redactAny(x)
		}
		return out
	}
	return v
}

// shorten keeps both ends of a text: what was done, and why it failed.
func shorten(s string) string {
	if len(s) <= maxText {
		return s
	}
	return strings.ToValidUTF8(s[:maxText/2]+"\n[…]\n"+s[len(s)-maxText/2:], "")
}

// exists says whether a journal with records stands at path.
func exists(path string) (bool, error) {
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil && info.Size() > 0, err
}
