package rollout

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"example.com/tykupgrade/internal/atomicfile"
)

// Owner identifies the process that holds the lock of a journal.
type Owner struct {
	User  string    `json:"user"`
	Actor string    `json:"actor,omitempty"` // the person behind User, if that is somebody else
	Host  string    `json:"host"`
	PID   int       `json:"pid"`
	Since time.Time `json:"since"`

	// Start is the kernel's start time of the process in clock ticks since boot. The kernel
	// reuses a PID, but not this pair.
	Start string `json:"start,omitempty"`
}

func (o Owner) name() string {
	if o.Actor != "" && o.Actor != o.User {
		return o.Actor + " as " + o.User
	}
	return o.User
}

func (o Owner) String() string {
	return fmt.Sprintf("%s@%s (process %d, since %s)", o.name(), o.Host, o.PID,
		o.Since.UTC().Format(time.RFC3339))
}

// locked returns the error that names the lock's owner. A retry helps once that run has ended.
func locked(path string, owner *Owner, alive bool) error {
	e := &Error{Op: "lock", Object: path, Kind: ErrLocked, Owner: owner, Retry: true}
	switch {
	case owner == nil:
		e.Err = fmt.Errorf("%w, and this user cannot read its owner's name", ErrLocked)
		e.Next = "ask the owner of the file"
	case alive:
		e.Err = fmt.Errorf("%w: %s, still running", ErrLocked, owner)
		e.Next = "wait for that run"
	default:
		e.Err = fmt.Errorf("%w: %s", ErrLocked, owner)
		e.Next = "wait for that run; if you know that it has ended, remove the file"
	}
	return e
}

// lock creates path with the name of its owner, readable by everybody. A lock never expires. If its
// owner was a process of this machine that no longer exists, lock takes it over and returns that
// owner as from.
func lock(path string, me Owner, shared bool) (unlock func() error, from *Owner, err error) {
	defer func() {
		if err != nil && !errors.As(err, new(*Error)) {
			err = &Error{Op: "lock", Object: path, Err: err, Next: nextForPermission(err)}
		}
	}()
	if err := trustedDir(filepath.Dir(path), shared); err != nil {
		return nil, nil, err
	}
	// Contenders of this machine look and take over one after the other.
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return nil, nil, err
	}
	defer func() { _ = atomicfile.UnlockClose(dir) }()
	if err := syscall.Flock(int(dir.Fd()), syscall.LOCK_EX); err != nil {
		return nil, nil, err
	}
	owner, err := readOwner(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case errors.Is(err, fs.ErrPermission):
		return nil, nil, locked(path, nil, true)
	case err != nil:
		return nil, nil, fmt.Errorf("read %s: %w; it is not a tykupgrade lock: check the file and remove it",
			path, err)
	case !gone(owner):
		return nil, nil, locked(path, &owner, here(owner))
	case held(path):
		// Process numbers mean nothing between containers with one host name.
		return nil, nil, locked(path, &owner, true)
	default:
		from = &owner
		if err := os.Remove(path); err != nil {
			return nil, nil, fmt.Errorf("take over the lock of %s, which no longer runs: %w", owner, err)
		}
	}
	data, err := json.Marshal(me)
	if err != nil {
		return nil, nil, err
	}
	// The file must be complete when its name appears, so it is written under another name and
	// linked. The link fails if another machine was faster.
	tmp, err := os.CreateTemp(filepath.Dir(path), ".lock-*")
	if err != nil {
		return nil, nil, err
	}
	defer func() { _ = os.Remove(tmp.Name()) }()
	_, err = tmp.Write(append(data, '\n'))
	if err = errors.Join(err, tmp.Chmod(0o644), tmp.Sync(), syscall.Flock(int(tmp.Fd()),
		syscall.LOCK_EX)); err == nil {
		err = os.Link(tmp.Name(), path)
	}
	if err != nil {
		return nil, nil, errors.Join(err, tmp.Close())
	}
	return func() error { return errors.Join(unlockOwn(path, me), tmp.Close()) }, from, nil
}

// held reports whether a living process holds the kernel's lock on the file, as
// an owner does throughout a run.
func held(path string) bool {
	f, err := os.Open(path)
	if err != nil {
		return true
	}
	defer func() { _ = atomicfile.UnlockClose(f) }()
	return syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) != nil
}

func unlockOwn(path string, me Owner) error {
	owner, err := readOwner(path)
	if err == nil && owner != me {
		err = fmt.Errorf("it belongs to %s", owner)
	}
	if err != nil {
		return fmt.Errorf("unlock %s: somebody removed or replaced it during this run: %w", path, err)
	}
	return os.Remove(path)
}

func readOwner(path string) (Owner, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return Owner{}, err
	}
	var o Owner
	if err := json.Unmarshal(data, &o); err != nil {
		return Owner{}, err
	}
	if o.PID <= 0 || o.Host == "" {
		return Owner{}, errors.New("no process or host in it")
	}
	return o, nil
}

// self names this process. Without an actor it is the user behind sudo.
func self(actor string) Owner {
	if actor == "" {
		actor = os.Getenv("SUDO_USER")
	}
	o := Owner{User: "unknown", Actor: actor, PID: os.Getpid(),
		Since: time.Now().UTC().Truncate(time.Second)}
	if u, err := user.Current(); err == nil {
		o.User = u.Username
	}
	o.Host, _ = os.Hostname()
	o.Start = startTime(o.PID)
	return o
}

// here reports whether the owner is a process of this machine.
func here(o Owner) bool {
	host, err := os.Hostname()
	return err == nil && host == o.Host
}

// gone is true only when the owner certainly no longer runs.
func gone(o Owner) bool {
	if !here(o) {
		return false
	}
	if errors.Is(syscall.Kill(o.PID, 0), syscall.ESRCH) {
		return true
	}
	start := startTime(o.PID)
	return o.Start != "" && start != "" && start != o.Start
}

// startTime reads field 22 of /proc/PID/stat; the name in field 2 may hold
// spaces and brackets. A zombie has ended, so it gets a start time of its own.
func startTime(pid int) string {
	data, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return ""
	}
	_, rest, ok := strings.Cut(string(data[max(0, strings.LastIndexByte(string(data), ')')):]), ") ")
	f := strings.Fields(rest)
	if !ok || len(f) < 20 {
		return ""
	}
	if f[0] == "Z" {
		return "ended"
	}
	return f[19]
}
