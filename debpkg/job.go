package debpkg

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"example.com/tykupgrade/internal/run"
)

// A job is a run of apt or dpkg that continues without the connection or the program that started
// it. Its directory on the host has its command, apt's progress, both outputs, and the exit code
// once it has ended. Each caller prepares a directory of its own, so that two operators with the
// same plan cannot interfere. The job itself renames it to DIR in one step.
type job struct {
	prep   string // as prepare returned it
	dir    string
	argv   []string
	hold   []string // packages to put on hold afterwards
	auto   []string // packages to mark as installed automatically afterwards
	mask   []string // units not to start or restart meanwhile
	pins   pins     // what to pin afterwards
	change any      // recorded as change.json
}

// safeFunc refuses, with exit code 78, directories that somebody else could
// write to or exchange. A parent with the sticky bit, such as /tmp, lets nobody
// exchange what is ours.
const safeFunc = `safe() {
	real=$(readlink -f -- "$@") || return 1
	me= tops="
$real
"
	for t; do tops="$tops$t
"; done
	set --
	while IFS= read -r d; do
		while [ -n "$d" ]; do set -- "$@" "$d"; d=${d%/*}; done
	done <<END
$tops
END
	# The first is the process that asks.
	all=$(stat -L -c '%u %a %n' -- /proc/self / "$@") || return 1
	while read -r o a d; do
		if [ -z "$me" ]; then me=$o; continue; fi
		bad= w=
		[ "$o" = "$me" ] || [ "$o" = 0 ] || bad=1
		case $a in
		*[2367]) w=1 ;;
		# A user who is not root has often a group of his own that may write.
		*[2367]?) [ "$me" != 0 ] || w=1 ;;
		esac
		if [ -n "$w" ]; then
			bad=1
			case $a in [1357]???) case $tops in *"
$d
"*) ;; *) bad= ;; esac ;; esac
			[ "$o" = "$me" ] || [ "$o" = 0 ] || bad=1
		fi
		if [ -n "$bad" ]; then echo "$d belongs to, or can be written to by, somebody else" >&2; return 78; fi
	done <<END
$all
END
}
own() { # make a directory of ours
	e=$1; while [ ! -e "$e" ]; do e=${e%/*}; e=${e:-/}; done
	[ "$e" = "$1" ] || { [ -k "$e" ] && [ "$e" != "${1%/*}" ]; } || safe "$e" || return
	[ -d "$1" ] || mkdir -p "$1" && safe "$1" "${1%/*}"
}
`

// lookFunc prints none, running PID, ended CODE, or dead for a job that
// vanished without an exit code: killed, or the host went down. That a process
// has the job's number is not enough after a reboot. read drops the zeros between its arguments.
const lookFunc = `look() {
	if [ ! -d "$1" ]; then echo none
	elif [ -s "$1/rc" ]; then read -r rc <"$1/rc"; echo "ended $rc"
	elif { read -r p && read -r j; } <"$1/pid" && c= && { read -r c <"/proc/$p/cmdline" || :; } && [ -n "$c" ] && [ -z "${c##*"$j"*}" ]; then echo "running $p"
	else echo dead; fi
} 2>/dev/null
`

// pins are the versions for apt to keep. Our pin of a package names its version after the run, and
// is removed with the package.
type pins struct {
	dir  string   // apt's directory of preferences
	want []string // NAME=VERSION, or NAME= for a removed package
	all  bool     // also packages without a pin
}

// args returns three arguments of the job script.
func (p pins) args() []string {
	all := ""
	if p.all {
		all = "all"
	}
	return []string{p.dir, all, strings.Join(p.want, " ")}
}

