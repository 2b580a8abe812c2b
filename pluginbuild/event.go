package pluginbuild

import "time"

// Event is something that happened while a module was prepared or compiled.
// Functions that take a func(Event) call it synchronously, one event at a time.
type Event struct {
	Stage string    // what is going on: "go mod tidy", "pull", "compile"
	Kind  EventKind // says which of the fields below mean something
	// Output: one line without its end. Progress: what is done to Part, such as "Downloading"
	Line    string
	Stderr  bool          // Output: where the line was written
	Part    string        // Progress: which part of the stage, such as an image layer
	Current int64         // Progress: bytes so far
	Total   int64         // Progress: bytes in all, 0 when unknown
	Elapsed time.Duration // Done: how long the stage took
	Err     error         // Done: why it failed, nil when it did not
}

// EventKind is what an [Event] reports.
type EventKind string

// Every stage begins with Started and ends with Done.
const (
	Started  EventKind = "started"
	Output   EventKind = "output"
	Progress EventKind = "progress"
	Done     EventKind = "done"
)
