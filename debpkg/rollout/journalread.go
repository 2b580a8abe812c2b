package rollout

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"
)

// damaged returns the error for a line of a journal that cannot be used.
func damaged(line int, err error) *Error {
	return &Error{
		Op: "read", Object: "journal", Kind: ErrJournal, Line: line,
		Err:  fmt.Errorf("%w: line %d: %w", ErrJournal, line, err),
		Next: "restore the file, or check each host and begin a run with another journal",
	}
}

// ReadJournal reads the records of a journal. It drops a last line without a line end, which a
// crash can leave. Each other line must be the next record and have the digest of the line before
// it. Otherwise the error is an [ErrJournal].
func ReadJournal(r io.Reader) ([]Record, error) {
	var recs []Record
	names := map[string]string{}
	_, err := scanJournal(r, func(rec Record) {
		rec.Target = intern(names, rec.Target)
		recs = append(recs, rec)
	})
	if err != nil {
		return nil, err
	}
	return recs, nil
}

// ReadReport reads a journal as [ReadJournal] does and returns its report. It holds one record in
// memory at a time.
func ReadReport(r io.Reader) (*Report, error) {
	rep, _, err := readReport(r)
	return rep, err
}

func readReport(r io.Reader) (*Report, scanned, error) {
	rep := &Report{}
	end, err := scanJournal(r, rep.apply)
	if err != nil {
		return nil, end, err
	}
	return rep, end, nil
}

// scanned is where the whole records of a journal end.
type scanned struct {
	seq  int64
	size int64
	head string // SHA-256 of the last line
}

func scanJournal(r io.Reader, each func(Record)) (scanned, error) {
	var end scanned
	br := bufio.NewReaderSize(r, 64<<10)
	names := map[string]string{}
	var rec Record
	var data []byte
	for line := 1; ; line++ {
		var err error
		data, err = readLine(br, data[:0])
		if errors.Is(err, io.EOF) {
			if err := cutShort(data, end.seq+1); err != nil {
				return end, damaged(line, err)
			}
			return end, nil
		}
		if err != nil {
			return end, damaged(line, err)
		}
		rec = Record{}
		if err := decode(data, end, &rec); err != nil {
			return end, damaged(line, err)
		}
		// A report keeps these, and the name of a target once.
		rec.Step, rec.Wave = intern(names, rec.Step), intern(names, rec.Wave)
		rec.Status = Status(intern(names, string(rec.Status)))
		each(rec)
		end.seq, end.size, end.head = rec.Seq, end.size+int64(len(data)), hash(data[:len(data)-1])
	}
}

// decode reads a line with its line end.
func decode(data []byte, end scanned, rec *Record) error {
	if err := json.Unmarshal(data, rec); err != nil {
		return err
	}
	switch {
	case rec.Version > journalVersion:
		return fmt.Errorf("format %d is newer than this program's %d: use the program that wrote it",
			rec.Version, journalVersion)
	case rec.Version < 1 || rec.Kind == "":
		return errors.New("not a journal record")
	case rec.Version < journalVersion:
		return fmt.Errorf("format %d is older than this program's %d: finish that run with the "+
			"program that began it",
			rec.Version, journalVersion)
	case rec.Seq != end.seq+1:
		return fmt.Errorf("it is record %d, want record %d", rec.Seq, end.seq+1)
	case rec.Prev != end.head:
		return errors.New("it does not follow from the line before: one of them was changed")
	}
	return nil
}

// cutShort accepts what a crash can leave of a line: its beginning, or blocks of zeros.
func cutShort(data []byte, seq int64) error {
	begin := fmt.Sprintf(`{"v":%d,"seq":%d,`, journalVersion, seq)
	text := string(data)
	if len(bytes.Trim(data, "\x00")) == 0 || strings.HasPrefix(text, begin) || strings.HasPrefix(begin,
		strings.TrimRight(text, "\x00")) {
		return nil
	}
	return errors.New("not the beginning of a record")
}

// readLine appends a line with its line end; a last line without one is EOF.
func readLine(br *bufio.Reader, line []byte) ([]byte, error) {
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

// intern keeps one copy of a name however many records hold it.
func intern(names map[string]string, name string) string {
	if known, ok := names[name]; ok {
		return known
	}
	names[name] = name
	return name
}

// History returns the report of the run in a journal, or nil if there is no journal or it is empty.
// It takes no lock and may be called during a run.
func History(journal string) (*Report, error) {
	f, err := os.Open(journal)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, &Error{Op: "read", Object: journal, Err: errors.Unwrap(err)}
	}
	defer func() { _ = f.Close() }()
	rep, end, err := readReport(f)
	if err != nil || end.seq == 0 {
		return nil, err
	}
	return rep, nil
}

// Archive renames the journal of the run in rep, so that a new run can use its path. If somebody
// has locked the journal, Archive leaves it and returns false.
func Archive(journal string, rep *Report) (bool, error) {
	if _, err := os.Lstat(journal + ".lock"); !errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	err := os.Rename(journal, journal+"."+rep.Started.UTC().Format("20060102T150405.000Z"))
	return err == nil, err
}

// Repeats reports whether the run in the report had the same waves and o.About and is done. With
// unfinished, it accepts an unfinished run too. If Repeats returns true, call [Resume], which
// changes only what is missing. Otherwise call [Run]. For a nil report it returns false.
func (r *Report) Repeats(waves []Wave, o Options, unfinished bool) bool {
	return r != nil && r.Plan == planDigest(waves, o.About) &&
		(r.Outcome == OutcomeDone || unfinished && !r.Outcome.Finished())
}

// Begun reports whether the run has begun a target for which match is true.
func (r *Report) Begun(match func(TargetReport) bool) bool {
	return r != nil && slices.ContainsFunc(r.Targets, func(t TargetReport) bool {
		return t.Status != StatusPending && match(t)
	})
}

// Saved returns what a step of a target saved last, or nil.
func (r *Report) Saved(target, step string) []byte {
	if r == nil {
		return nil
	}
	var note []byte
	for _, t := range r.Targets {
		for _, s := range t.Steps {
			if t.Name == target && s.Name == step && s.Note != nil {
				note = s.Note
			}
		}
	}
	return note
}
