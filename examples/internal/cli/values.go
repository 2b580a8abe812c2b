package cli

import (
	"fmt"
	"log/slog"
	"os"
	"strings"
)

// Note keeps the first error about the values of flags. A verb reads all its flags, then returns
// [Call.Noted]. Note ignores nil.
func (c *Call) Note(err error) {
	if c.noted == nil {
		c.noted = err
	}
}

// Noted returns the first error of [Call.Note], [Word], [Read] and [Call.Secret].
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
// error of read. It also notes an empty name, because an unset variable must not skip a check.
func Read[T any](c *Call, name string, read func(path string) (T, error)) (v T) {
	path := c.Text(name)
	if path == "" {
		c.Note(c.empty(name))
		return v
	}
	v, err := read(path)
	if err != nil {
		c.Note(Exit(Usage, err))
	}
	return v
}

// empty returns an error if a flag was given without a value.
func (c *Call) empty(name string) error {
	if c.Given[name] {
		return Wrong("-%s needs a value", name)
	}
	return nil
}

// Secret returns a secret: the text of the file that a flag names, or without the flag the value of
// the environment variable env. It notes an error of the file.
func (c *Call) Secret(name, env string) string {
	if c.Text(name) == "" {
		return c.Env(env)
	}
	data, err := os.ReadFile(c.Text(name))
	if err != nil {
		c.Note(Exit(Usage, err))
	}
	return strings.TrimSpace(string(data))
}

// Log returns a log on standard error if the switch -v is on, otherwise nil.
func (c *Call) Log() *slog.Logger {
	if !c.On("v") {
		return nil
	}
	return slog.New(slog.NewTextHandler(c.Err, nil))
}
