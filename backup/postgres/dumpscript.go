package postgres

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"example.com/tykupgrade/internal/lazyregexp"
)

// object is one entry of a dump in SQL form: its statements, or its rows.
type object struct {
	Type, Name, Schema string
	sum                [2]uint64 // of statements, or an order-independent sum of rows
	rows               int64
}

// objects maps type, name and schema to the entries of a dump.
type objects map[string]*object

var heading = lazyregexp.New(
	`^-- (?:Data for )?Name: (.*); Type: (.*); Schema: (.*); Owner: (.*?)(?:; Tablespace: .*)?$`)

// noise reports whether a line does not describe the database. Such lines depend on the order of
// entries or the program, or are random: pg_dump since 15.14 adds \restrict with a random key.
func noise(line []byte) bool {
	return len(line) == 0 || bytes.HasPrefix(line, []byte("--")) || bytes.HasPrefix(line,
		[]byte("SET ")) ||
		bytes.HasPrefix(line, []byte("SELECT pg_catalog.set_config(")) || bytes.HasPrefix(line,
		[]byte(`\restrict `)) || bytes.HasPrefix(line, []byte(`\unrestrict `))
}

// readScript reads the output of pg_dump or pg_restore line by line. The needed memory depends only
// on the number of objects.
func readScript(r io.Reader) (objects, error) {
	out := objects{}
	in := bufio.NewReaderSize(r, 256<<10)
	var current *object
	data, began := false, false
	large := &largeObjects{out: out}
	hash := sha256.New()
	flush := func() {
		if current != nil && !data {
			current.sum[0] = binary.BigEndian.Uint64(hash.Sum(nil))
		}
		hash.Reset()
	}
	for {
		line, err := in.ReadSlice('\n')
		whole := err == nil
		if err == bufio.ErrBufferFull {
			// A long row or statement: hash it in pieces.
			if !data {
				hash.Write(line)
				if err := drain(in, hash); err != nil {
					return nil, err
				}
				continue
			}
			row := sha256.New()
			row.Write(line)
			if err := drain(in, row); err != nil {
				return nil, err
			}
			current.add(row.Sum(nil))
			continue
		}
		if err == io.EOF && len(line) == 0 {
			break
		}
		if err != nil && err != io.EOF {
			return nil, err
		}
		line = bytes.TrimSuffix(line, []byte("\n"))
		switch {
		case data && bytes.Equal(line, []byte(`\.`)):
			data = false
			current = nil
		case data:
			sum := sha256.Sum256(line)
			current.add(sum[:])
		case bytes.HasPrefix(line, []byte("-- ")) && heading.Match(line):
			flush()
			m := heading.FindSubmatch(line)
			current = &object{Type: string(m[2]), Name: string(m[1]), Schema: string(m[3])}
			if large.begin(current.Type, current.Name) {
				current = nil
				break
			}
			key := current.key()
			for n := 2; out[key] != nil; n++ {
				key = fmt.Sprintf("%s #%d", current.key(), n)
			}
			out[key] = current
		case current != nil && current.Type == "TABLE DATA" && bytes.HasPrefix(line, []byte("COPY ")) &&
			bytes.HasSuffix(line, []byte(" FROM stdin;")):
			data = true
		case bytes.HasPrefix(line, []byte("-- PostgreSQL database dump complete")):
			began = true
			flush()
			current, large.reading = nil, nil
		case large.reading != nil:
			large.reading(line)
		case current == nil || noise(line):
		default:
			hash.Write(line)
			hash.Write([]byte("\n"))
		}
		if !whole {
			break
		}
	}
	if data || !began || large.open != nil {
		return nil, errors.New("the dump ends early")
	}
	return out, nil
}

func drain(in *bufio.Reader, w io.Writer) error {
	for {
		piece, err := in.ReadSlice('\n')
		_, _ = w.Write(bytes.TrimSuffix(piece, []byte("\n")))
		if err == nil || err == io.EOF {
			return nil
		}
		if err != bufio.ErrBufferFull {
			return err
		}
	}
}

func (o *object) key() string { return o.Type + " " + o.Schema + "." + o.Name }

func (o *object) add(sum []byte) {
	o.rows++
	o.mix(sum)
}

// differences returns at most limit lines about the differences of two dumps, and the number of all
// differences.
func (o objects) differences(got objects, limit int) (lines []string, n int) {
	report := func(format string, args ...any) {
		if n++; n <= limit {
			lines = append(lines, fmt.Sprintf(format, args...))
		}
	}
	keys := map[string]bool{}
	for k := range o {
		keys[k] = true
	}
	for k := range got {
		keys[k] = true
	}
	var sorted []string
	for k := range keys {
		sorted = append(sorted, k)
	}
	slices.Sort(sorted)
	for _, k := range sorted {
		w, g := o[k], got[k]
		label := printable(strings.ToLower(k[:len(typeOf(k))]) + k[len(typeOf(k)):])
		switch {
		case g == nil:
			report("%s is missing", label)
		case w == nil:
			report("%s is not in the set", label)
		case w.rows != g.rows:
			report("%s has %d rows, the set %d", label, g.rows, w.rows)
		case w.sum != g.sum:
			report("%s differs", label)
		}
	}
	return lines, n
}

func typeOf(key string) string {
	if i := strings.IndexFunc(key, func(r rune) bool {
		return r != ' ' &&
			(r < 'A' || r > 'Z')
	}); i > 0 {
		return key[:i]
	}
	return key
}
