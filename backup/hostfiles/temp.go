package hostfiles

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"io"
	"maps"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"example.com/tykupgrade/internal/lazyregexp"
)

// tempForm is the temporary name of a restored file. It names the machine and the process, so that
// a later process can find out whether it was killed.
var tempForm = lazyregexp.New(`^\..*\.restore-([0-9a-f]{8})-([0-9]+)-[a-z0-9]{8}$`)

func tempName(name string) string {
	return fmt.Sprintf(".%.180s.restore-%s-%d-%s", name, thisBoot(), os.Getpid(),
		strings.ToLower(rand.Text()[:8]))
}

// thisBoot identifies this machine since its last boot. Process numbers mean nothing elsewhere.
var thisBoot = sync.OnceValue(func() string {
	host, _ := os.Hostname()
	boot, _ := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return fmt.Sprintf("%x", sha256.Sum256(append([]byte(host+"\x00"), boot...)))[:8]
})

// tempAge is how old a temporary file of another machine must be to count as left behind. It is
// longer than any restore.
const tempAge = 24 * time.Hour

// deserted reports whether a file is a temporary one of a killed restore. age counts from the last
// change of the file's status, because a restore sets the modification time.
func deserted(name string, age time.Duration) bool {
	m := tempForm.FindStringSubmatch(name)
	if m == nil {
		return false
	}
	pid, err := strconv.Atoi(m[2])
	if m[1] != thisBoot() || err != nil {
		return age > tempAge
	}
	return pid != os.Getpid() && unix.Kill(pid, 0) == unix.ESRCH
}

// dirsOfFiles lists the directories of the compared files.
func (c *comparison) dirsOfFiles() []string {
	var names []string
	for _, f := range c.files {
		names = append(names, f.Path)
	}
	return dirsOfNames(names)
}

func dirsOfNames(names []string) []string {
	set := map[string]bool{}
	for _, n := range names {
		set[path.Dir(n)] = true
	}
	return slices.Sorted(maps.Keys(set))
}

// sweep removes what killed restores left in directories. It is not required, so it ignores what it
// cannot read.
func (j *jail) sweep(dirs []string) {
	for _, name := range dirs {
		if d, _, err := j.dir(name, nil); err == nil {
			sweepTemps(d)
		}
	}
}

func sweepTemps(dir *os.File) {
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return
	}
	_, _ = dir.Seek(0, io.SeekStart)
	for _, name := range names {
		if !tempForm.MatchString(name) {
			continue
		}
		var st unix.Stat_t
		if unix.Fstatat(int(dir.Fd()), name, &st, unix.AT_SYMLINK_NOFOLLOW) != nil ||
			st.Mode&unix.S_IFMT == unix.S_IFDIR {
			continue
		}
		if deserted(name, time.Since(time.Unix(st.Ctim.Unix()))) {
			_ = unix.Unlinkat(int(dir.Fd()), name, 0)
		}
	}
}

// sweepRemote is sweep for another host.
func (f *Restore) sweepRemote(ctx context.Context, dirs []string) error {
	var roots []string
	for _, d := range dirs {
		roots = append(roots, path.Join("/", d))
	}
	if len(roots) == 0 {
		return nil
	}
	h := remoteHost{f.Runner}
	left, err := h.find(ctx, roots, fmt.Sprintf("-mindepth 1 -maxdepth 1 ! -type d -name "+
		"'.*.restore-*' \\( -name '.*.restore-%s-*' -o -cmin +%d \\)",
		thisBoot(), int(tempAge.Minutes())))
	if err != nil {
		return err
	}
	var names []string
	for _, e := range left {
		if deserted(path.Base(e.path), 2*tempAge) {
			names = append(names, strings.TrimPrefix(e.path, "/"))
		}
	}
	_, err = f.removeNames(ctx, names)
	return err
}

// records returns the input of a script, in which each name ends with a zero byte.
func records(names []string) *bytes.Buffer {
	var out bytes.Buffer
	for _, n := range names {
		out.WriteString(n + "\x00")
	}
	return &out
}
