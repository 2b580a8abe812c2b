package haproxy

import (
	"bytes"
	"context"
	"os"
	"strings"
	"syscall"

	"example.com/tykupgrade/internal/atomicfile"
)

// MapFile reads and replaces the map file that HAProxy reads, for example on another host.
type MapFile interface {
	Read(ctx context.Context, path string) ([]byte, error)
	// Write replaces the whole file durably. The file keeps its owner and mode.
	Write(ctx context.Context, path string, data []byte) error
}

// localFile is a file of this machine.
type localFile struct{}

func (localFile) Read(_ context.Context, path string) ([]byte, error) { return os.ReadFile(path) }

func (localFile) Write(ctx context.Context, path string, data []byte) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	o := atomicfile.Options{Mode: info.Mode(), Follow: true}
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		o.Owner = &atomicfile.Owner{UID: int(st.Uid), GID: int(st.Gid)}
	}
	_, err = atomicfile.WriteBytes(ctx, path, o, data)
	return err
}

// mapEntry returns the value of a key.
func mapEntry(data []byte, key string) (string, bool) {
	for line := range strings.Lines(string(data)) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == key {
			return f[1], true
		}
	}
	return "", false
}

// setMapEntry replaces the value of a key in a map file, keeps everything else, and adds the key
// if it is missing.
func setMapEntry(old []byte, key, value string) []byte {
	var b bytes.Buffer
	found := false
	for line := range strings.Lines(string(old)) {
		if f := strings.Fields(line); len(f) > 0 && f[0] == key {
			line, found = key+" "+value, true
		}
		if !strings.HasSuffix(line, "\n") {
			line += "\n"
		}
		b.WriteString(line)
	}
	if !found {
		b.WriteString(key + " " + value + "\n")
	}
	return b.Bytes()
}
