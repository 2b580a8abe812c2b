package canary

import (
	"bytes"
	"os/exec"
	"testing"
	"time"
)

// A word in the arguments or the environment of a child is found.
func TestWatch(t *testing.T) {
	t.Parallel()
	for _, where := range []string{"arguments", "environment"} {
		word := []byte("f1nd-m3-" + where)
		looks := func(p Process) bool { return bytes.Contains(append(p.Args, p.Env...), word) }
		var s scanner
		if x := s.scan(looks); x != "" {
			t.Errorf("found before it is there: %s", x)
		}
		cmd := exec.CommandContext(t.Context(), "sleep", "60")
		if where == "environment" {
			cmd.Env = []string{"WORD=" + string(word)}
		} else {
			cmd.Args[0] = string(word)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		seen := false
		for !seen && t.Context().Err() == nil { // until the child has begun
			seen = s.scan(looks) != ""
			time.Sleep(time.Millisecond)
		}
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}
	// So is a program that a process becomes later, and one that begins when the numbers of
	// processes start again.
	for _, again := range []bool{false, true} {
		s, word := scanner{}, []byte("l4t3r")
		looks := func(p Process) bool { return bytes.Contains(p.Args, word) }
		s.scan(looks)
		cmd := exec.CommandContext(t.Context(), "sh", "-c", "read x; exec sleep \"$x\"")
		in, err := cmd.StdinPipe()
		if err == nil {
			err = cmd.Start()
		}
		if err != nil {
			t.Fatal(err)
		}
		if again {
			s.newest = 1 << 30
		}
		for range 2 * longest {
			s.scan(looks)
		}
		word = []byte("60.125")
		_, _ = in.Write([]byte("60.125\n"))
		seen := false
		for range 10000 {
			if seen = s.scan(looks) != ""; seen {
				break
			}
			time.Sleep(time.Millisecond)
		}
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if !seen {
			t.Errorf("not found, with numbers that start again: %v", again)
		}
	}
	// So is one that was there before.
	began := new(scanner)
	if began.scan(func(Process) bool { return true }) == "" {
		t.Error("the first scan passes over the processes that run")
	}
	w := &recorder{TB: t}
	t.Run("watched", func(t *testing.T) {
		w.TB = t
		Watch(w, func(Process) bool { return true })
	})
	if !w.failed {
		t.Error("a leak does not fail the test")
	}
}

// recorder notes a failure instead of failing.
type recorder struct {
	testing.TB
	failed bool
}

func (r *recorder) Errorf(string, ...any) { r.failed = true }
