package run

import (
	"bytes"
	"strings"
)

// MaxLine is the length in bytes at which [Lines] cuts a line without an end.
const MaxLine = 64 << 10

// Lines is a writer that cuts a stream into lines and passes each to Emit without its end. Write
// never fails. Flush passes on a last line without an end. Lines is not safe for concurrent use.
type Lines struct {
	Emit func(line string)
	rest []byte
}

func (l *Lines) Write(p []byte) (int, error) {
	n := len(p)
	for len(p) > 0 {
		end := bytes.IndexByte(p, '\n')
		if end < 0 {
			l.rest = append(l.rest, p...)
			if len(l.rest) > MaxLine {
				l.Flush()
			}
			break
		}
		l.rest = append(l.rest, p[:end]...)
		l.Emit(strings.TrimRight(string(l.rest), "\r"))
		l.rest, p = l.rest[:0], p[end+1:]
	}
	return n, nil
}

// Flush passes an unfinished line to Emit.
func (l *Lines) Flush() {
	if len(l.rest) > 0 {
		l.Emit(strings.TrimRight(string(l.rest), "\r"))
		l.rest = l.rest[:0]
	}
}
