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
// ended. It is prepared in a directory of its caller's own, so that two operators
// with the same plan cannot mix, and becomes DIR in one step, by itself.
type job struct {
	prep   string // as prepare returned it
	dir    string
	argv   []string
	hold   []string // packages to put on hold again afterwards
	mask   []string // units not to start or restart meanwhile
	change any      // recorded as change.json
}

// lookFunc prints none, running PID, ended CODE, or dead for a job that
// vanished without an exit code: killed, or the host went down. That a process
// has the job's number is not enough after a reboot.
const lookFunc = `look() {
	if [ ! -d "$1" ]; then echo none
	elif [ -s "$1/rc" ]; then echo "ended $(cat "$1/rc")"
	elif { read -r p && read -r j; } <"$1/pid" && tr '\0' '\n' <"/proc/$p/cmdline" | grep -qxF -- "$j"; then echo "running $p"
	else echo dead; fi
} 2>/dev/null
`

// jobScript: $1 prepared directory, $2 job directory, $3 held packages, $4 units
// to mask, then argv. It exits with 75 when another operator's run of the same
// has begun since this one was prepared.
const jobScript = lookFunc + `prep=$1 dir=$2 hold=$3 mask=$4
shift 4
exec 9<"${dir%/*}" && flock 9 || exit 1
case $(look "$dir") in running*) exit 75 ;; esac
if [ "$dir/pid" -nt "$prep/since" ]; then exit 75; fi
printf '%s\n%s\n' $$ "$prep/job.sh" >"$prep/pid"
rm -rf "$dir.gone" # of a host that went down in this line
if [ -e "$dir" ]; then mv -T "$dir" "$dir.gone" && rm -rf "$dir.gone"; fi
mv -T "$prep" "$dir" && cd "$dir" || exit 1
exec 9<&-
for u in $mask; do systemctl mask --runtime -- "$u"; done
"$@" 3>>status 2>>errors
rc=$?
for u in $mask; do systemctl unmask --runtime -- "$u"; done
# --allow-change-held-packages drops the hold (apt 2.6).
if [ -n "$hold" ]; then apt-mark hold $hold; fi
echo $rc >rc.new && sync rc.new && mv rc.new rc
`

// startScript runs the job in a session of its own and returns once the job
// has taken its place. It may be run again. What a revert needs is on the disk
// before anything changes.
const startScript = `set -e
cd /
[ -d "$1" ] || exit 0
: >"$1/status"; : >"$1/errors"
sync "$1"/* "$1"
setsid sh "$1/job.sh" "$@" </dev/null >"$1/log" 2>&1 &
while [ -d "$1" ]; do
	kill -0 $! 2>/dev/null || break
	sleep 0.05
done
[ ! -d "$1" ] || wait $! || { rc=$?; cat "$1/log" >&2; exit $rc; }
[ ! -d "$1" ]`

