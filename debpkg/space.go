package debpkg

import (
	"fmt"
	"slices"
	"strings"
)

// space is how many bytes a plan needs on each file system.
type space []spaceOn

type spaceOn struct {
	device     string
	free, need int64
	what       []string
}

// add notes that size bytes are needed at d.
func (s *space) add(d Disk, size int64, what string) {
	if size <= 0 || d.device == "" {
		return
	}
	i := slices.IndexFunc(*s, func(o spaceOn) bool { return o.device == d.device })
	if i < 0 {
		i = len(*s)
		*s = append(*s, spaceOn{device: d.device, free: d.Free})
	}
	o := &(*s)[i]
	o.need += size
	if text := what + " in " + d.Path; !slices.Contains(o.what, text) {
		o.what = append(o.what, text)
	}
}

// lacking describes the file systems without enough free space.
func (s space) lacking() []string {
	var list []string
	for _, o := range s {
		if o.free < o.need {
			list = append(list, fmt.Sprintf("%s need %s, and %s are free", strings.Join(o.what, ", "),
				size(o.need), size(o.free)))
		}
	}
	return list
}

// disk finds a directory of the survey.
func (f Facts) disk(path string) Disk {
	for _, d := range f.Disks {
		if d.Path == path {
			return d
		}
	}
	return Disk{}
}
