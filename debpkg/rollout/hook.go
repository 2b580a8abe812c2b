package rollout

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"example.com/tykupgrade/internal/atomicfile"
)

// Runner executes a command, here or on another host.
type Runner func(ctx context.Context, argv []string, stdin io.Reader, stdout, stderr io.Writer) error

// Exec is a load balancer that is driven by commands, for instance a cloud's
// own client in a script. In each argument "{server}" stands for the server.
// StateCommand prints a [State] as JSON. An exit code other than 0 is a failure.
type Exec struct {
	Run                                      Runner
	DrainCommand, ReadyCommand, StateCommand []string
	KillCommand                              []string // empty: sessions cannot be ended
}

var (
	_ Balancer = Exec{}
	_ Killer   = Exec{}
)

func (x Exec) run(ctx context.Context, what string, argv []string, server string, stdout io.Writer) error {
	if x.Run == nil || len(argv) == 0 {
		return fmt.Errorf("%s %s: no command given for it", what, server)
	}
	filled := make([]string, len(argv))
	for i, a := range argv {
		filled[i] = strings.ReplaceAll(a, "{server}", server)
	}
	if err := x.Run(ctx, filled, nil, stdout, nil); err != nil {
		return fmt.Errorf("%s %s: %w", what, server, err)
	}
	return nil
}

// Drain runs DrainCommand.
func (x Exec) Drain(ctx context.Context, server string) error {
	return x.run(ctx, "drain", x.DrainCommand, server, nil)
}

// Ready runs ReadyCommand.
func (x Exec) Ready(ctx context.Context, server string) error {
	return x.run(ctx, "make ready", x.ReadyCommand, server, nil)
}

// Kill runs KillCommand.
func (x Exec) Kill(ctx context.Context, server string) error {
	return x.run(ctx, "end the sessions of", x.KillCommand, server, nil)
}

// State runs StateCommand and reads what it prints.
func (x Exec) State(ctx context.Context, server string) (State, error) {
	var out bytes.Buffer
	if err := x.run(ctx, "ask the state of", x.StateCommand, server, &out); err != nil {
		return State{}, err
	}
	var s State
	dec := json.NewDecoder(&out)
	dec.DisallowUnknownFields()
	if err := dec.Decode(&s); err != nil {
		return State{}, fmt.Errorf("ask the state of %s: the command's output is not the JSON of a state, such as %s: %w",
			server, `{"up":true,"drained":false,"sessions":0,"queue":0}`, err)
	}
	return s, nil
}

// Marker is a load balancer that looks at files: a server is out while
// Dir/<server>.drain exists. A health check script on the load balancer, or a
// job that writes nginx's upstream list, does the rest. It cannot see sessions,
// so it takes them to be over, and a server to be up, when Settle has passed
// since the change.
type Marker struct {
	Dir    string
	Settle time.Duration // at least the check's interval, its count, and the longest request
}

var _ Balancer = Marker{}

func (m Marker) path(server, kind string) (string, error) {
	if server == "" || server != filepath.Base(server) || strings.HasPrefix(server, ".") {
		return "", fmt.Errorf("%q is no server name that can be a file name", server)
	}
	return filepath.Join(m.Dir, server+kind), nil
}

// Drain creates the file, if it is not there already.
func (m Marker) Drain(_ context.Context, server string) error {
	return m.swap(server, ".drain", ".ready")
}

// Ready removes the file, and leaves <server>.ready to know since when.
func (m Marker) Ready(_ context.Context, server string) error {
	return m.swap(server, ".ready", ".drain")
}

func (m Marker) swap(server, to, from string) error {
	path, err := m.path(server, to)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err == nil {
		err = f.Close()
	} else if errors.Is(err, fs.ErrExist) {
		err = nil // the time since the first call is what counts
	}
	if err != nil {
		return fmt.Errorf("mark %s: %w", server, err)
	}
	other, _ := m.path(server, from)
	if err := os.Remove(other); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("mark %s: %w", server, err)
	}
	return atomicfile.SyncDir(m.Dir)
}

// State reads the marks. One session is reported until Settle has passed.
func (m Marker) State(_ context.Context, server string) (State, error) {
	drain, err := m.path(server, ".drain")
	if err != nil {
		return State{}, err
	}
	if info, err := os.Stat(drain); err == nil {
		s := State{Drained: true, Detail: drain + " exists"}
		if time.Since(info.ModTime()) < m.Settle {
			s.Sessions = 1
		}
		return s, nil
	} else if !errors.Is(err, fs.ErrNotExist) {
		return State{}, err
	}
	ready, _ := m.path(server, ".ready")
	if info, err := os.Stat(ready); err == nil && time.Since(info.ModTime()) < m.Settle {
		return State{Detail: "made ready a moment ago"}, nil
	}
	return State{Up: true}, nil
}