const stateScript = lookFunc + `s=$(look "$1")
# It may have ended between the two looks.
if [ "$s" = dead ]; then s=$(look "$1"); fi
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
		return jobState{}, task{"look", "for the run in " + dir}.wrap(err)
	}
	name, n, _ := strings.Cut(strings.TrimSpace(out), " ")
	num, err := strconv.Atoi(n)
	if n != "" && err != nil {
		return jobState{}, task{"look", "for the run in " + dir}.wrap(fmt.Errorf("unexpected answer %q", out))
	}
	return jobState{name, num}, nil
}

// prepareScript: $1 job directory. Whoever could change what is kept there
// could have it installed by root. What vanished callers prepared goes after a
// day.
const prepareScript = `set -e; umask 077
runs=${1%/*}; mkdir -p "$runs"
for d in "$runs" "${runs%/*}"; do
	if [ ! -O "$d" ] || [ -n "$(find "$d/." -maxdepth 0 -perm /022)" ]; then echo "$d must belong to this user and be writable by nobody else" >&2; exit 1; fi
done
find "$runs" -mindepth 1 -maxdepth 1 -name '*.new.*' -mmin +1440 -exec rm -rf {} +
d=$(mktemp -d "$1.new.XXXXXX"); : >"$d/since"; echo "$d"`

// prepare makes an empty directory for the job, readable by root only.
func (h *Host) prepare(ctx context.Context, dir string) (string, error) {
	out, err := h.script(ctx, nil, prepareScript, dir)
	if err != nil {
		return "", task{"make", "a directory for the run"}.wrap(err)
	}
	prep := strings.TrimSuffix(out, "\n")
	if !strings.HasPrefix(prep, dir+".new.") {
		return "", task{"make", "a directory for the run"}.wrap(fmt.Errorf("unexpected answer %q", out))
	}
	return prep, nil
}

// discard removes a job that was not started.
func (h *Host) discard(ctx context.Context, prep string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	if _, err := h.script(ctx, nil, `rm -rf "$1"`, prep); err != nil {
		h.o.Log.WarnContext(ctx, "a prepared directory stays", "dir", prep, "err", err)
	}
}

// writeFile replaces a file once all of data is there: over SSH, the death of
// the client looks like the end of the file.
func (h *Host) writeFile(ctx context.Context, name string, data []byte) error {
	in := io.MultiReader(strings.NewReader(strconv.Itoa(len(data))+"\n"), bytes.NewReader(data))
	_, err := h.script(ctx, in, `set -e; umask 077; read -r n; cat >"$1.tmp"
if [ "$(wc -c <"$1.tmp")" -ne "$n" ]; then rm "$1.tmp"; echo "less than $n bytes arrived" >&2; exit 1; fi
sync "$1.tmp"; mv -T "$1.tmp" "$1"`, name)
	if err != nil {
		return task{"write", fmt.Sprintf("%s on the host", name)}.wrap(err)
	}
	return nil
}

func (h *Host) readFile(ctx context.Context, name string) ([]byte, error) {
	out, err := h.script(ctx, nil, `cat -- "$1"`, name)
	if err != nil {
		return nil, task{"read", fmt.Sprintf("%s on the host", name)}.wrap(err)
	}
	return []byte(out), nil
}

// start begins the job, unless it has begun. Once it returns nil the job runs
// by itself.
func (h *Host) start(ctx context.Context, j job) error {
	record, err := json.Marshal(j.change)
	if err != nil {
		return task{"record", "the change"}.wrap(err)
	}
	if err := h.writeFile(ctx, path.Join(j.prep, "change.json"), record); err != nil {
		return err
	}
	if err := h.writeFile(ctx, path.Join(j.prep, "job.sh"), []byte(jobScript)); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return ended(ctx)
	}
	// From here on the context no longer stops the start: half of it would be
	// worse than all.
	args := append([]string{j.prep, j.dir, strings.Join(j.hold, " "), strings.Join(j.mask, " ")}, append(h.env(), j.argv...)...)
	dctx, cancel := h.lasting(ctx)
	defer cancel()
	_, err = h.script(dctx, nil, startScript, args...)
	if err == nil {
		return nil
	}
	if errors.Is(err, ErrConnection) {
		// It may have started, or not; the script knows.
		err = h.reconnect(dctx, err, func() error {
			_, err := h.script(dctx, nil, startScript, args...)
			return err
		})
	}
	if err == nil {
		return nil
	}
	if exitCode(err) == 75 {
		return &Error{Op: "start", Object: "the run in " + j.dir, Kind: ErrLocked, Detail: "another operator has just begun the same", Retry: true, Next: "call again, which attaches to that run"}
	}
	return task{"start", "the run in " + j.dir}.wrap(err)
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
	seen, shown := &countWriter{w: lines}, false
	for {
		var s jobState
		attempt := func() (err error) {
			if s, err = h.jobState(dctx, dir); err != nil {
				return err
			}
			// A quick job has ended before anybody followed it.
			if s.name != "running" && (s.name != "ended" || shown) {
				return nil
			}
			shown = true
			return h.stream(dctx, nil, seen, nil, "sh", "-c", followScript, "sh", dir, strconv.FormatInt(seen.n+1, 10), strconv.Itoa(s.n))
		}
		err := attempt()
		if errors.Is(err, ErrConnection) {
			err = h.reconnect(dctx, err, attempt)
		}
		if err != nil {
			return s, task{"follow", fmt.Sprintf("the run in %s, which goes on", dir)}.wrap(err)
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

// log returns all that the job printed, or the last megabyte of each stream.
func (h *Host) log(ctx context.Context, dir string) (said, error) {
	out, err := h.script(ctx, nil, `cd -- "$1" && tail -c 1000000 log && printf '\034' && { [ ! -e errors ] || tail -c 1000000 errors; }`, dir)
	if err != nil {
		return said{}, task{"read", "the output of the run"}.wrap(err)
	}
	stdout, stderr, _ := strings.Cut(out, "\x1c")
	return said{tidy(stdout), tidy(stderr)}, nil
}
