package backup

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"example.com/tykupgrade/backup/internal/step"
	"example.com/tykupgrade/internal/atomicfile"
)

// Runner executes one command on the host in question: argv without a shell,
// stdin may be nil. An error that has an ExitCode() int method is a command
// that ran and failed.
type Runner = func(ctx context.Context, argv []string, stdin io.Reader, stdout,
	stderr io.Writer) error

// Source is one thing to back up. Name is the component's name and at the same
// time the directory of the set that it owns: a clean relative path such as
// "redis" or "config/gateway-1", unique within the set.
//
// Plan looks without changing anything: it refuses what cannot be backed up
// and estimates the size. Backup writes everything through w and returns what
// the manifest should say; name, times, bytes and files are filled in by
// [Take]. Both return soon after ctx ends and leave nothing running.
type Source interface {
	Name() string
	Plan(ctx context.Context) (Estimate, error)
	Backup(ctx context.Context, w *Writer) (Component, error)
}

// Prover compares a live system with what a set holds. It changes nothing on
// the system, and its error matches [ErrDiffers] where the two are not the same.
type Prover interface {
	Name() string // the component's name in the set
	Prove(ctx context.Context, s *Stored) error
}

// Restorer restores one component.
//
// Plan changes nothing. It lists every item with what would happen to it, and
// refuses (ErrNotEmpty, ErrTooNew, …) what Restore would refuse. Restore is
// called only after Plan succeeded, and reports every item. A Restore that fails
// restores the previous state itself, or its error says where the rest is.
// Prove is called after Restore. progress may be called by several goroutines.
//
// A Restorer that can take a finished Restore back implements [Undoer] and
// [Accepter] as well.
type Restorer interface {
	Prover
	Plan(ctx context.Context, s *Stored) ([]Item, error)
	Restore(ctx context.Context, s *Stored, progress func(Event)) ([]Item, error)
}

// Undoer is a [Restorer] that keeps what Restore replaced. Undo puts it back
// after Restore succeeded: because Prove failed, because another component
// failed, or because the caller wants it. Undo also works in a later process, and
// does nothing if nothing is left to undo. Its context outlives one that was
// cancelled.
type Undoer interface {
	Undo(ctx context.Context, s *Stored) error
}

// Accepter is a [Restorer] that keeps what Restore replaced. Accept removes it
// after Prove passed. Accept also works in a later process, and does nothing
// if nothing is left to remove.
type Accepter interface {
	Accept(ctx context.Context, s *Stored) error
}

// StructureVerifier is a [Restorer] that reads its component from end to end while it
// restores, with the checks of [LevelStructure], and changes nothing that was there before
// all of it has passed. If VerifiesStructure returns true, [Set.Restore] leaves that
// level to it and reads the component once less.
type StructureVerifier interface {
	VerifiesStructure() bool
}

// Estimate is what a source expects to write. Zero means unknown.
type Estimate struct {
	Bytes int64
	Items int64 // keys, documents or files
}

// Event is progress. Bytes and Items count from the start of the component;
// totals are estimates, 0 where unknown.
type Event struct {
	Component  string
	Phase      Phase
	Item       string // the file, node or collection in hand; may be empty
	Bytes      int64
	TotalBytes int64
	Items      int64
	TotalItems int64
	ItemDone   int64 // how far Item is: documents of a collection; 0 where that is not told
	ItemTotal  int64
	Done       bool // the last event of this phase for the component
}

// Phase is what a component is going through.
type Phase string

// Phases in the order in which they occur.
const (
	PhasePlan    Phase = "plan"
	PhaseBackup  Phase = "backup"
	PhaseVerify  Phase = "verify"
	PhaseRestore Phase = "restore"
	PhaseProve   Phase = "prove"
	PhaseExport  Phase = "export" // of a whole set: Component is empty
)

// Item is one thing that a restore did, or with a dry run would do.
type Item struct {
	Name   string `json:"name"`             // a path, a node, a namespace
	Action Action `json:"action"`           // what happened to it
	Detail string `json:"detail,omitempty"` // why, or where the replaced version is
	Count  int64  `json:"count,omitempty"`  // keys or documents in it
	Bytes  int64  `json:"bytes,omitempty"`
}

// Action is what a restore does to an item.
type Action string

// Actions of a restore.
const (
	ActionCreate  Action = "create"
	ActionReplace Action = "replace"
	ActionSame    Action = "same" // nothing to do: it is as in the set
	ActionSkip    Action = "skip" // left out because the caller requested that
	ActionKeep    Action = "keep" // the set does not have it, and it stays
	ActionDrop    Action = "drop" // the set does not have it, and the caller requested it to go
)

// Writer is where a source puts its files: the source's own directory within
// the set that is being built. Its methods may be called by several goroutines.
type Writer struct {
	component string
	dir       string // absolute directory of the component
	report    func(Event)
	estimate  Estimate

	mu    sync.Mutex
	files []File
	bytes int64
	items int64
}