// jobScript: $1 prepared directory, $2 job directory, $3 packages to hold, $4
// packages to mark as automatic, $5 units to mask, $6 to $8 pins, then argv. It exits with 75
// when another operator's run of the same has begun since this one was prepared:
// the record of its process, whose path is unique, differs then. Clocks and
// times of files decide nothing.
const jobScript = lookFunc + `prep=$1 dir=$2 hold=$3 auto=$4 mask=$5 prefs=$6 all=$7 pins=$8
shift 8
exec </dev/null >"$prep/log" 2>&1
trap 'echo $? >"$prep/over"' EXIT
exec 9<"${dir%/*}" && flock 9 || exit 1
case $(look "$dir") in running*) exit 75 ;; esac
if [ -e "$dir/pid" ] && ! cmp -s "$dir/pid" "$prep/since"; then exit 75; fi
printf '%s\n%s\n' $$ "$prep/job.sh" >"$prep/pid"
[ ! -e "$dir.gone" ] || rm -rf "$dir.gone" # of a host that went down in the next line
if [ -e "$dir" ]; then mv -T "$dir" "$dir.gone" && rm -rf "$dir.gone"; fi
trap - EXIT
mv -T "$prep" "$dir" || { echo $? >"$prep/over"; exit 1; }
cd "$dir" || exit 1
exec 9<&-
for u in $mask; do systemctl mask --runtime -- "$u"; done
"$@" 3>>status 2>>errors
rc=$?
for u in $mask; do systemctl unmask --runtime -- "$u"; done
# --allow-change-held-packages drops the hold (apt 2.6), and a package that is
# named on the command line counts as installed by hand.
if [ -n "$auto" ]; then apt-mark auto $auto; fi
if [ -n "$hold" ]; then apt-mark hold $hold; fi
for p in $pins; do
	n=${p%%=*} v=${p#*=}
	case $n in *:*) f=$prefs/tykupgrade-${n%%:*}_${n#*:}.pref ;; *) f=$prefs/tykupgrade-$n.pref ;; esac
	[ -n "$all" ] || [ -e "$f" ] || continue
	if [ -z "$v" ]; then rm -f "$f"; continue; fi
	# What failed to arrive is not pinned: an older pin would bring it at the next upgrade.
	if ! now=$(dpkg-query --admindir="${prefs%/etc/apt/*}/var/lib/dpkg" -W -f '${Version}' "$n") || [ "$now" != "$v" ]; then rm -f "$f"; continue; fi
	mkdir -p "$prefs" && rm -f "$f.new" && (umask 022; printf '# Written by tykupgrade: apt keeps this version.\nPackage: %s\nPin: version %s\nPin-Priority: 1001\n' "$n" "$v" >"$f.new") && mv -T "$f.new" "$f" && continue
	echo "E: cannot pin $n to $v in $prefs" >>errors
	[ $rc -ne 0 ] || rc=74
done
echo $rc >rc.new && sync rc.new && mv rc.new rc
`

// startScript runs the job by itself and returns once the job has taken its
// place: as a transient unit where systemd runs the host, as logind may kill all
// that belongs to a session (KillUserProcesses), otherwise in a session of its
// own. Standard input holds change.json with its length and the job's script. It
// may be run again. Everything that a revert needs is on the disk before anything changes.
const startScript = `set -e; umask 077
cd /
prep=$1 root=$2; shift 2
[ -d "$prep" ] || exit 0
if [ ! -s "$prep/job.sh" ]; then
	read -r a b
	head -c "$a" >"$prep/change.json"; cat >"$prep/job.tmp"
	[ "$(stat -c %s "$prep/change.json" "$prep/job.tmp")" = "$a
$b" ] || { echo "less than $a and $b bytes arrived" >&2; exit 1; }
	mv "$prep/job.tmp" "$prep/job.sh"
fi
: >"$prep/status"; : >"$prep/errors"
sync "$prep"/* "$prep"
unit=tykupgrade-${prep##*.}
if [ -z "$root" ] && [ -d /run/systemd/system ] && systemd-run --quiet --collect --unit="$unit" --setenv=HOME=/root -p KillMode=process -- sh "$prep/job.sh" "$prep" "$@" 2>"$prep/systemd-run"; then
	alive() { systemctl --quiet is-active "$unit"; }
else
	setsid sh "$prep/job.sh" "$prep" "$@" </dev/null >/dev/null 2>&1 &
	alive() { kill -0 $! 2>/dev/null; }
fi
i=0
while [ -d "$prep" ] && [ ! -s "$prep/over" ]; do
	sleep 0.05
	i=$((i + 1))
	[ $((i % 10)) -ne 0 ] || alive || break
done
[ -d "$prep" ] || exit 0
sleep 0.1
[ -d "$prep" ] || exit 0
cat "$prep/log" >&2
rc=$(cat "$prep/over" 2>/dev/null) || :
rm -f "$prep/over"
exit "${rc:-1}"`

