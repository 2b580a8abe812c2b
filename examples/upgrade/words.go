package main

import (
	"context"
	"regexp"
	"strings"

	"example.com/tykupgrade/debpkg/rollout"
)

// worded is an error whose text speaks of the file and the verbs instead of the
// packages' fields and functions.
type worded struct{ error }

func (w worded) Error() string { return inWords(w.error.Error()) }
func (w worded) Unwrap() error { return w.error }

func reword(err error) error {
	if err == nil {
		return nil
	}
	return worded{err}
}

var (
	phrases = strings.NewReplacer(
		"resume or undo the run", "resume or revert",
		"resume it, undo it, or name a new journal", "resume it, revert it, or name a new one with -journal",
	)
	// The preparation and the gates are canaries of the run, not of the file.
	canary = regexp.MustCompile(`canary (` + targetPlugin + `|` + targetHosts + `|` + targetBackup + `|` + gatesAfter + `\S+) failed \(beyond the failure budget\)`)
)

func inWords(text string) string { return phrases.Replace(canary.ReplaceAllString(text, "$1 failed")) }

// rewordSteps lets the journal say it, too.
func rewordSteps(targets []rollout.Target) {
	for _, t := range targets {
		for i := range t.Steps {
			do := t.Steps[i].Do
			t.Steps[i].Do = func(ctx context.Context) error { return reword(do(ctx)) }
		}
	}
}
