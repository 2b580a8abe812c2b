package haproxy

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"example.com/tykupgrade/debpkg/rollout"
	"example.com/tykupgrade/internal/lazyregexp"
)

// Switch is a [rollout.Switch] that changes an entry of an HAProxy map file. The frontend has
//
//	use_backend %[str(active),map(/etc/haproxy/active.map,blue)]
//
// The Runtime API changes the map only in memory (seen with HAProxy 2.6), so Switch rewrites the
// file too.
type Switch struct {
	Instances []Balancer // all processes with the map; Backends are not used
	File      string     // the map's path in haproxy.cfg
	Key       string     // the entry's key; empty: "active"
	Store     MapFile    // reads and writes File; nil: on this machine
}

var (
	_ rollout.Switch    = Switch{}
	_ rollout.Persister = Switch{}
)

func (s Switch) key() string {
	if s.Key == "" {
		return "active"
	}
	return s.Key
}

func (s Switch) store() MapFile {
	if s.Store == nil {
		return localFile{}
	}
	return s.Store
}

var mapWord = lazyregexp.New(`^[A-Za-z0-9_./:-]+$`)

func (s Switch) check(words ...string) error {
	if len(s.Instances) == 0 {
		return invalid(s.File, errors.New("want at least one HAProxy in Instances"))
	}
	for _, w := range append(words, s.File, s.key()) {
		if !mapWord.MatchString(w) {
			return invalid(s.File, fmt.Errorf("%q cannot be used in a command", w))
		}
	}
	return nil
}

// Active returns the colour that all instances agree on.
func (s Switch) Active(ctx context.Context) (string, error) {
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
			return "", &Error{
				Op: "read map " + s.File, Object: h.Address, Kind: ErrRefused,
				Err: fmt.Errorf("it sends traffic to %q, but the one at %s to %q", got, s.Instances[0].Address,
					colour),
				Next: "call Set to make them agree",
			}
		}
		colour = got
	}
	return colour, nil
}

// Persisted reports whether the file, which HAProxy reads when it starts, has the colour.
func (s Switch) Persisted(ctx context.Context, colour string) (bool, error) {
	if err := s.check(colour); err != nil {
		return false, err
	}
	data, err := s.store().Read(ctx, s.File)
	if err != nil {
		return false, fmt.Errorf("read %s: %w", s.File, err)
	}
	got, ok := mapEntry(data, s.key())
	return ok && got == colour, nil
}

func (s Switch) read(ctx context.Context, h Balancer) (string, error) {
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
		return "", refusal(h.Address, command, answer)
	}
	return "", refusal(h.Address, command, "No such key: "+s.key())
}

// Set changes every instance, reads it back, and stores the file. If one fails, Set changes the
// others back. After a crash, Persisted reports whether the file was stored.
func (s Switch) Set(ctx context.Context, colour string) (err error) {
	if err := s.check(colour); err != nil {
		return err
	}
	old, err := s.store().Read(ctx, s.File)
	if err != nil {
		return fmt.Errorf("read %s: %w", s.File, err)
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
		was, err := s.read(ctx, h)
		if err != nil {
			return err
		}
		changed = append(changed, func() error { return s.set(context.WithoutCancel(ctx), h, was) })
		if err := s.set(ctx, h, colour); err != nil {
			return err
		}
	}
	if err := s.store().Write(ctx, s.File, setMapEntry(old, s.key(), colour)); err != nil {
		return fmt.Errorf("store %s for the next start of HAProxy: %w", s.File, err)
	}
	return nil
}

func (s Switch) set(ctx context.Context, h Balancer, colour string) error {
	command := fmt.Sprintf("set map %s %s %s", s.File, s.key(), colour)
	if err := h.do(ctx, command); err != nil {
		return err
	}
	got, err := s.read(ctx, h)
	if err == nil && got != colour {
		err = refusal(h.Address, command, "accepted, but traffic still goes to "+got)
	}
	return err
}