// followScript prints what the job's progress file holds from byte $2 on, until
// the job has ended, and then on standard error how it stands. tail -f --pid
// would do if every init reaped its orphans at once.
const followScript = lookFunc + `d=$1 n=$2 fd=
show() {
	if [ -z "$fd" ]; then
		[ -e "$d/status" ] || return 0
		exec 3<"$d/status"
		fd=3; [ "$n" -le 1 ] || head -c $((n - 1)) <&3 >/dev/null
	fi
	while IFS= read -r l <&3; do printf '%s\n' "$l"; done
	printf '%s' "$l"
}
s=$(look "$d")
case $s in running*)
	p=${s#running }
	# A process that has ended, and that nobody has reaped, has an empty one.
	pause=0.2
	while x=; [ ! -s "$d/rc" ] && { read -r x <"/proc/$p/cmdline"; [ -n "$x" ]; } 2>/dev/null; do
		show
		sleep $pause
		pause=0.5
	done
	s=$(look "$d")
esac
# It may have ended between the two looks.
if [ "$s" = dead ]; then s=$(look "$d"); fi
[ "$s" = none ] || show
echo "$s" >&2`

type jobState struct {
	name string // none, running, ended, dead
	n    int    // process or exit code
}

func parseState(out string) (jobState, error) {
	name, n, _ := strings.Cut(strings.TrimSpace(out), " ")
	num, err := strconv.Atoi(n)
	if n != "" && err != nil || !slices.Contains([]string{"none", "running", "ended", "dead"}, name) {
		return jobState{}, fmt.Errorf("unexpected answer %q", out)
	}
	return jobState{name, num}, nil
}

// jobState looks for a run, and reads what it recorded.
func (h *Host) jobState(ctx context.Context, dir string) (jobState, []byte, error) {
	t := task{"look", "for the run in " + dir}
	out, err := h.script(ctx, nil, "state", dir)
	if err != nil {
		return jobState{}, nil, t.wrap(unsafe(t, err))
	}
	state, change, _ := strings.Cut(out, "\n")
	s, err := parseState(state)
	return s, []byte(change), t.wrap(err)
}

// unsafe turns the refusal of safeFunc into an [ErrUnsafe].
func unsafe(t task, err error) error {
	if exitCode(err) == 78 {
		return t.fail(Error{Kind: ErrUnsafe, Detail: err.Error(), Err: err,
			Next: "make root the owner of the directory and remove write permission for others, or set " +
				"Options.StateDir"})
	}
	return err
}

// prepareScript: $1 job directory. A user who could change the files there could have
// them installed by root. Preparations of callers that vanished are removed after a
// day of the host's uptime, or a reboot.
const prepareScript = safeFunc + `set -e; umask 077
runs=${1%/*}; own "$runs"
read -r boot </proc/sys/kernel/random/boot_id; read -r up x </proc/uptime; up=${up%.*}
for d in "$runs"/*.new.*; do
	[ -d "$d" ] || continue
	if { read -r b && read -r u; } <"$d/made" 2>/dev/null && [ "$b" = "$boot" ] && [ $((up - u)) -lt 86400 ]; then continue; fi
	[ ! -e "$d/made" ] || rm -rf "$d"
done
d=$(mktemp -d "$1.new.XXXXXX")
printf '%s\n%s\n' "$boot" "$up" >"$d/made"
if [ -e "$1/pid" ]; then cp "$1/pid" "$d/since"; else : >"$d/since"; fi
echo "$d"`

// prepare makes an empty directory for the job, readable by root only.
func (h *Host) prepare(ctx context.Context, dir string) (string, error) {
	t := task{"make", "a directory for the run"}
	out, err := h.script(ctx, nil, "prepare", dir)
	if err != nil {
		return "", t.wrap(unsafe(t, err))
	}
	prep := strings.TrimSuffix(out, "\n")
	if !strings.HasPrefix(prep, dir+".new.") {
		return "", t.wrap(fmt.Errorf("unexpected answer %q", out))
	}
	return prep, nil
}

