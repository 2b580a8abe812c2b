package debpkg

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Unit is a systemd unit's state.
type Unit struct {
	Name             string
	LoadState        string // loaded, not-found, masked
	ActiveState      string // active, activating, inactive, failed
	SubState         string
	Result           string // success, exit-code, start-limit-hit, …
	FileState        string // enabled, disabled, …
	MainPID          int64
	NRestarts        int64
	ExecMainStatus   int64
	InvocationID     string
	NeedDaemonReload bool
}

const unitProperties = "Id,LoadState,ActiveState,SubState,Result,UnitFileState,MainPID,NRestarts,ExecMainStatus,InvocationID,NeedDaemonReload"

// Active reports whether the unit runs at this moment.
func (u Unit) Active() bool { return u.ActiveState == "active" }

func (u Unit) String() string {
	text := fmt.Sprintf("%s is %s (%s)", u.Name, u.ActiveState, u.SubState)
	if u.Result != "" && u.Result != "success" {
		text += fmt.Sprintf(", result %s, exit status %d", u.Result, u.ExecMainStatus)
	}
	if u.NRestarts > 0 {
		text += fmt.Sprintf(", %d restarts", u.NRestarts)
	}
	return text
}

// Units returns the states of the named units, in their order. A unit that
// does not exist has the LoadState not-found.
func (h *Host) Units(ctx context.Context, names ...string) ([]Unit, error) {
	if len(names) == 0 || h.o.Root != "" {
		return nil, nil
	}
	// One unit per call would be slow over SSH. show prints blocks in order and
	// exits 0 for unknown units.
	out, err := h.output(ctx, append([]string{"systemctl", "show", "-p", unitProperties, "--"},
		names...)...)
	if err != nil {
		return nil, task{"read", fmt.Sprintf("the state of %s", strings.Join(names, ", "))}.wrap(err)
	}
	units := parseUnits(out)
	if len(units) != len(names) {
		return nil, task{"read", fmt.Sprintf("the state of %s", strings.Join(names, ", "))}.wrap(
			fmt.Errorf("systemctl described %d units", len(units)))
	}
	return units, nil
}

func parseUnits(text string) []Unit {
	var units []Unit
	for block := range strings.SplitSeq(strings.TrimSpace(text), "\n\n") {
		var u Unit
		seen := false
		for line := range strings.Lines(block) {
			key, value, ok := strings.Cut(strings.TrimRight(line, "\n"), "=")
			if !ok {
				continue
			}
			seen = true
			switch key {
			case "Id":
				u.Name = value
			case "LoadState":
				u.LoadState = value
			case "ActiveState":
				u.ActiveState = value
			case "SubState":
				u.SubState = value
			case "Result":
				u.Result = value
			case "UnitFileState":
				u.FileState = value
			case "MainPID":
				u.MainPID = number64(value)
			case "NRestarts":
				u.NRestarts = number64(value)
			case "ExecMainStatus":
				u.ExecMainStatus = number64(value)
			case "InvocationID":
				u.InvocationID = value
			case "NeedDaemonReload":
				u.NeedDaemonReload = value == "yes"
			}
		}
		if seen {
			units = append(units, u)
		}
	}
	return units
}

// begun reports whether a unit has ever been started. Units for timers and sockets, and units that
// an administrator stopped, are inactive.
func begun(states []Unit, name string) bool {
	i := slices.IndexFunc(states, func(u Unit) bool { return u.Name == name })
	return i >= 0 && states[i].ActiveState != "inactive"
}

// Restart restarts the units and waits until they are stable, like WaitStable. It reads changed
// unit files first. It also resets systemd's start limit, after which systemd refuses to start a
// unit for ten seconds.
func (h *Host) Restart(ctx context.Context, names ...string) error {
	if len(names) == 0 || h.o.Root != "" {
		return nil
	}
	op := task{"restart", strings.Join(names, ", ")}
	h.event(Event{Kind: EventStep, Text: op.String()})
	out, err := h.script(ctx, nil, "restart", names...)
	if err != nil {
		if ctx.Err() != nil {
			return op.wrap(err)
		}
		return h.unitError(ctx, op, strings.TrimSpace(out), err, names)
	}
	return h.WaitStable(ctx, names...)
}

