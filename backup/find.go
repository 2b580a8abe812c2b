package backup

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// Find opens the set that a person names: by its directory, or below dir by its id or by
// the word "latest". An empty dir allows the directory only. If a set below dir cannot be
// opened, "latest" is an error: that set might be the newest.
func Find(dir, name string) (*Set, error) {
	switch {
	case name == "latest" && dir == "":
		return nil, &Error{Op: "find", Object: `set "latest"`,
			Err: errors.New("no directory of sets was given"), Next: "name the directory of the sets"}
	case name == "latest":
		sets, err := List(dir)
		if (err == nil || errors.Is(err, fs.ErrNotExist)) && len(sets) == 0 {
			return nil, &Error{Op: "find set", Object: dir, Err: fmt.Errorf("%w: the directory holds no set",
				ErrNotASet), Next: "take one first"}
		}
		if err != nil {
			return nil, &Error{Op: "find", Object: `set "latest"`, Err: err, Next: "name a set by its id"}
		}
		return sets[0], nil
	case dir != "" && !strings.Contains(name, "/"):
		name = filepath.Join(dir, name)
	}
	return Open(name)
}

// RescueDir returns the directory for the sets of what a restore of s replaces: dir, or
// if that is empty "rescued" next to s. It refuses the directory that s itself lies in: a
// set of what was replaced would be the newest there.
func (s *Set) RescueDir(dir string) (string, error) {
	sets := filepath.Dir(s.Dir)
	if dir == "" {
		return filepath.Join(sets, "rescued"), nil
	}
	here, err1 := os.Stat(sets)
	there, err2 := os.Stat(dir)
	if err1 == nil && err2 == nil && os.SameFile(here, there) {
		return "", &Error{Op: "use", Object: dir, Err: errors.New("it holds the sets"),
			Next: "choose a directory of its own, such as " + filepath.Join(dir, "rescued")}
	}
	return dir, nil
}
