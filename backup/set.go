package backup

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"example.com/tykupgrade/backup/internal/step"
)

// Schema is the version of the manifest that this package writes. It also reads older versions.
const Schema = 1

// Manifest describes a set. Paths have slashes and are relative to the set.
type Manifest struct {
	Schema int    `json:"schema"`
	ID     string `json:"id"`
	Tool   string `json:"tool"` // name and version of the program that took the set
	Label  string `json:"label,omitempty"`
	// installed package versions when the set was taken
	Packages   map[string]string `json:"packages,omitempty"`
	Start      time.Time         `json:"start"`
	End        time.Time         `json:"end"`
	Components []Component       `json:"components"`
	Files      []File            `json:"files"`
}

// Component is the part of a set from one source.
type Component struct {
	Name string `json:"name"` // and its directory
	// "files", "redis", "mongo"; empty: no structure of its own
	Kind   string `json:"kind"`
	Origin string `json:"origin,omitempty"`
	Server string `json:"server,omitempty"` // product and version
	// "standalone", "sentinel", "cluster", "replica set", …
	Topology    string      `json:"topology,omitempty"`
	Consistency Consistency `json:"consistency,omitempty"` // of the copy
	Method      string      `json:"method,omitempty"`      // how it was read
	Start       time.Time   `json:"start"`
	End         time.Time   `json:"end"`
	Items       int64       `json:"items"` // keys, documents or files
	Bytes       int64       `json:"bytes"` // in the set
	Warnings    []string    `json:"warnings,omitempty"`
	// databases that the configuration in it names
	Needs   []Need          `json:"needs,omitempty"`
	Details json.RawMessage `json:"details,omitempty"` // typed by kind
}

// Consistency is how consistent a copy is.
type Consistency string

// The consistencies.
const (
	ConsistencySnapshot Consistency = "snapshot" // everything at one moment
	ConsistencyPerNode  Consistency = "per_node" // each node at one moment of its own
	ConsistencyPerItem  Consistency = "per_item" // each key, document or file is complete
	ConsistencyNone     Consistency = "none"
)

// UnmarshalText also reads the form with a space that older sets have.
func (c *Consistency) UnmarshalText(text []byte) error {
	*c = Consistency(strings.ReplaceAll(string(text), " ", "_"))
	return nil
}

// File is a file of a set, or a symbolic link if Link is set. Mode, owner and time are those of the
// original.
type File struct {
	Path   string    `json:"path"`
	Size   int64     `json:"size"`
	SHA256 string    `json:"sha256,omitempty"`
	Link   string    `json:"link,omitempty"`
	Mode   string    `json:"mode,omitempty"` // octal: permission, set-id and sticky bits
	UID    int       `json:"uid"`
	GID    int       `json:"gid"`
	User   string    `json:"user,omitempty"`
	Group  string    `json:"group,omitempty"`
	MTime  time.Time `json:"mtime"`
}

// SetMeta fills in mode, owner and time.
func (f *File) SetMeta(m Meta) {
	f.Mode = fmt.Sprintf("%04o", step.UnixMode(m.Mode))
	f.UID, f.GID, f.User, f.Group = m.UID, m.GID, m.User, m.Group
	f.MTime = m.ModTime.UTC()
}

// Perm returns the mode of the original file.
func (f File) Perm() (fs.FileMode, error) {
	n, err := strconv.ParseUint(f.Mode, 8, 12)
	if err != nil {
		return 0, fmt.Errorf("mode %q is not an octal number up to 7777", f.Mode)
	}
	return step.FileMode(uint32(n)), nil
}

// checkName accepts clean relative paths inside the set, without characters that a line-based tool
// could misread.
func checkName(name string) error {
	switch {
	case name == "" || name == ".":
		return errors.New("empty name")
	case path.Clean(name) != name || path.IsAbs(name) || name == ".." || strings.HasPrefix(name,
		"../"):
		return fmt.Errorf("name %q is not a clean relative path", name)
	case strings.ContainsRune(name, 0) || !utf8.ValidString(name):
		return fmt.Errorf("name %q is not UTF-8 or has a zero byte, which the manifest cannot hold; "+
			"leave it out", name)
	}
	return nil
}
