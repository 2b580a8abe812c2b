package main

import (
	"os"
	"path/filepath"
	"strings"

	"example.com/tykupgrade/internal/lab/compiler"
	"example.com/tykupgrade/internal/lab/compiler/script"
	tykd "example.com/tykupgrade/internal/lab/tyk/program"
	runner "example.com/tykupgrade/internal/run"
)

// standsIn runs this process as a stub of Tyk's programs or of the compiler's script if its
// arguments say so, and reports that it did. So a rehearsal compiles no stubs.
func standsIn(args []string) bool {
	if len(args) < 3 {
		return false
	}
	switch args[1] {
	case tykd.Arg:
		tykd.Main(args[2], "", args[3:])
	case compiler.ScriptArg:
		script.Main(args[3:])
	default:
		return false
	}
	return true
}

// stub returns a program that is each of Tyk's: a script that starts this program. Packages and
// directories of gateways hold the small script instead of large copies.
func (r *rehearsal) stub() (string, error) {
	dir := filepath.Join(r.dir, "stub")
	path := filepath.Join(dir, "start")
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	self := filepath.Join(dir, "tyk")
	if err := ownCopy(self); err != nil {
		return "", err
	}
	quoted := "'" + strings.ReplaceAll(self, "'", `'\''`) + "'"
	return path, runner.WriteProgram(path, []byte("#!/bin/sh\nexec "+quoted+" "+tykd.Arg+
		` "$0" "$@"`+"\n"), 0o755)
}

// running is the executable of this process, which go run or an update may have removed from its
// place. Tests have another one, without the race detector.
var running = "/proc/self/exe"

// ownCopy makes a file with this program, by a hard link if it can.
func ownCopy(to string) error {
	if exe, err := os.Executable(); err == nil && os.Link(exe, to) == nil {
		want, err := os.Stat(running)
		got, gerr := os.Stat(to)
		if err == nil && gerr == nil && os.SameFile(want, got) {
			return nil
		}
		if err := os.Remove(to); err != nil {
			return err
		}
	}
	data, err := os.ReadFile(running)
	if err != nil {
		return err
	}
	return runner.WriteProgram(to, data, 0o755)
}
