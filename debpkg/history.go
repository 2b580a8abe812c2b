package debpkg

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"example.com/tykupgrade/internal/redact"
)

// Entry is one run in apt's history log. apt logs a failed run with its intended actions and its
// Error. It does not log later repairs by dpkg.
type Entry struct {
	Start, End  time.Time // in the host's time zone, which the log does not state: UTC here
	Command     string
	RequestedBy string `json:",omitempty"`
	Error       string `json:",omitempty"`
	Actions     []Action
}

// Rows returns the actions as rows of a table: time, kind of action, package, old and new version.
func (e Entry) Rows() [][]string {
	var rows [][]string
	for _, a := range e.Actions {
		rows = append(rows, []string{e.Start.Format(time.DateTime), string(a.Kind), a.Package,
			a.From.String(), a.To.String()})
	}
	return rows
}

// History reads apt's history log, including rotated and compressed files, oldest entry first.
func (h *Host) History(ctx context.Context) ([]Entry, error) {
	s, err := h.survey(ctx)
	if err != nil {
		return nil, err
	}
	return h.historyAt(ctx, s.history())
}

// historyScript prints the rotated logs by the time of their last entry's
// rotation, as their names say (logrotate's numbers or dates), then the log.
// Right after a rotation there is no plain file. A missing file is not an error, an
// unreadable one is.
const historyScript = `show() {
	case $1 in
	*.gz) gzip -dc -- "$1" ;;
	*.xz) xz -dc -- "$1" ;;
	*.zst) zstd -dc -- "$1" ;;
	*.bz2) bzip2 -dc -- "$1" ;;
	*) cat -- "$1" ;;
	esac || exit 1
	echo
}
for f in "$1"-[0-9]*; do [ ! -f "$f" ] || show "$f"; done
i=60
while [ $i -gt 0 ]; do
	for f in "$1.$i" "$1.$i."*; do if [ -f "$f" ]; then show "$f"; fi; done
	i=$((i - 1))
done
if [ -f "$1" ]; then cat -- "$1"; fi`

func (h *Host) historyAt(ctx context.Context, file string) ([]Entry, error) {
	text, err := h.script(ctx, nil, "history", file)
	if err != nil {
		return nil, task{"read", "apt's history"}.wrap(err)
	}
	return parseHistory(redact.Text(text)), nil
}

func parseHistory(text string) []Entry {
	var list []Entry
	for _, st := range stanzas(text) {
		start, ok := st.fields["start-date"]
		if !ok {
			continue
		}
		e := Entry{Start: historyTime(start), End: historyTime(st.fields["end-date"]),
			Command:     st.fields["commandline"],
			RequestedBy: st.fields["requested-by"], Error: st.fields["error"]}
		for _, k := range []struct {
			key  string
			kind ActionKind
		}{{"install", Install}, {"reinstall", Reinstall}, {"upgrade", Upgrade}, {"downgrade", Downgrade},
			{"remove", Remove}, {"purge", Remove}} {
			e.Actions = append(e.Actions, historyActions(st.fields[k.key], k.kind)...)
		}
		list = append(list, e)
	}
	return list
}

func historyTime(s string) time.Time {
	t, err := time.Parse("2006-01-02 15:04:05", strings.Join(strings.Fields(s), " "))
	if err != nil {
		return time.Time{}
	}
	return t
}

// historyActions reads "name:arch (old, new), name:arch (new, automatic)".
func historyActions(text string, kind ActionKind) []Action {
	var list []Action
	for text != "" {
		name, rest, ok := strings.Cut(text, " (")
		if !ok {
			break
		}
		inside, after, ok := strings.Cut(rest, ")")
		if !ok {
			break
		}
		text = strings.TrimPrefix(after, ", ")
		a := Action{Kind: kind, Requested: true}
		a.Package, a.Arch, _ = strings.Cut(strings.TrimSpace(name), ":")
		var versions []Version
		for _, v := range strings.Split(inside, ", ") {
			if v == "automatic" {
				a.Requested = false
			} else if parsed, err := ParseVersion(strings.TrimSpace(v)); err == nil {
				versions = append(versions, parsed)
			}
		}
		switch {
		case a.Package == "" || len(versions) == 0:
			continue
		case kind == Install:
			a.To = versions[0]
		case kind == Remove:
			a.From = versions[0]
		case kind == Reinstall:
			a.From, a.To = versions[0], versions[0]
		case len(versions) == 2:
			a.From, a.To = versions[0], versions[1]
		default:
			continue
		}
		list = append(list, a)
	}
	return list
}

// RevertFromHistory returns a Change from apt's history, with which [Host.Revert] undoes the latest
// change of the packages. It is for changes that Apply did not make. Nothing of these was saved, so
// Revert takes the versions from the sources or apt's cache. If a package was changed without apt
// since, the error is an [ErrChanged].
func (h *Host) RevertFromHistory(ctx context.Context, packages ...string) (Change, error) {
	op := task{"look", "up the last change of " + strings.Join(packages, ", ")}
	if len(packages) == 0 {
		return Change{}, task{"look", "up the last change"}.wrap(errors.New("no package given"))
	}
	look, err := h.survey(ctx, packages...)
	if err != nil {
		return Change{}, op.wrap(err)
	}
	now := look.Packages
	entries, err := h.historyAt(ctx, look.history())
	if err != nil {
		return Change{}, op.wrap(err)
	}
	c := Change{Plan: Plan{Host: look.Identity, OS: look.OS, Arch: look.Arch}}
	for _, name := range packages {
		e, a, ok := lastChange(entries, name)
		if !ok {
			return Change{}, &Error{Op: op.verb, Object: op.object, Kind: ErrNoRollback,
				Detail: "apt's history does not mention " + name, Next: "plan the version that you want"}
		}
		p, there := find(now, name)
		there = there && p.Status != "config-files"
		if there == a.To.IsZero() || there && p.Version.Compare(a.To) != 0 {
			have := "not installed"
			if there {
				have = "at " + p.Version.text
			}
			return Change{}, &Error{Op: op.verb, Object: op.object, Kind: ErrChanged,
				Detail: fmt.Sprintf("%s is %s, but apt's history has version %q", name, have, a.To),
				Next:   "it was changed without apt; plan the version that you want"}
		}
		a.Held, a.FromArch = there && p.Held(), a.Arch
		c.Plan.Actions = append(c.Plan.Actions, a)
		if there {
			// Its earlier hold is unknown, so the present one stays.
			c.Before = append(c.Before, p)
		}
		if c.Started.IsZero() || e.Start.Before(c.Started) {
			c.Started = e.Start
		}
		if e.End.After(c.Ended) {
			c.Ended = e.End
		}
	}
	c.Units = look.units
	return c, nil
}

func lastChange(entries []Entry, name string) (Entry, Action, bool) {
	for _, e := range slices.Backward(entries) {
		for _, a := range e.Actions {
			if a.Package == name && a.Kind != Reinstall {
				return e, a, true
			}
		}
	}
	return Entry{}, Action{}, false
}
