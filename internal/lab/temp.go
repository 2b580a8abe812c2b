package lab

import (
	"os"
	"syscall"
)

// TempInMemory makes TMPDIR a file system in memory, unless it is set, or the machine has none that
// has a gigabyte free and runs programs. dpkg, databases and journals sync each file, which on a
// disk is most of what their tests wait for. TestMain calls it.
func TempInMemory() {
	const dir, noexec, tmpfs = "/dev/shm", 0x8, 0x01021994
	var s syscall.Statfs_t
	if os.Getenv("TMPDIR") != "" || syscall.Statfs(dir, &s) != nil || s.Type != tmpfs ||
		s.Flags&noexec != 0 || int64(s.Bavail)*s.Bsize < 1<<30 {
		return
	}
	if info, err := os.Stat(dir); err != nil || info.Mode()&os.ModeSticky == 0 {
		return
	}
	_ = os.Setenv("TMPDIR", dir)
}
