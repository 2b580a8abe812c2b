package cli

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// WriteFile replaces a file that only its owner can read. After an error or a crash the old file is
// unchanged.
func WriteFile(path string, data []byte) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(f.Name()))
		}
	}()
	_, err = f.Write(data)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

// File parses the file that a flag names. Without the flag it returns the zero value. The error
// of parse names the flag and the file. All errors have the exit code [Usage].
func File[T any](c *Call, name string, parse func([]byte) (T, error)) (v T, err error) {
	path := c.Text(name)
	if path == "" {
		return v, nil
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return v, Exit(Usage, err)
	}
	if v, err = parse(data); err != nil {
		err = Exit(Usage, fmt.Errorf("-%s %s: %w", name, path, err))
	}
	return v, err
}

// fileOf returns the flag that names the file or directory of an error of the file system, or "".
// It is exact if the error holds the path itself. Otherwise the path, or its directory, is only a
// word of the cause.
func (c *Call) fileOf(err error, cause string) (name string, exact bool) {
	if c.flags == nil || fileHint(err) == "" {
		return "", false
	}
	path, said := "", words(cause)
	if p := (*fs.PathError)(nil); errors.As(err, &p) {
		path = p.Path
		said = append(said, path)
	}
	c.flags.Visit(func(f *flag.Flag) {
		for value := range strings.SplitSeq(f.Value.String(), ",") {
			abs, err := filepath.Abs(value)
			is := value == path || err == nil && abs == path
			dir := filepath.Dir(value)
			switch {
			case exact || value == "" || slices.Contains(c.Args, value) || isSwitch(f):
			case is, name == "" && (slices.Contains(said, value) || dir != "." && slices.Contains(said, dir)):
				name, exact = f.Name, is
			}
		}
	})
	return name, exact
}

func isSwitch(f *flag.Flag) bool {
	b, ok := f.Value.(interface{ IsBoolFlag() bool })
	return ok && b.IsBoolFlag()
}

// words are those of an error's text, without punctuation.
func words(text string) []string {
	return strings.FieldsFunc(text, func(r rune) bool { return strings.ContainsRune(" :,;=\n\"", r) })
}

// OfFlag returns an error about the file of a flag with the exit code [Usage]. It returns err itself
// if err is nil, has a code of its own, or comes from the end of ctx.
func OfFlag(ctx context.Context, err error) error {
	if Code(err) != No || ctx.Err() != nil {
		return err
	}
	return Exit(Usage, err)
}

// WrongFile returns an error about the file of -file, with the exit code [Usage].
func WrongFile(err error) error {
	if _, hint := Explain(err); hint == "" && fileHint(err) == "" {
		err = Advice(err, "correct the file; docs/upgrade-yaml.md explains its keys")
	}
	return Exit(Usage, err)
}

// ReadFiles reads several files. An empty path gives nil.
func ReadFiles(paths ...string) ([][]byte, error) {
	all := make([][]byte, len(paths))
	for i, path := range paths {
		if path == "" {
			continue
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		all[i] = data
	}
	return all, nil
}
