package step

import "io/fs"

// specialBits are the three that Go keeps elsewhere.
var specialBits = map[uint32]fs.FileMode{0o4000: fs.ModeSetuid, 0o2000: fs.ModeSetgid,
	0o1000: fs.ModeSticky}

// UnixMode converts m to the form of chmod(2).
func UnixMode(m fs.FileMode) uint32 {
	u := uint32(m.Perm())
	for bit, flag := range specialBits {
		if m&flag != 0 {
			u |= bit
		}
	}
	return u
}

// FileMode is the reverse of [UnixMode].
func FileMode(u uint32) fs.FileMode {
	m := fs.FileMode(u & 0o777)
	for bit, flag := range specialBits {
		if u&bit != 0 {
			m |= flag
		}
	}
	return m
}
