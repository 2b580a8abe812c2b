package debpkg

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"
	"strconv"
	"strings"
	"time"
)

// A job is a run of apt or dpkg that goes on when the connection, or the
// program that started it, is gone. It lives in a directory of its own on the
// host: what it runs, apt's progress, all output, and the exit code once it has
// ended. It is prepared in DIR.new and becomes DIR in one step, by itself.
type job struct {
	dir    string
	argv   []string
	hold   []string // packages to put on hold again afterwards
	mask   []string // units not to start or restart meanwhile
	change any      // recorded as change.json
}

// jobScript: $1 job directory, $2 held packages, $3 units to mask, then argv.
const jobScript = `dir=$1 hold=$2 mask=$3
shift 3
echo $$ >"$dir.new/pid"
if [ -e "$dir" ]; then mv -T "$dir" "$dir.gone" && rm -rf "$dir.gone"; fi
mv -T "$dir.new" "$dir" && cd "$dir" || exit 1
for u in $mask; do systemctl mask --runtime -- "$u"; done
"$@" 3>>status
rc=$?
for u in $mask; do systemctl unmask --runtime -- "$u"; done
# --allow-change-held-packages drops the hold (apt 2.6).
if [ -n "$hold" ]; then apt-mark hold $hold; fi
echo $rc >rc.new && sync rc.new && mv rc.new rc
`

// startScript runs the job in a session of its own and returns once the job
// has taken its place.
const startScript = `set -e
cd /
rm -f "$1.new/status"; : >"$1.new/status"
setsid sh "$1.new/job.sh" "$@" </dev/null >"$1.new/log" 2>&1 &
while [ ! -s "$1/pid" ] || [ -e "$1.new" ]; do
	kill -0 $! 2>/dev/null || break
	sleep 0.05
done
[ -s "$1/pid" ]`

// stateScript prints none, running PID, ended CODE, or dead for a job that
// vanished without an exit code: killed, or the host went down.
const stateScript = `d=$1
look() {
	if [ ! -d "$d" ]; then echo none
	elif [ -s "$d/rc" ]; then echo "ended $(cat "$d/rc")"
	elif p=$(cat "$d/pid" 2>/dev/null) && tr '\0' '\n' <"/proc/$p/cmdline" 2>/dev/null | grep -qxF -- "$d.new/job.sh"; then echo "running $p"
	else echo dead; fi
}
s=$(look)
# It may have ended between the two looks.
if [ "$s" = dead ]; then s=$(look); fi
echo "$s"`

// followScript prints what the job's progress file holds from byte $2 on, until
// the job ($3) has ended. tail -f --pid would do if every init reaped its
// orphans at once.
const followScript = `d=$1 n=$2 p=$3
show() {
	s=$(stat -c %s "$d/status")
	if [ "$s" -ge "$n" ]; then
		tail -c "+$n" "$d/status" | head -c $((s - n + 1))
		n=$((s + 1))
	fi
}
while [ ! -s "$d/rc" ] && [ -n "$(tr -d '\000' <"/proc/$p/cmdline" 2>/dev/null)" ]; do
	show
	sleep 0.2
done
show`

type jobState struct {
	name string // none, running, ended, dead
	n    int    // process or exit code
}

func (h *Host) jobState(ctx context.Context, dir string) (jobState, error) {
	out, err := h.script(ctx, nil, stateScript, dir)
	if err != nil {
		return jobState{}, fmt.Errorf("look for the run in %s: %w", dir, err)
	}
	name, n, _ := strings.Cut(strings.TrimSpace(out), " ")
	num, err := strconv.Atoi(n)
	if n != "" && err != nil {
		return jobState{}, fmt.Errorf("look for the run in %s: unexpected answer %q", dir, out)
	}
	return jobState{name, num}, nil
}

// prepare makes an empty directory for the job, readable by root only.
func (h *Host) prepare(ctx context.Context, dir string) error {
	_, err := h.script(ctx, nil, `set -e; umask 077; mkdir -p "$(dirname "$1")"; rm -rf "$1.new"; mkdir "$1.new"`, dir)
	if err != nil {
		return fmt.Errorf("make a directory for the run: %w", err)
	}
	return nil
}

// discard removes a job that was not started.
func (h *Host) discard(ctx context.Context, dir string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	if _, err := h.script(ctx, nil, `rm -rf "$1.new"`, dir); err != nil {
		h.o.Log.WarnContext(ctx, "a prepared directory stays", "dir", dir+".new", "err", err)
	}
}

func (h *Host) writeFile(ctx context.Context, name string, data []byte) error {
	_, err := h.script(ctx, bytes.NewReader(data), `set -e; umask 077; cat >"$1.tmp"; sync "$1.tmp"; mv -T "$1.tmp" "$1"`, name)
	if err != nil {
		return fmt.Errorf("write %s on the host: %w", name, err)
	}
	return nil
}