// discard removes a job that was not started.
func (h *Host) discard(ctx context.Context, prep string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	if _, err := h.script(ctx, nil, "discard", prep); err != nil {
		h.o.Log.WarnContext(ctx, "a prepared directory stays", "dir", prep, "err", err)
	}
}

// writeFile replaces a file once all of data has arrived. Over SSH, the death of the client looks
// like the end of the file.
func (h *Host) writeFile(ctx context.Context, name string, data []byte) error {
	in := io.MultiReader(strings.NewReader(strconv.Itoa(len(data))+"\n"), bytes.NewReader(data))
	_, err := h.script(ctx, in, "write", name)
	if err != nil {
		return task{"write", fmt.Sprintf("%s on the host", name)}.wrap(err)
	}
	return nil
}

// start begins the job, unless it has begun. After a nil error the job runs without us.
func (h *Host) start(ctx context.Context, j job) error {
	record, err := json.Marshal(j.change)
	if err != nil {
		return task{"record", "the change"}.wrap(err)
	}
	if err := ctx.Err(); err != nil {
		return ended(ctx)
	}
	// From here on the context no longer stops the start, because half of it would be worse
	// than all.
	args := []string{j.prep, h.o.Root, j.dir, strings.Join(j.hold, " "), strings.Join(j.auto, " "),
		strings.Join(j.mask, " ")}
	args = append(append(append(args, j.pins.args()...), h.env()...), j.argv...)
	dctx, cancel := h.lasting(ctx)
	defer cancel()
	begin := func() error {
		in := fmt.Sprintf("%d %d\n%s%s", len(record), len(jobScript), record, jobScript)
		_, err := h.script(dctx, strings.NewReader(in), "start", args...)
		return err
	}
	err = begin()
	if errors.Is(err, ErrConnection) {
		// It may or may not have started. The script finds out.
		err = h.reconnect(dctx, err, begin)
	}
	if err == nil {
		return nil
	}
	if exitCode(err) == 75 {
		return &Error{Op: "start", Object: "the run in " + j.dir, Kind: ErrLocked,
			Detail: "another operator has just begun the same run", Retry: true,
			Next: "call it again to attach to that run"}
	}
	return task{"start", "the run in " + j.dir}.wrap(err)
}

// finishLimit is how long a run of dpkg may continue once the caller's context
// has ended before the caller gets its answer without the result.
const finishLimit = 2 * time.Minute

// reconnectLimit is how long to try to reconnect.
const reconnectLimit = 5 * time.Minute

// lasting returns a context that outlives ctx by finishLimit.
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
	for wait := 200 * time.Millisecond; errors.Is(err, ErrConnection) &&
		time.Now().Before(deadline); wait = min(2*wait, 5*time.Second) {
		h.event(Event{Kind: EventWait, Text: "the connection is lost, and the run continues on the host; " +
			"trying again"})
		h.o.Log.WarnContext(ctx, "connection lost", "err", err)
		if err := pause(ctx, wait); err != nil {
			return err
		}
		err = f()
	}
	return err
}

// follow reports the job's progress until its end and returns its exit code. Anybody may have
// started the job.
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
		attempt := func() error {
			var state run.Tail
			if err := h.stream(dctx, nil, seen, &state, append(script("follow"), dir,
				strconv.FormatInt(seen.n+1, 10))...); err != nil {
				return explain(dctx, err, state.String())
			}
			text := strings.TrimSpace(state.String())
			var err error
			s, err = parseState(text[strings.LastIndexByte(text, '\n')+1:])
			return err
		}
		err := attempt()
		if errors.Is(err, ErrConnection) {
			err = h.reconnect(dctx, err, attempt)
		}
		if err != nil {
			return s, task{"follow", fmt.Sprintf("the run in %s, which continues", dir)}.wrap(err)
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

// log returns the output of the job, or the last megabyte of each stream.
func (h *Host) log(ctx context.Context, dir string) (said, error) {
	out, err := h.script(ctx, nil, "log", dir)
	if err != nil {
		return said{}, task{"read", "the output of the run"}.wrap(err)
	}
	stdout, stderr, _ := strings.Cut(out, "\x1c")
	return said{tidy(stdout), tidy(stderr)}, nil
}
