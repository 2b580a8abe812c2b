package cli

import (
	"flag"
	"fmt"
	"log/slog"
	"strings"
)

// Note keeps the first error about the values of flags. A verb reads all its flags, then returns
// [Call.Noted]. Note ignores nil.
func (c *Call) Note(err error) {
	if c.noted == nil {
		c.noted = err
	}
}

// Noted returns the first error of [Call.Note], [Word] and [Read].
func (c *Call) Noted() error { return c.noted }

// Word returns the known value that a flag names, or the zero value if the verb has no such flag.
// It notes an error for an unknown word.
func Word[T any](c *Call, name string, known ...T) (v T) {
	if c.flags == nil || c.flags.Lookup(name) == nil {
		return v
	}
	var words []string
	for _, k := range known {
		if words = append(words, fmt.Sprint(k)); words[len(words)-1] == c.Text(name) {
			return k
		}
	}
	last := len(words) - 1
	c.Note(Wrong("unknown -%s %q (want %s or %s)", name, c.Text(name),
		strings.Join(words[:last], ", "), words[last]))
	return v
}

// Read reads the file that a flag names. Without the flag it returns the zero value. It notes an
// error of read.
func Read[T any](c *Call, name string, read func(path string) (T, error)) (v T) {
	path := c.Text(name)
	if path == "" {
		return v
	}
	v, err := read(path)
	if err != nil {
		c.Note(Exit(Usage, err))
	}
	return v
}

// isEmpty reports whether a text flag was given with an empty value: its variable was unset.
func (c *Call) isEmpty(name string) bool {
	g, ok := c.flags.Lookup(name).Value.(flag.Getter)
	if !ok {
		return false
	}
	text, ok := g.Get().(string)
	return ok && text == ""
}

// Log returns a log on standard error if the switch -v is on, otherwise nil.
func (c *Call) Log() *slog.Logger {
	if !c.On("v") {
		return nil
	}
	return slog.New(slog.NewTextHandler(c.Err, nil))
}
