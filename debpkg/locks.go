package debpkg

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Lock is a lock of apt or dpkg that a process holds.
type Lock struct {
	Path    string
	PID     int
	Command string // the process's name, not its arguments
}

func (l Lock) String() string {
	return fmt.Sprintf("%s (process %d) holds %s", l.Command, l.PID, l.Path)
}

// The four locks. DPkg::Lock::Timeout covers the first two only (apt 2.6).
var lockPaths = []string{"/var/lib/dpkg/lock-frontend", "/var/lib/dpkg/lock",
	"/var/lib/apt/lists/lock", "/var/cache/apt/archives/lock"}

// lockFunc prints every holder of a record lock on the files "$@". Inode numbers may coincide
// between file systems, so the process must also have the file open, if that can be seen. In a
// container, even root cannot see that of an apt-get that has changed its user. Lines of waiters
// start with "->". The list is read at once, because the shell reads byte by byte and lines move up
// when a lock above them is released.
const lockFunc = `locks() {
	all=$(cat /proc/locks) ids=$(stat -c '%i %n' -- "$@")
	while read -r i f; do
		case $all in *":$i "*) ;; *) continue ;; esac
		while read -r n kind adv mode pid id rest; do
			case $kind in POSIX | FLOCK | OFDLCK) ;; *) continue ;; esac
			case $id in *:"$i") ;; *) continue ;; esac
			open=$(ls -l "/proc/$pid/fd")
			case $open in *" -> "*) case "$open
" in *" -> $f
"*) ;; *) continue ;; esac ;; esac
			read -r comm <"/proc/$pid/comm" || continue
			printf '%s\t%s\t%s\n' "$f" "$pid" "$comm"
		done <<-END
		$all
		END
	done <<-END
	$ids
	END
} 2>/dev/null
`

// Locks returns the held locks of apt and dpkg, with their holders.
func (h *Host) Locks(ctx context.Context) ([]Lock, error) {
	var args []string
	for _, p := range lockPaths {
		args = append(args, h.path(p))
	}
	out, err := h.script(ctx, nil, "locks", args...)
	if err != nil {
		return nil, task{"look", "for other package managers"}.wrap(err)
	}
	return parseLocks(out), nil
}

func parseLocks(text string) []Lock {
	var locks []Lock
	for _, f := range fields(text, 3) {
		if pid, err := strconv.Atoi(f[1]); err == nil {
			locks = append(locks, Lock{Path: f[0], PID: pid, Command: f[2]})
		}
	}
	return locks
}

// lockPause is how long to wait before looking again whether a lock is free.
const lockPause = 250 * time.Millisecond

// waitLocks returns once nobody holds a lock, or an [ErrLocked] that names the holder. Another
// program may take the lock before apt starts, so callers keep waiting if apt reports a lock.
func (h *Host) waitLocks(ctx context.Context, op task, deadline time.Time) error {
	told := ""
	for {
		locks, err := h.Locks(ctx)
		if err != nil || len(locks) == 0 {
			return err
		}
		if now := describe(locks); now != told {
			told = now
			h.event(Event{Kind: EventWait, Text: now})
			h.o.Log.InfoContext(ctx, "waiting for locks", "held", now)
		}
		if !time.Now().Before(deadline) {
			return h.locked(op, locks)
		}
		if err := pause(ctx, lockPause); err != nil {
			return op.wrap(fmt.Errorf("wait for %s: %w", told, err))
		}
	}
}

func (h *Host) locked(op task, locks []Lock) error {
	return &Error{Op: op.verb, Object: op.object, Kind: ErrLocked,
		Detail: fmt.Sprintf("%s, still after %s", describe(locks), h.o.LockWait), Retry: true,
		Next: "wait for it to end, or find out why it waits; never delete the lock file"}
}

func describe(locks []Lock) string {
	var parts []string
	for _, l := range locks {
		parts = append(parts, l.String())
	}
	return strings.Join(parts, ", ")
}

// retryLocked repeats f as long as it fails because of a lock.
func (h *Host) retryLocked(ctx context.Context, op task, f func() error) error {
	deadline := time.Now().Add(h.o.LockWait)
	for {
		if err := h.waitLocks(ctx, op, deadline); err != nil {
			return err
		}
		err := f()
		if !errors.Is(err, ErrLocked) || !time.Now().Before(deadline) {
			return err
		}
		if err := pause(ctx, lockPause); err != nil {
			return err
		}
	}
}

// pause waits, or returns the context's error and cause.
func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ended(ctx)
	}
}

func ended(ctx context.Context) error {
	err := ctx.Err()
	if cause := context.Cause(ctx); err != nil && cause != err {
		return fmt.Errorf("%w: %w", err, cause)
	}
	return err
}
