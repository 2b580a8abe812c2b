package debpkg

import (
	"strconv"
	"strings"
)

// EventKind is what an [Event] is about.
type EventKind string

// The kinds of events.
const (
	EventStep EventKind = "step" // a step begins; Text names it
	// another process holds a lock, or the connection is lost; Text has the details
	EventWait     EventKind = "wait"
	EventDownload EventKind = "download" // apt downloads; Percent and Text
	EventInstall  EventKind = "install"  // dpkg works on Package; Percent and Text
	EventConffile EventKind = "conffile" // dpkg meets an edited conffile; Text is its path
	EventProblem  EventKind = "problem"  // a package failed; Text has the cause
)

// Event is one step of progress.
type Event struct {
	Kind    EventKind
	Package string  `json:",omitempty"`
	Percent float64 // 0 to 100, of the whole download or installation
	Text    string
}

func (h *Host) event(e Event) {
	e.Text = tidy(e.Text)
	h.o.Events(e)
}

// parseStatus reads one line of apt's Status-Fd:
// dlstatus:n:percent:text, pmstatus:package:percent:text,
// pmerror:package:percent:text, pmconffile:path:percent:'old' 'new' 1 1.
func parseStatus(line string) (Event, bool) {
	f := strings.SplitN(strings.TrimRight(line, "\r\n"), ":", 4)
	if len(f) != 4 {
		return Event{}, false
	}
	name, rest := f[1], f[2:]
	// A foreign package is written name:arch.
	if _, err := strconv.ParseFloat(rest[0], 64); err != nil && strings.HasPrefix(f[0], "pm") {
		more := strings.SplitN(f[3], ":", 2)
		if len(more) != 2 {
			return Event{}, false
		}
		name, rest = name+":"+f[2], more
	}
	percent, err := strconv.ParseFloat(rest[0], 64)
	if err != nil || !(percent >= -1 && percent <= 1000) {
		return Event{}, false
	}
	e := Event{Package: name, Percent: min(max(percent, 0), 100), Text: rest[1]}
	switch f[0] {
	case "dlstatus":
		e.Kind, e.Package = EventDownload, ""
	case "pmstatus":
		e.Kind = EventInstall
	case "pmerror":
		e.Kind = EventProblem
	case "pmconffile":
		e.Kind, e.Package, e.Text = EventConffile, "", name
	default:
		return Event{}, false
	}
	return e, true
}

// lineWriter calls f for each whole line.
type lineWriter struct {
	f   func(string)
	buf []byte
}

func (w *lineWriter) Write(p []byte) (int, error) {
	w.buf = append(w.buf, p...)
	for {
		i := strings.IndexByte(string(w.buf), '\n')
		if i < 0 {
			return len(p), nil
		}
		w.f(string(w.buf[:i]))
		w.buf = w.buf[i+1:]
	}
}
