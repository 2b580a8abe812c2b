package pluginbuild

import "time"

// Event describes the progress of preparing or compiling a module. Functions that take a
// func(Event) call it synchronously, one event at a time.
type Event struct {
	Stage string    // "go mod tidy", "pull", "compile"
	Kind  EventKind // selects the fields below
	// Output: one line without its end. Progress: the work on Part, such as "Downloading"
	Line    string
	Stderr  bool          // Output: the line is from stderr
	Part    string        // Progress: a part of the stage, such as an image layer
	Current int64         // Progress: bytes so far
	Total   int64         // Progress: bytes in total; 0: unknown
	Elapsed time.Duration // Done: duration of the stage
	Err     error         // Done: why the stage failed, or nil
}

// EventKind is the kind of an [Event].
type EventKind string

// The kinds of events. Every stage begins with Started and ends with Done.
const (
	Started  EventKind = "started"
	Output   EventKind = "output"
	Progress EventKind = "progress"
	Done     EventKind = "done"
)
