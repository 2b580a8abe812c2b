package compiler

import (
	"fmt"
	"strings"

	"example.com/tykupgrade/internal/lazyregexp"
)

var (
	sourceLine = lazyregexp.New(
		`^(\S+\.(go|c|h|s|S):\d+|go\.mod:|go\.work:|package \S+ is not|pattern |note: module requires|.*(undefined reference|cannot find|fatal error))`)
	// Output of scripts and the go command that reports no fault.
	chatter = lazyregexp.New(
		`^(\++ |# |PLUGIN_(BUILD|SOURCE)_PATH: |INFO: |go: (downloading|finding|found|added|upgraded|creating new|to add module) )`)
	networkFault = lazyregexp.New(
		`(?i)dial tcp|i/o timeout|connection (refused|reset)|TLS handshake timeout|no such host|temporary failure|unexpected EOF|50[234] `)
)

// compilerMessage returns at most ten relevant lines of a compiler's output. These are errors with
// a position in the source, otherwise messages of the go command, otherwise the last three lines.
// It keeps indented lines with the line before, because they often name the cause.
func compilerMessage(output string) string {
	var source, command, rest, dropped []string
	to := &rest
	for line := range strings.Lines(output) {
		line = strings.TrimRight(line, "\r\n")
		switch {
		case strings.TrimSpace(line) == "":
			continue
		case line[0] == ' ' || line[0] == '\t':
		case chatter.MatchString(line):
			to = &dropped
		case sourceLine.MatchString(line):
			to = &source
		case strings.HasPrefix(line, "go: "):
			to = &command
		default:
			to = &rest
		}
		*to = append(*to, line)
	}
	errs := source
	if len(errs) == 0 {
		errs = command
	}
	if len(errs) > 10 {
		errs = append(errs[:10:10], fmt.Sprintf("and %d more lines", len(errs)-10))
	}
	if len(errs) > 0 {
		return strings.Join(errs, "\n")
	}
	return strings.Join(rest[max(0, len(rest)-3):], "\n")
}
