package tykupgrade_test

import (
	"bytes"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// The style's words hold in Go and Markdown.
func TestVoice(t *testing.T) {
	t.Parallel()
	out, err := exec.Command("git", "ls-files", "*.go", "*.md").Output()
	if err != nil {
		t.Skipf("skipped: git ls-files: %v", err)
	}
	words, err := os.ReadFile("docs/testdata/voice.txt") // one pattern a line
	if err != nil {
		t.Fatal(err)
	}
	patterns := strings.Split(strings.TrimSpace(string(words)), "\n")
	voice := regexp.MustCompile(`(?i)\b(` + strings.Join(patterns, "|") + `)\b`)
	// Few files have the beginning of a pattern: the others are not searched, which is slow.
	begins := func(text []byte) bool {
		text = bytes.ToLower(text)
		return slices.ContainsFunc(patterns, func(p string) bool {
			prefix, _ := regexp.MustCompile(p).LiteralPrefix()
			return bytes.Contains(text, []byte(prefix))
		})
	}
	for file := range strings.Lines(string(out)) {
		file = strings.TrimSpace(file)
		data, err := os.ReadFile(file)
		if err != nil {
			continue // removed, not yet committed
		}
		if !begins(data) {
			continue
		}
		for i, line := range bytes.Split(data, []byte("\n")) {
			if m := voice.Find(line); m != nil {
				t.Errorf("%s:%d: %q: see CONTRIBUTING.md, Style", file, i+1, m)
			}
		}
	}
}
