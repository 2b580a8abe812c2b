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
)

// Runner runs a command on a host, without a shell. stdin may be nil. If the command ran and
// failed, the error has a method ExitCode() int.
type Runner = func(ctx context.Context, argv []string, stdin io.Reader, stdout,
	stderr io.Writer) error

// Source reads one component. Name returns the component's name, which is also its directory in the
// set. It is a clean relative path such as "redis" or "config/gateway-1", and unique in the set.
//
// Plan changes nothing. It refuses what cannot be backed up, and estimates the size. Backup writes
// everything through w and returns the component for the manifest. [Take] fills in name, times,
// bytes and files. Both return soon after ctx ends and leave nothing running.
type Source interface {
	Name() string
	Plan(ctx context.Context) (Estimate, error)
	Backup(ctx context.Context, w *Writer) (Component, error)
}

// Prover compares a live system with a component of a set. It changes nothing on the system. If the
// two differ, its error matches [ErrDiffers].
type Prover interface {
	Name() string // the component's name in the set
	Prove(ctx context.Context, s *Stored) error
}

// Restorer restores one component.
//
// Plan changes nothing. It returns every item with its action, and refuses what Restore would
// refuse, for example with [ErrNotEmpty] or [ErrTooNew]. Restore is called only after Plan
// succeeded, and returns every item. If it fails, it restores the previous state, or its error
// names what is left and where. Prove is called after Restore. progress may be called concurrently.
//
// A Restorer that can undo a finished Restore implements [Undoer] and [Accepter] too.
type Restorer interface {
	Prover
	Plan(ctx context.Context, s *Stored) ([]Item, error)
	Restore(ctx context.Context, s *Stored, progress func(Event)) ([]Item, error)
}

// Undoer is a [Restorer] that keeps the data that Restore replaced. Undo restores that data after a
// successful Restore, for example because Prove or another component failed. Undo also works in a
// later process. Its context is not cancelled with that of the restore.
//
// undone reports whether Undo took something back. Without an error, false means that there was
// nothing to undo: no restore of this set is neither accepted nor undone, or it had changed nothing.
type Undoer interface {
	Undo(ctx context.Context, s *Stored) (undone bool, err error)
}

// Accepter is a [Restorer] that keeps the data that Restore replaced. Accept removes that data
// after Prove passed. Accept also works in a later process. It does nothing if nothing is left to
// remove.
type Accepter interface {
	Accept(ctx context.Context, s *Stored) error
}

// StructureVerifier is a [Restorer] that makes the checks of [LevelStructure] while it restores. It
// must change no existing data before the whole component has passed. If VerifiesStructure returns
// true, [Set.Restore] leaves that level to the Restorer and reads the component once less.
type StructureVerifier interface {
	VerifiesStructure() bool
}

// Estimate is what a source expects to write. Zero means unknown.
type Estimate struct {
	Bytes int64
	Items int64 // keys, documents or files
}

// Event reports progress. Bytes and Items count from the start of the component. Totals are
// estimates, or 0 if unknown.
type Event struct {
	Component  string
	Phase      Phase
	Item       string // the present file, node or collection; may be empty
	Bytes      int64
	TotalBytes int64
	Items      int64
	TotalItems int64
	ItemDone   int64 // progress within Item, such as documents of a collection; 0 if unknown
	ItemTotal  int64
	Done       bool // the last event of this phase for the component
}

// Phase is the present phase of a component.
type Phase string

// The phases, in their order.
const (
	PhasePlan    Phase = "plan"
	PhaseBackup  Phase = "backup"
	PhaseVerify  Phase = "verify"
	PhaseRestore Phase = "restore"
	PhaseProve   Phase = "prove"
	PhaseExport  Phase = "export" // of a whole set: Component is empty
)

// Item is one thing that a restore did, or would do in a dry run.
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
	ActionSame    Action = "same" // it equals the set: nothing to do
	ActionSkip    Action = "skip" // left out because the caller requested that
	ActionKeep    Action = "keep" // the set does not have it, and it stays
	ActionDrop    Action = "drop" // the set does not have it, and the caller requested its removal
)

// Writer writes the files of a source into the source's directory of a new set. Its methods may be
// called concurrently.
type Writer struct {
	component string
	dir       string // absolute directory of the component
	report    func(Event)
	estimate  Estimate

	mu    sync.Mutex
	files []File
	made  map[string]bool // directories
	bytes int64
	items int64
}

// NewWriter returns a writer outside of a set, for unit tests of a source. dir is the component's
// directory. progress may be nil.
func NewWriter(dir, component string, progress func(Event)) *Writer {
	return &Writer{component: component, dir: dir, report: step.Serial(progress)}
}

// Meta describes the original of a file. The file in the set always has mode 0600 and belongs to
// the caller.
type Meta struct {
	Mode        fs.FileMode
	UID, GID    int
	User, Group string
	ModTime     time.Time
}

// Create writes one file of the set with the output of fill, and records its size, digest and meta
// for the manifest. name is a slash-separated path relative to the component's directory. meta is
// nil for a file without an original. The name must be new. After an error no file is left. [Take]
// makes all files durable before the set gets its name.
func (w *Writer) Create(ctx context.Context, name string, meta *Meta,
	fill func(io.Writer) error) (File, error) {
	if err := checkName(name); err != nil {
		return File{}, step.Fail("write", w.component+"/"+name, err)
	}
	target := filepath.Join(w.dir, filepath.FromSlash(name))
	sum, err := w.fill(ctx, target, name, fill)
	if err != nil { // a chain of single errors, as libraries that unwrap by hand expect
		return File{}, fmt.Errorf("write %s: %w", target, err)
	}
	f := File{Path: path.Join(w.component, name), Size: sum.size, SHA256: sum.sha256}
	if meta == nil {
		meta = &Meta{Mode: 0o600, UID: os.Geteuid(), GID: os.Getegid(), ModTime: time.Now()}
	}
	f.SetMeta(*meta)
	w.record(f)
	return f, nil
}

// Link records a symbolic link. Only the manifest has it.
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

// Progress adds to the component's counts and reports them. item is the present item. Create counts
// the bytes that it writes itself.
func (w *Writer) Progress(item string, bytes, items int64) {
	w.ItemProgress(item, bytes, items, 0,
		0)
}

// ItemProgress is Progress for a large item, of which done of total documents or keys are written.
func (w *Writer) ItemProgress(item string, bytes, items, done, total int64) {
	w.mu.Lock()
	w.bytes += bytes
	w.items += items
	e := Event{Component: w.component, Phase: PhaseBackup, Item: item, Bytes: w.bytes, Items: w.items,
		TotalBytes: w.estimate.Bytes, TotalItems: w.estimate.Items, ItemDone: done, ItemTotal: total}
	w.mu.Unlock()
	w.report(e)
}

// Component returns the name of the component that w writes.
func (w *Writer) Component() string { return w.component }

// Stored returns the files that Create has written so far, so that a source can check them.
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

// Reset removes everything that was written, for a source that begins again. It must not be called
// concurrently with other methods.
func (w *Writer) Reset() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.files, w.made, w.bytes, w.items = nil, nil, 0, 0
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

// SetDetails stores details that depend on the kind, as JSON.
func (c *Component) SetDetails(v any) error {
	data, err := json.Marshal(v)
	if err == nil {
		c.Details = data
	}
	return err
}

// DecodeDetails decodes the details that SetDetails stored.
func (c *Component) DecodeDetails(v any) error {
	if len(c.Details) == 0 {
		return nil
	}
	return json.Unmarshal(c.Details, v)
}