func (h *Host) readFile(ctx context.Context, name string) ([]byte, error) {
	out, err := h.script(ctx, nil, `cat -- "$1"`, name)
	if err != nil {
		return nil, fmt.Errorf("read %s on the host: %w", name, err)
	}
	return []byte(out), nil
}

// start begins the job, unless it has begun. Once it returns nil the job runs
// by itself.
func (h *Host) start(ctx context.Context, j job) error {
	record, err := json.Marshal(j.change)
	if err != nil {
		return fmt.Errorf("record the change: %w", err)
	}
	if err := h.writeFile(ctx, path.Join(j.dir+".new", "change.json"), record); err != nil {
		return err
	}
	if err := h.writeFile(ctx, path.Join(j.dir+".new", "job.sh"), []byte(jobScript)); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return ended(ctx)
	}
	// From here on the context no longer stops the start: half of it would be
	// worse than all.
	args := append([]string{j.dir, strings.Join(j.hold, " "), strings.Join(j.mask, " ")}, append(h.env(), j.argv...)...)
	dctx, cancel := h.lasting(ctx)
	defer cancel()
	_, err = h.script(dctx, nil, startScript, args...)
	if err == nil {
		return nil
	}
	if errors.Is(err, ErrConnection) {
		// It may have started, or not; the host knows.
		return h.reconnect(dctx, err, func() error {
			s, err := h.jobState(dctx, j.dir)
			if err == nil && s.name == "none" {
				_, err = h.script(dctx, nil, startScript, args...)
			}
			return err
		})
	}
	return fmt.Errorf("start the run in %s: %w", j.dir, err)
}

// finishLimit is how long a run of dpkg may go on once the caller's context
// has ended before the caller gets its answer without the result.
const finishLimit = 2 * time.Minute

// reconnectLimit is how long a lost connection is tried again.
const reconnectLimit = 5 * time.Minute

// lasting is a context that outlives ctx by finishLimit.
func (h *Host) lasting(ctx context.Context) (context.Context, context.CancelFunc) {
	dctx, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() {
		t := time.AfterFunc(finishLimit, func() { cancel(ended(ctx)) })
		context.AfterFunc(dctx, func() { t.Stop() })
	})
	return dctx, func() { stop(); cancel(nil) }
}

// reconnect calls f until the connection is back.
func (h *Host) reconnect(ctx context.Context, err error, f func() error) error {
	deadline := time.Now().Add(reconnectLimit)
	for wait := 200 * time.Millisecond; errors.Is(err, ErrConnection) && time.Now().Before(deadline); wait = min(2*wait, 5*time.Second) {
		h.event(Event{Kind: EventWait, Text: "the connection is lost; the run goes on, trying again"})
		h.o.Log.WarnContext(ctx, "connection lost", "err", err)
		if err := pause(ctx, wait); err != nil {
			return err
		}
		err = f()
	}
	return err
}

// follow passes the job's progress on until it has ended, and returns its
// exit code. It does not matter who started it, or when.
func (h *Host) follow(ctx context.Context, dir string) (jobState, error) {
	dctx, cancel := h.lasting(ctx)
	defer cancel()
	defer context.AfterFunc(ctx, func() {
		h.o.Log.InfoContext(dctx, "stopping once dpkg has finished", "run", dir)
	})()
	lines := &lineWriter{f: func(line string) {
		if e, ok := parseStatus(line); ok {
			h.event(e)
		}
	}}
	seen := &countWriter{w: lines}
	for {
		var s jobState
		attempt := func() (err error) {
			if s, err = h.jobState(dctx, dir); err != nil || s.name != "running" {
				return err
			}
			return h.stream(dctx, nil, seen, nil, "sh", "-c", followScript, "sh", dir, strconv.FormatInt(seen.n+1, 10), strconv.Itoa(s.n))
		}
		err := attempt()
		if errors.Is(err, ErrConnection) {
			err = h.reconnect(dctx, err, attempt)
		}
		if err != nil {
			return s, fmt.Errorf("follow the run in %s, which goes on: %w", dir, err)
		}
		if s.name != "running" {
			return s, nil
		}
	}
}

type countWriter struct {
	w io.Writer
	n int64
}

func (c *countWriter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += int64(n)
	return n, err
}

// log returns all that the job printed, or the last megabyte of it.
func (h *Host) log(ctx context.Context, dir string) (string, error) {
	out, err := h.script(ctx, nil, `tail -c 1000000 -- "$1"`, path.Join(dir, "log"))
	if err != nil {
		return "", fmt.Errorf("read the output of the run: %w", err)
	}
	return redact(out), nil
}