// WaitStable returns nil once every unit has been active, with the same main process and without a
// restart, for [Options].Settle. `systemctl restart` is no such check: it succeeds for a program
// that exits at once (systemd 252, Type=simple). If a unit fails, keeps restarting, or is not
// stable within SettleLimit, the error is an [ErrUnit] with the last lines of the journal.
func (h *Host) WaitStable(ctx context.Context, names ...string) error {
	_, err := h.waitStable(ctx, names)
	return err
}

// watchScript prints the units' states once they differ from the first look, or
// after $1 looks that are 0.2 s apart. A look takes some time itself.
const watchScript = `n=$1; shift
first=$(systemctl show -p ` + unitProperties + ` -- "$@") || exit $?
while [ $n -gt 0 ]; do
	sleep 0.2
	now=$(systemctl show -p ` + unitProperties + ` -- "$@") || exit $?
	[ "$now" = "$first" ] || break
	n=$((n - 1))
done
systemctl show -p ` + unitProperties + ` -- "$@"`

func (h *Host) waitStable(ctx context.Context, names []string) ([]Unit, error) {
	if len(names) == 0 || h.o.Root != "" {
		return nil, nil
	}
	op := task{"wait", "for " + strings.Join(names, ", ")}
	h.event(Event{Kind: EventStep, Text: op.String()})
	type mark struct {
		invocation    string
		pid, restarts int64
	}
	key := func(us []Unit) (all []mark, active bool) {
		active = true
		for _, u := range us {
			all = append(all, mark{u.InvocationID, u.MainPID, u.NRestarts})
			active = active && u.Active()
		}
		return all, active
	}
	start := time.Now()
	var first, last []mark
	var since time.Time
	looks := 0
	for {
		out, err := h.script(ctx, nil, "watch", append([]string{strconv.Itoa(looks)},
			names...)...)
		if err != nil {
			return nil, op.wrap(err)
		}
		units := parseUnits(out)
		if len(units) != len(names) {
			return nil, op.wrap(fmt.Errorf("systemctl described %d units", len(units)))
		}
		marks, active := key(units)
		if first == nil {
			first = marks
		}
		for i, u := range units {
			switch {
			case u.LoadState != "loaded":
				return units, h.unitError(ctx, op, fmt.Sprintf("%s is %s", u.Name, u.LoadState), nil,
					names[i:i+1])
			case u.ActiveState == "failed", u.ActiveState == "inactive":
				return units, h.unitError(ctx, op, u.String(), nil, names[i:i+1])
			case marks[i].restarts-first[i].restarts >= 2:
				return units, h.unitError(ctx, op, "crash loop: "+u.String(), nil, names[i:i+1])
			}
		}
		if !active || !slices.Equal(marks, last) {
			since, last = time.Now(), marks
		}
		left := h.o.Settle - time.Since(since)
		if active && left <= 0 {
			return units, nil
		}
		if time.Since(start) > h.o.SettleLimit+h.o.Settle {
			return units, h.unitError(ctx, op, fmt.Sprintf("not stable after %s", h.o.SettleLimit), nil,
				names)
		}
		// The next call lasts until something changes, or the time is over.
		looks = max(1, int(left/(200*time.Millisecond)))
		if !active {
			looks = 10
		}
		if err := pause(ctx, min(50*time.Millisecond, h.o.Settle)); err != nil {
			return units, op.wrap(err)
		}
	}
}

// unitError adds the end of the units' journal.
func (h *Host) unitError(ctx context.Context, op task, detail string, cause error,
	names []string) error {
	// -u also has systemd's own lines, which fill the end of the journal after a crash loop.
	// The field has only the program's lines.
	program := []string{"journalctl", "--no-pager", "-q", "-n", "6", "-o", "cat"}
	all := []string{"journalctl", "--no-pager", "-q", "-n", "50", "-o", "short-iso"}
	for _, n := range names {
		program, all = append(program, "_SYSTEMD_UNIT="+n), append(all, "-u", n)
	}
	lines, err := h.output(ctx, program...)
	if err != nil {
		lines = "the journal cannot be read: " + err.Error()
	}
	journal, err := h.output(ctx, all...)
	if err != nil {
		journal = lines
	}
	if strings.TrimSpace(lines) == "" {
		lines = "(nothing)"
	}
	if detail == "" && cause != nil {
		detail = cause.Error()
	}
	return &Error{Op: op.verb, Object: op.object, Kind: ErrUnit, Detail: tidy(detail +
		"; the last that the program said:\n" + strings.TrimSpace(lines)),
		Output: tidy(journal), Next: "read the journal, fix the configuration and restart the " +
			"unit, or revert", Err: cause}
}
