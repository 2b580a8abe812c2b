// Package goenv reads the settings of the go command on this machine without running it. A go
// command refuses to start under settings that a newer one wrote.
package goenv

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// maxFile limits the size of the file in bytes. `go env -w` writes a few lines.
const maxFile = 1 << 20

// Settings are the settings that the go command would use.
type Settings struct {
	env  map[string]string
	file map[string]string
}

// Read combines an environment of KEY=value entries, of which later ones win, with the file that
// `go env -w` writes. That file is $GOENV, or go/env in the user's configuration directory. A
// missing file is not an error.
func Read(environ []string) (Settings, error) {
	s := Settings{env: map[string]string{}, file: map[string]string{}}
	for _, kv := range environ {
		if k, v, ok := strings.Cut(kv, "="); ok {
			s.env[k] = v
		}
	}
	path := s.env["GOENV"]
	switch {
	case path == "off":
		return s, nil
	case path == "":
		config := s.env["XDG_CONFIG_HOME"]
		if config == "" {
			home := s.env["HOME"]
			if home == "" {
				return s, nil
			}
			config = filepath.Join(home, ".config")
		}
		path = filepath.Join(config, "go", "env")
	}
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return s, nil
	} else if err != nil {
		return s, err
	} else if !info.Mode().IsRegular() || info.Size() > maxFile {
		return s, &fs.PathError{Op: "read", Path: path, Err: errors.New("not a small regular file")}
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return s, err
	}
	for line := range strings.Lines(string(data)) {
		line = strings.TrimSpace(line)
		if k, v, ok := strings.Cut(line, "="); ok && k != "" && k[0] >= 'A' && k[0] <= 'Z' {
			s.file[k] = v
		}
	}
	return s, nil
}

// Get returns a setting. As in the go command, an empty variable does not hide the file's value.
func (s Settings) Get(key string) string {
	if v := s.env[key]; v != "" {
		return v
	}
	return s.file[key]
}
