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
)

// Owner is who holds the lock of a fleet.
type Owner struct {
	User  string    `json:"user"`
	Host  string    `json:"host"`
	PID   int       `json:"pid"`
	Since time.Time `json:"since"`

	// Start is the kernel's start time of the process in clock ticks since
	// boot: process numbers are used again, this pair is not.
	Start string `json:"start,omitempty"`
}

func (o Owner) String() string {
	return fmt.Sprintf("%s@%s (process %d, since %s)", o.User, o.Host, o.PID, o.Since.UTC().Format(time.RFC3339))
}

// locked says who works on the fleet. A retry helps once they are done.
func locked(path string, owner *Owner) error {
	return &Error{Op: "lock", Object: path, Kind: ErrLocked, Owner: owner, Retry: true,
		Err:  fmt.Errorf("%w: it is held by %s", ErrLocked, owner),
		Next: "wait for that run, or, once you know that it has ended, remove the file"}
}

// lock creates path with the name of its owner. A lock never expires; one whose
// owner was a process of this machine that no longer exists is taken over, and
// from says whose it was.
func lock(path string) (unlock func() error, from *Owner, err error) {
	defer func() {
		if err != nil && !errors.As(err, new(*Error)) {
			err = &Error{Op: "lock", Object: path, Err: err}
		}
	}()
	// Contenders of this machine look and take over one after the other.
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return nil, nil, err
	}
	defer func() { _ = dir.Close() }()
	if err := syscall.Flock(int(dir.Fd()), syscall.LOCK_EX); err != nil {
		return nil, nil, err
	}
	owner, err := readOwner(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return nil, nil, fmt.Errorf("read %s: %w; it is not a lock of this program: look at it and remove it", path, err)
	case !gone(owner):
		return nil, nil, locked(path, &owner)
	case held(path):
		// Process numbers mean nothing between containers with one host name.
		return nil, nil, locked(path, &owner)
	default:
		from = &owner
		if err := os.Remove(path); err != nil {
			return nil, nil, err
		}
	}
	me := self()
	data, err := json.Marshal(me)
	if err != nil {
		return nil, nil, err
	}
	// The content has to be there when the name appears, so it is written
	// aside and linked; link fails where another machine was faster.
	tmp, err := os.CreateTemp(filepath.Dir(path), ".lock-*")
	if err != nil {
		return nil, nil, err
	}
	defer func() { _ = os.Remove(tmp.Name()) }()
	_, err = tmp.Write(append(data, '\n'))
	if err = errors.Join(err, tmp.Sync(), syscall.Flock(int(tmp.Fd()), syscall.LOCK_EX)); err == nil {
		err = os.Link(tmp.Name(), path)
	}
	if err != nil {
		return nil, nil, errors.Join(err, tmp.Close())
	}
	return func() error { return errors.Join(unlockOwn(path, me), tmp.Close()) }, from, nil
}

// held says whether a living process has the file locked with the kernel, as
// owners have all the while.
func held(path string) bool {
	f, err := os.Open(path)
	if err != nil {
		return true
	}
	defer func() { _ = f.Close() }()
	return syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) != nil
}

func unlockOwn(path string, me Owner) error {
	owner, err := readOwner(path)
	if err == nil && owner != me {
		err = fmt.Errorf("it belongs to %s", owner)
	}
	if err != nil {
		return fmt.Errorf("unlock fleet: %s is no longer ours: somebody removed or replaced it while this run went on (%w)", path, err)
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

func self() Owner {
	o := Owner{User: "unknown", PID: os.Getpid(), Since: time.Now().UTC().Truncate(time.Second)}
	if u, err := user.Current(); err == nil {
		o.User = u.Username
	}
	o.Host, _ = os.Hostname()
	o.Start = startTime(o.PID)
	return o
}

// gone is true only when the owner certainly no longer runs.
func gone(o Owner) bool {
	if host, err := os.Hostname(); err != nil || host != o.Host {
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
