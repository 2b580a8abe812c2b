package fleet

import (
	"fmt"
	"io"
	"strings"
	"testing"

	"example.com/tykupgrade/debpkg/rollout"
	"example.com/tykupgrade/examples/internal/term"
)

// The live view stays short however large the fleet is.
func TestTableLines(t *testing.T) {
	t.Parallel()
	tab := NewLive(term.New(io.Discard))
	tab.targets = 5000
	for i := range 300 {
		tab.record(rollout.Record{Kind: rollout.KindStart, Target: fmt.Sprint("h", i), Step: "install"})
	}
	tab.Note("h3", "unpacking")
	tab.record(rollout.Record{Kind: rollout.KindEnd, Target: "h0", Status: rollout.StatusDone})
	// One that was done and is undone counts once.
	tab.record(rollout.Record{Kind: rollout.KindEnd, Target: "h300", Status: rollout.StatusDone})
	tab.record(rollout.Record{Kind: rollout.KindEnd, Target: "h300", Status: rollout.StatusUndone})
	lines := tab.lines()
	if len(lines) != 22 || !strings.Contains(lines[0], "1 of 5000 done, 1 as before, 0 need") || !strings.Contains(lines[len(lines)-1], "and 279 more") || !strings.Contains(strings.Join(lines, "\n"), "unpacking") {
		t.Errorf("%d lines:\n%s", len(lines), strings.Join(lines, "\n"))
	}
}
