package main

import (
	"regexp"
	"strings"
)

// worded is an error whose text speaks of this command's verbs and of what its file
// has, instead of rollout's.
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
		"fix the cause, then call Resume or Undo", "fix the cause, then resume or revert",
		"call Resume or Undo, or name another journal", "resume it, revert it, or name a new one with -journal",
	)
	// The preparation and the gates are canaries of the run, not of the file.
	canary = regexp.MustCompile(`canary (` + targetPlugin + `|` + targetHosts + `|` + targetBackup + `|` + gatesAfter + `.+?) failed \(beyond the failure budget\)`)
)

func inWords(text string) string { return phrases.Replace(canary.ReplaceAllString(text, "$1 failed")) }
