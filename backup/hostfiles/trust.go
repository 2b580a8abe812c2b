package hostfiles

import (
	"os"

	"example.com/tykupgrade/backup"
)

// ownUID reports whether a user is root or the one who runs this program.
func ownUID(uid int) bool { return uid == 0 || uid == os.Geteuid() }

// safeDir reports whether only root and this user can replace entries of a directory. A sticky
// directory such as /tmp protects the entries of each owner.
func safeDir(m backup.Meta) bool {
	return ownUID(m.UID) && (m.Mode.Perm()&0o022 == 0 || m.Mode&os.ModeSticky != 0)
}
