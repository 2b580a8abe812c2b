package rollout

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"syscall"

	"example.com/tykupgrade/internal/atomicfile"
)

// Switch says which colour of a blue-green pair gets the traffic, and changes
// it. Set is idempotent, atomic for the traffic, and survives a restart of the
// load balancer.
type Switch interface {
	Active(ctx context.Context) (string, error)
	Set(ctx context.Context, colour string) error
}

// MapSwitch is a [Switch] by an entry of an HAProxy map file, with
//
//	use_backend %[str(active),map(/etc/haproxy/active.map,blue)]
//
// in the frontend. The Runtime API changes the map in memory only (seen with
// HAProxy 2.6), so the file is rewritten too.
type MapSwitch struct {
	Instances []HAProxy // every process that has the map; their Backends are not used
	File      string    // the map's path as haproxy.cfg names it
	Key       string    // the entry's key; empty: "active"

	// Persist stores the file for the next start of HAProxy; nil: File is a
	// file of this machine. Old is its content now, read with the same means.
	Persist func(ctx context.Context, file string, change func(old []byte) []byte) error
}

var _ Switch = MapSwitch{}

func (s MapSwitch) key() string {
	if s.Key == "" {
		return "active"
	}
	return s.Key
}

var mapWord = regexp.MustCompile(`^[A-Za-z0-9_./:-]+$`)

func (s MapSwitch) check(words ...string) error {
	if len(s.Instances) == 0 {
		return errors.New("switch: no HAProxy named")
	}
	for _, w := range append(words, s.File, s.key()) {
		if !mapWord.MatchString(w) {
			return fmt.Errorf("switch: %q cannot be used in a command of HAProxy", w)
		}
	}
	return nil
}

// Active returns the colour that all instances agree on.
func (s MapSwitch) Active(ctx context.Context) (string, error) {
	if err := s.check(); err != nil {
		return "", err
	}
	colour := ""
	for i, h := range s.Instances {
		got, err := s.read(ctx, h)
		if err != nil {
			return "", err
		}
		if i > 0 && got != colour {
			return "", fmt.Errorf("switch: haproxy at %s sends traffic to %q, the one at %s to %q; set the colour to make them agree", s.Instances[0].Address, colour, h.Address, got)
		}
		colour = got
	}
	return colour, nil
}

func (s MapSwitch) read(ctx context.Context, h HAProxy) (string, error) {
	command := "show map " + s.File
	answer, err := h.ask(ctx, command)
	if err != nil {
		return "", err
	}
	// Lines are "<entry address> <key> <value>".
	for line := range strings.Lines(answer) {
		if f := strings.Fields(line); len(f) == 3 && f[1] == s.key() {
			return f[2], nil
		}
	}
	if !strings.HasPrefix(answer, "0x") {
		return "", &HAProxyError{Address: h.Address, Command: command, Answer: answer}
	}
	return "", &HAProxyError{Address: h.Address, Command: command, Answer: "No such key: " + s.key()}
}

// Set changes every instance, reads it back, and stores the file. When one of
// them fails, those that were changed are changed back.
func (s MapSwitch) Set(ctx context.Context, colour string) (err error) {
	if err := s.check(colour); err != nil {
		return err
	}
	var changed []func() error
	defer func() {
		if err == nil {
			return
		}
		for _, back := range slices.Backward(changed) {
			err = errors.Join(err, back())
		}
	}()
	for _, h := range s.Instances {
		old, err := s.read(ctx, h)
		if err != nil {
			return err
		}
		set := func(ctx context.Context, colour string) error {
			if err := h.do(ctx, fmt.Sprintf("set map %s %s %s", s.File, s.key(), colour)); err != nil {
				return err
			}
			got, err := s.read(ctx, h)
			if err == nil && got != colour {
				err = fmt.Errorf("switch: haproxy at %s still sends traffic to %q", h.Address, got)
			}
			return err
		}
		changed = append(changed, func() error { return set(context.WithoutCancel(ctx), old) })
		if err := set(ctx, colour); err != nil {
			return err
		}
	}
	persist := s.Persist
	if persist == nil {
		persist = persistLocal
	}
	if err := persist(ctx, s.File, func(old []byte) []byte { return setMapEntry(old, s.key(), colour) }); err != nil {
		return fmt.Errorf("switch: store %s for HAProxy's next start: %w", s.File, err)
	}
	return nil
}

// setMapEntry replaces the value of a key in a map file, keeping everything
// else, and adds the key if it is not there.
func setMapEntry(old []byte, key, value string) []byte {
	var b bytes.Buffer
	found := false
	sc := bufio.NewScanner(bytes.NewReader(old))
	sc.Buffer(nil, len(old)+1)
	for sc.Scan() {
		line := sc.Text()
		if f := strings.Fields(line); len(f) > 0 && f[0] == key {
			line, found = key+" "+value, true
		}
		b.WriteString(line + "\n")
	}
	if !found {
		b.WriteString(key + " " + value + "\n")
	}
	return b.Bytes()
}

func persistLocal(ctx context.Context, file string, change func([]byte) []byte) error {
	info, err := os.Stat(file)
	if err != nil {
		return err
	}
	old, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	o := atomicfile.Options{Mode: info.Mode(), Follow: true}
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		o.Owner = &atomicfile.Owner{UID: int(st.Uid), GID: int(st.Gid)}
	}
	_, err = atomicfile.WriteBytes(ctx, file, o, change(old))
	return err
}
