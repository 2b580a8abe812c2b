package fleet

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"strings"

	"go.yaml.in/yaml/v3"

	"example.com/tykupgrade/internal/lazyregexp"
)

// maxFile bounds an inventory.
const maxFile = 4 << 20

// Load reads and checks the inventory in a file. "-" is stdin.
func Load(path string, stdin io.Reader) (*Inventory, error) {
	data, err := Read(path, stdin)
	if err != nil {
		return nil, err
	}
	inv, err := Parse(data)
	if err != nil {
		return nil, &Error{Op: "read", Object: path, Kind: ErrInventory, Err: err}
	}
	return inv, nil
}

// Read reads a file of at most 4 MiB. "-" is stdin. Read refuses a file that everybody can change
// or replace, because it names commands to run here and packages to install as root.
func Read(path string, stdin io.Reader) ([]byte, error) {
	fail := func(err error) ([]byte, error) {
		return nil, &Error{Op: "read", Object: path, Kind: ErrInventory, Err: err}
	}
	in := stdin
	if path != "-" {
		f, err := os.Open(path)
		if err != nil {
			return fail(errors.Unwrap(err)) // the path is named already
		}
		defer func() { _ = f.Close() }()
		if err := closed(f, path); err != nil {
			return fail(err)
		}
		in = f
	}
	data, err := io.ReadAll(io.LimitReader(in, maxFile+1))
	var failed *fs.PathError
	if errors.As(err, &failed) {
		err = failed.Err // the path is named already
	}
	if err == nil && len(data) > maxFile {
		err = fmt.Errorf("larger than %d bytes", maxFile)
	}
	if err != nil {
		return fail(err)
	}
	return data, nil
}

// closed refuses an open file that everybody can write to, or replace in its directory.
func closed(f *os.File, path string) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if info.Mode().Perm()&0o002 != 0 && info.Mode().IsRegular() {
		return fmt.Errorf("everybody can write to it; chmod o-w %s", path)
	}
	real, err := filepath.EvalSymlinks(path)
	if err != nil {
		return err
	}
	dir := filepath.Dir(real)
	if info, err = os.Stat(dir); err != nil {
		return err
	}
	if info.Mode().Perm()&0o002 != 0 && info.Mode()&os.ModeSticky == 0 {
		return fmt.Errorf("everybody can replace it; chmod o-w %s", dir)
	}
	return nil
}

// Parse reads and checks an inventory. It replaces ${NAME} by the variable NAME, see [Expand].
func Parse(data []byte) (*Inventory, error) {
	inv := &Inventory{}
	if err := Decode(data, inv); err != nil {
		return nil, err
	}
	if err := Expand(inv, os.LookupEnv); err != nil {
		return nil, err
	}
	if err := inv.Check(); err != nil {
		return nil, err
	}
	return inv, nil
}

// Decode reads YAML or JSON into v, such as a struct that embeds an [Inventory]. Unknown keys and a
// second document are errors. The error lists all mistakes.
func Decode(data []byte, v any) error {
	dec := yaml.NewDecoder(bytes.NewReader(data))
	dec.KnownFields(true)
	err := dec.Decode(v)
	var all *yaml.TypeError
	switch {
	case errors.Is(err, io.EOF):
		return errors.New("it is empty")
	case errors.As(err, &all):
		var errs []error
		for _, text := range all.Errors {
			text = unknownKey.ReplaceAllString(text, "unknown key $1")
			errs = append(errs, errors.New(misfit(text)))
		}
		return errors.Join(errs...)
	case err == nil && !errors.Is(dec.Decode(&yaml.Node{}), io.EOF):
		return errors.New("it has a second document (---), and only one is read")
	}
	return err
}

// The decoder (go.yaml.in/yaml 3.0) names Go's types.
var (
	unknownKey = lazyregexp.New(`field (.+) not found in type \S+$`)
	unfit      = lazyregexp.New(`^(.*)cannot unmarshal (!!\w+)(.*) into (\S+)$`)
)

// misfit words an error about a value of the wrong kind without Go's type names.
func misfit(text string) string {
	m := unfit.FindStringSubmatch(text)
	if m == nil {
		return text
	}
	kinds := map[string]string{"!!map": "a mapping", "!!seq": "a list", "!!str": "the text",
		"!!int": "the number", "!!float": "the number", "!!bool": "the word", "!!null": "nothing"}
	text = m[1] + cmp.Or(kinds[m[2]], m[2]) + m[3] + " does not fit here"
	switch to := m[4]; {
	case to == "string":
		text += ": want a text"
	case to == "bool":
		text += ": want true or false"
	case strings.HasPrefix(to, "int"):
		text += ": want a whole number"
	case strings.HasPrefix(to, "[]"):
		text += ": want a list"
	case strings.HasPrefix(to, "map["):
		text += ": want a mapping"
	}
	return text
}

// DecodeNode decodes a node into v, a pointer to a struct. It is for an UnmarshalYAML method of a
// value with several forms, in which the decoder itself does not detect unknown keys.
func DecodeNode(n *yaml.Node, v any) error {
	if n.Kind == yaml.MappingNode {
		known := map[string]bool{}
		t := reflect.TypeOf(v).Elem()
		for i := range t.NumField() {
			key, _, _ := strings.Cut(t.Field(i).Tag.Get("yaml"), ",")
			known[key] = true
		}
		var errs []string
		for i := 0; i < len(n.Content); i += 2 {
			if k := n.Content[i]; !known[k.Value] {
				errs = append(errs, fmt.Sprintf("line %d: unknown key %s", k.Line, k.Value))
			}
		}
		if errs != nil {
			return &yaml.TypeError{Errors: errs}
		}
	}
	return n.Decode(v)
}