// NewWriter returns a writer of its own, outside a set: dir is the component's
// directory, and progress may be nil. Unit tests of a source use it.
func NewWriter(dir, component string, progress func(Event)) *Writer {
	return &Writer{component: component, dir: dir, report: step.Serial(progress)}
}

// Meta is what is known of a file where it came from. The file in the set is
// 0600 and the caller's whatever Meta says.
type Meta struct {
	Mode        fs.FileMode
	UID, GID    int
	User, Group string
	ModTime     time.Time
}

// Create writes one file of the set with what fill writes, and records its
// size, digest and origin for the manifest. name is relative to the
// component's directory, with slashes. A nil meta is a file that the source
// made itself. After an error nothing of it is left. [Take] makes all files durable
// before the set gets its name.
func (w *Writer) Create(ctx context.Context, name string, meta *Meta,
	fill func(io.Writer) error) (File, error) {
	if err := checkName(name); err != nil {
		return File{}, step.Fail("write", w.component+"/"+name, err)
	}
	target := filepath.Join(w.dir, filepath.FromSlash(name))
	if err := os.MkdirAll(filepath.Dir(target), 0o700); err != nil {
		return File{}, step.Fail("write", w.component+"/"+name, err)
	}
	sum, err := atomicfile.Write(ctx, target, atomicfile.Options{NoSync: true},
		func(out io.Writer) error {
			return fill(&step.Meter{W: out, Add: func(n int64) { w.Progress(name, n, 0) }})
		})
	if err != nil {
		return File{}, err
	}
	f := File{Path: path.Join(w.component, name), Size: sum.Size, SHA256: sum.SHA256}
	if meta == nil {
		meta = &Meta{Mode: 0o600, UID: os.Geteuid(), GID: os.Getegid(), ModTime: time.Now()}
	}
	f.SetMeta(*meta)
	w.record(f)
	return f, nil
}

// Link records a symbolic link; the set holds it in the manifest alone.
func (w *Writer) Link(name, target string, meta Meta) error {
	err := checkName(name)
	if err == nil && !utf8.ValidString(target) {
		err = fmt.Errorf("its target %q is not UTF-8, which the manifest cannot hold", target)
	}
	if err != nil {
		return step.Fail("write", w.component+"/"+name, err)
	}
	f := File{Path: path.Join(w.component, name), Link: target}
	f.SetMeta(meta)
	w.record(f)
	return nil
}

// Progress adds to the component's counts and passes them on. item is the item in
// progress. Create has counted the bytes that it wrote.
func (w *Writer) Progress(item string, bytes, items int64) {
	w.ItemProgress(item, bytes, items, 0,
		0)
}

// ItemProgress is Progress for an item that is long enough for a bar of its own:
// done of total documents or keys of the item are written.
func (w *Writer) ItemProgress(item string, bytes, items, done, total int64) {
	w.mu.Lock()
	w.bytes += bytes
	w.items += items
	e := Event{Component: w.component, Phase: PhaseBackup, Item: item, Bytes: w.bytes, Items: w.items,
		TotalBytes: w.estimate.Bytes, TotalItems: w.estimate.Items, ItemDone: done, ItemTotal: total}
	w.mu.Unlock()
	w.report(e)
}

// Component is the name of the component that w writes.
func (w *Writer) Component() string { return w.component }

// Stored gives access to the files that Create has written so far, so that a
// source can check them before it returns.
func (w *Writer) Stored() *Stored {
	w.mu.Lock()
	defer w.mu.Unlock()
	st := &Stored{Component: Component{Name: w.component}, Dir: w.dir}
	for _, f := range w.files {
		f.Path = strings.TrimPrefix(f.Path, w.component+"/")
		st.Files = append(st.Files, f)
	}
	return st
}

// Reset forgets and removes everything that was written, for a source that
// begins again. No other method may run at the same time.
func (w *Writer) Reset() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.files, w.bytes, w.items = nil, 0, 0
	if err := os.RemoveAll(w.dir); err != nil {
		return err
	}
	return os.MkdirAll(w.dir, 0o700)
}

func (w *Writer) record(f File) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.files = append(w.files, f)
}

// Stored is one component of an opened set, for reading.
type Stored struct {
	Component
	Dir   string // absolute directory of the component
	Files []File // paths relative to Dir
}

// Open opens a file of the component by its path relative to Dir.
func (s *Stored) Open(name string) (*os.File, error) {
	if err := checkName(name); err != nil {
		return nil, err
	}
	return os.OpenInRoot(s.Dir, filepath.FromSlash(name))
}

// SetDetails stores what only sources of this kind know.
func (c *Component) SetDetails(v any) error {
	data, err := json.Marshal(v)
	if err == nil {
		c.Details = data
	}
	return err
}

// DecodeDetails is the reverse of SetDetails.
func (c *Component) DecodeDetails(v any) error {
	if len(c.Details) == 0 {
		return nil
	}
	return json.Unmarshal(c.Details, v)
}
