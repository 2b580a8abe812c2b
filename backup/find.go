package backup

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// Find opens a set by the name that a person gives: its directory, or below dir its ID or "latest".
// If dir is empty, only a directory is accepted. If a set below dir cannot be opened, "latest" is
// an error, because that set might be the newest.
func Find(dir, name string) (*Set, error) {
	switch {
	case name == "latest" && dir == "":
		return nil, &Error{Op: "find", Object: `set "latest"`,
			Err: errors.New("no directory of sets is given"), Next: "name the directory of the sets"}
	case name == "latest":
		sets, err := List(dir)
		if (err == nil || errors.Is(err, fs.ErrNotExist)) && len(sets) == 0 {
			return nil, &Error{Op: "find set", Object: dir, Err: fmt.Errorf("%w: the directory has no set",
				ErrNotASet), Next: "take one first"}
		}
		if err != nil {
			return nil, &Error{Op: "find", Object: `set "latest"`, Err: err, Next: "name a set by its ID"}
		}
		return sets[0], nil
	case dir != "" && !strings.Contains(name, "/"):
		name = filepath.Join(dir, name)
	}
	return Open(name)
}

// RescueDir returns the directory for sets of the data that a restore of s replaces: dir, or
// "rescued" next to s if dir is empty. It refuses the directory that contains s, because a set of
// replaced data would be the newest one there.
func (s *Set) RescueDir(dir string) (string, error) {
	sets := filepath.Dir(s.Dir)
	if dir == "" {
		return filepath.Join(sets, "rescued"), nil
	}
	here, err1 := os.Stat(sets)
	there, err2 := os.Stat(dir)
	if err1 == nil && err2 == nil && os.SameFile(here, there) {
		return "", &Error{Op: "use", Object: dir, Err: errors.New("it holds the sets"),
			Next: "use a separate directory, such as " + filepath.Join(dir, "rescued")}
	}
	return dir, nil
}
