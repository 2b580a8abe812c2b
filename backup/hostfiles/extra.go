package hostfiles

import (
	"archive/tar"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// A set keeps only content, mode, owner and time of a file. The manifest names what else a file
// has.

// extrasOf returns the extended attributes of an open file, including its ACLs. Without such
// attributes, or without a descriptor, it returns none.
func extrasOf(f any) []string {
	file, ok := f.(*os.File)
	if !ok {
		return nil
	}
	n, err := unix.Flistxattr(int(file.Fd()), nil)
	if err != nil || n == 0 { // most have none
		return nil
	}
	buf := make([]byte, 64<<10) // the kernel's limit
	if n, err = unix.Flistxattr(int(file.Fd()), buf); err != nil {
		return nil
	}
	var out []string
	for name := range strings.SplitSeq(string(buf[:n]), "\x00") {
		out = addExtra(out, name)
	}
	return out
}

// extrasOfHeader does the same for an entry of a tar archive.
func extrasOfHeader(h *tar.Header) []string {
	var out []string
	for _, key := range slices.Sorted(maps.Keys(h.PAXRecords)) {
		if name, ok := strings.CutPrefix(key, "SCHILY.xattr."); ok {
			out = addExtra(out, name)
		}
		if strings.HasPrefix(key, "SCHILY.acl.") {
			out = addExtra(out, "system.posix_acl_access")
		}
	}
	return out
}

func addExtra(out []string, name string) []string {
	switch {
	case name == "" || name == "security.selinux": // the policy gives it to a new file
		return out
	case strings.HasPrefix(name, "system.posix_acl_"):
		name = "an ACL"
	default:
		name = fmt.Sprintf("the attribute %q", name)
	}
	if slices.Contains(out, name) {
		return out
	}
	return append(out, name)
}

// extraWarning returns the manifest's warning about an entry, or "".
func extraWarning(e entry) string {
	if len(e.extras) == 0 {
		return ""
	}
	return fmt.Sprintf("%s has %s, which the set does not keep", e.path, strings.Join(e.extras, ", "))
}
