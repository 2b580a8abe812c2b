package apidef

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"
)

// errAmbiguous is the cause if a document has a key twice. Programs differ in which of the two they
// read.
var errAmbiguous = errors.New("duplicate key")

// span is the place of a value in a document.
type span struct{ start, end int }

// maxDepth limits the nesting of a document.
const maxDepth = 512

// walker reads a valid JSON document without decoding it.
type walker struct {
	doc []byte
	at  int
}

func (w *walker) space() {
	for w.at < len(w.doc) && strings.IndexByte(" \t\r\n", w.doc[w.at]) >= 0 {
		w.at++
	}
}

// str reads a string and returns it decoded.
func (w *walker) str() string {
	start := w.at
	for w.at++; w.doc[w.at] != '"'; w.at++ {
		if w.doc[w.at] == '\\' {
			w.at++
		}
	}
	w.at++
	var s string
	_ = json.Unmarshal(w.doc[start:w.at], &s) // the document is valid
	return s
}

// value skips a value and returns its place.
func (w *walker) value() span {
	w.space()
	s := span{start: w.at}
	switch w.doc[w.at] {
	case '{', '[':
		depth := 0
		for {
			switch w.doc[w.at] {
			case '"':
				w.str()
				continue
			case '{', '[':
				depth++
			case '}', ']':
				depth--
			}
			if w.at++; depth == 0 {
				s.end = w.at
				return s
			}
		}
	case '"':
		w.str()
	default:
		for w.at < len(w.doc) && strings.IndexByte(",]} \t\r\n", w.doc[w.at]) < 0 {
			w.at++
		}
	}
	s.end = w.at
	return s
}

// members calls each for every member of the object at s.
func members(doc []byte, s span, each func(key string, value span)) {
	w := &walker{doc, s.start + 1}
	for {
		w.space()
		if w.doc[w.at] == ',' {
			w.at++
			w.space()
		}
		if w.doc[w.at] == '}' {
			return
		}
		key := w.str()
		w.space()
		w.at++ // the colon
		each(key, w.value())
	}
}

// items calls each for every item of the array at s.
func items(doc []byte, s span, each func(i int, value span)) {
	w := &walker{doc, s.start + 1}
	for i := 0; ; i++ {
		w.space()
		if w.doc[w.at] == ',' {
			w.at++
		}
		w.space()
		if w.doc[w.at] == ']' {
			return
		}
		each(i, w.value())
	}
}

func root(doc []byte) (span, error) {
	if !json.Valid(doc) {
		var v any
		return span{}, fmt.Errorf("not JSON: %w", json.Unmarshal(doc, &v))
	}
	if !utf8.Valid(doc) {
		return span{}, errors.New("not JSON: it holds bytes that are not UTF-8")
	}
	depth := 0
	for i, w := 0, (&walker{doc: doc}); w.at < len(doc); i++ {
		switch doc[w.at] {
		case '"':
			w.str()
			continue
		case '{', '[':
			if depth++; depth > maxDepth {
				return span{}, fmt.Errorf("nested deeper than %d", maxDepth)
			}
		case '}', ']':
			depth--
		}
		w.at++
	}
	w := &walker{doc: doc}
	s := w.value()
	if doc[s.start] != '{' {
		return span{}, errors.New("not a JSON object")
	}
	return s, nil
}

// find returns the place of the value at a path of object keys, and how many of the keys exist.
// Gateways ignore the case of keys, so find refuses a key in another case and a duplicate key.
func find(doc []byte, path ...string) (s span, depth int, err error) {
	if s, err = root(doc); err != nil {
		return s, 0, err
	}
	for depth < len(path) {
		if doc[s.start] != '{' {
			return s, depth, fmt.Errorf("%s is not an object", strings.Join(path[:depth], "."))
		}
		var found []span
		exact := false
		members(doc, s, func(key string, value span) {
			if strings.EqualFold(key, path[depth]) {
				found = append(found, value)
				exact = exact || key == path[depth]
			}
		})
		switch {
		case len(found) == 0:
			return s, depth, nil
		case len(found) > 1 || !exact:
			return s, depth, fmt.Errorf("%s: %w", strings.Join(path[:depth+1], "."), errAmbiguous)
		}
		s = found[0]
		depth++
	}
	return s, depth, nil
}

// get returns the raw value at path; nil if there is none.
func get(doc []byte, path ...string) ([]byte, error) {
	s, depth, err := find(doc, path...)
	if err != nil || depth < len(path) {
		return nil, err
	}
	return doc[s.start:s.end], nil
}

// set returns doc with the value at path. It replaces an existing value, and adds a missing one as
// the last member of the deepest existing object. All other bytes stay unchanged.
func set(doc []byte, value any, path ...string) ([]byte, error) {
	if len(path) == 0 {
		return nil, errors.New("no path given")
	}
	raw, err := json.Marshal(value)
	if err != nil {
		return nil, err
	}
	s, depth, err := find(doc, path...)
	if err != nil {
		return nil, err
	}
	if depth == len(path) {
		return splice(doc, s, raw), nil
	}
	if doc[s.start] != '{' {
		return nil, fmt.Errorf("%s is not an object", strings.Join(path[:depth], "."))
	}
	for i := len(path) - 1; i >= depth; i-- {
		key, err := json.Marshal(path[i])
		if err != nil {
			return nil, err
		}
		raw = append(append(key, ':'), raw...)
		if i > depth {
			raw = append(append([]byte{'{'}, raw...), '}')
		}
	}
	last := span{s.start + 1, s.start + 1}
	members(doc, s, func(_ string, value span) { last = span{value.end, value.end} })
	if last.start > s.start+1 {
		raw = append([]byte{','}, raw...)
	}
	return splice(doc, last, raw), nil
}

func splice(doc []byte, s span, raw []byte) []byte {
	out := make([]byte, 0, len(doc)-(s.end-s.start)+len(raw))
	out = append(out, doc[:s.start]...)
	out = append(out, raw...)
	return append(out, doc[s.end:]...)
}

// text returns the string at path, or "" if there is none. Another type is an error.
func text(doc []byte, path ...string) (string, error) {
	raw, err := get(doc, path...)
	if err != nil || raw == nil {
		return "", err
	}
	var s string
	if json.Unmarshal(raw, &s) != nil && string(raw) != "null" {
		return "", fmt.Errorf("%s is not a string", strings.Join(path, "."))
	}
	return s, nil
}

// flag returns the boolean at path, or fallback if there is none.
func flag(doc []byte, fallback bool, path ...string) (bool, error) {
	raw, err := get(doc, path...)
	if err != nil || raw == nil {
		return fallback, err
	}
	v := fallback
	if json.Unmarshal(raw, &v) != nil {
		return fallback, fmt.Errorf("%s is not a boolean", strings.Join(path, "."))
	}
	return v, nil
}
