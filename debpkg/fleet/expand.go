package fleet

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"example.com/tykupgrade/internal/lazyregexp"
)

// variable is ${NAME}; $${NAME} stands for the text ${NAME}.
var variable = lazyregexp.New(`\$?\$\{([^}]*)\}`)

var variableName = lazyregexp.New(`^[A-Za-z_][A-Za-z0-9_]*$`)

// Expand replaces ${NAME} by the variable NAME in every string of v, a pointer to a struct that
// [Decode] has filled. $${NAME} becomes ${NAME}. Keys, numbers and durations stay as they are. The
// error names all variables that are unset or have an invalid name.
func Expand(v any, lookup func(name string) (string, bool)) error {
	e := &expander{lookup: lookup}
	e.walk(reflect.ValueOf(v))
	slices.Sort(e.bad)
	var errs []error
	for _, text := range slices.Compact(e.bad) {
		errs = append(errs, errors.New(text))
	}
	return errors.Join(errs...)
}

type expander struct {
	lookup func(string) (string, bool)
	bad    []string
}

func (e *expander) walk(v reflect.Value) {
	switch v.Kind() {
	case reflect.Pointer, reflect.Interface:
		if !v.IsNil() {
			e.walk(v.Elem())
		}
	case reflect.Struct:
		for i := range v.NumField() {
			if f := v.Field(i); f.CanSet() {
				e.walk(f)
			}
		}
	case reflect.Slice, reflect.Array:
		for i := range v.Len() {
			e.walk(v.Index(i))
		}
	case reflect.Map:
		for _, key := range v.MapKeys() {
			value := reflect.New(v.Type().Elem()).Elem()
			value.Set(v.MapIndex(key))
			e.walk(value)
			v.SetMapIndex(key, value)
		}
	case reflect.String:
		if v.CanSet() {
			v.SetString(e.text(v.String()))
		}
	}
}

func (e *expander) text(s string) string {
	return variable.ReplaceAllStringFunc(s, func(m string) string {
		if strings.HasPrefix(m, "$$") {
			return m[1:]
		}
		name := m[2 : len(m)-1]
		value, ok := e.lookup(name)
		switch {
		case !variableName.MatchString(name):
			e.bad = append(e.bad, fmt.Sprintf("invalid variable %q: want one such as ${TYK_VERSION}, or "+
				"$%s for the text", m, m))
		case !ok:
			e.bad = append(e.bad, fmt.Sprintf("the variable %s is not set: export it, or write $%s "+
				"for the text", name, m))
		}
		return value
	})
}
