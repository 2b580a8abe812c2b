package lab

import (
	"os"
	"syscall"
)

// TempInMemory makes TMPDIR the directory of [Memory], unless it is set. dpkg, databases and journals
// sync each file, which on a disk is most of what their tests wait for. TestMain calls it.
func TempInMemory() {
	if dir := Memory(); dir != "" && os.Getenv("TMPDIR") == "" {
		_ = os.Setenv("TMPDIR", dir)
	}
}

// Memory is a directory of a file system in memory that runs programs and has a gigabyte free, or
// "" for the default on disk. ext4 is slow with hundreds of files that come and go: it avoids the
// inodes of files that were removed seconds ago and searches long for others.
func Memory() string {
	const dir, noexec, tmpfs = "/dev/shm", 0x8, 0x01021994
	var s syscall.Statfs_t
	if syscall.Statfs(dir, &s) != nil || s.Type != tmpfs || s.Flags&noexec != 0 ||
		int64(s.Bavail)*s.Bsize < 1<<30 {
		return ""
	}
	if info, err := os.Stat(dir); err != nil || info.Mode()&os.ModeSticky == 0 {
		return ""
	}
	return dir
}
