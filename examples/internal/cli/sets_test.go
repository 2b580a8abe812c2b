package cli

import (
	"strings"
	"testing"

	"example.com/tykupgrade/backup"
)

// Each collection in progress has a line of its own.
func TestItemLines(t *testing.T) {
	t.Parallel()
	l := itemLines{text: map[string]string{}}
	var counts []int
	for _, e := range []backup.Event{
		{Item: "db.a", ItemDone: 1, ItemTotal: 4}, {Item: "db.b", ItemDone: 5, ItemTotal: 10},
		{Item: "a file"},
		{Item: "db.a", ItemDone: 4, ItemTotal: 4}, {Done: true},
	} {
		counts = append(counts, len(l.take(e)))
	}
	for i, want := range []int{1, 2, 2, 1, 0} {
		if counts[i] != want {
			t.Errorf("event %d: %d lines, want %d", i, counts[i], want)
		}
	}
	if got := l.take(backup.Event{Item: "db.c", ItemDone: 3, ItemTotal: 12}); len(got) != 1 ||
		!strings.Contains(got[0], " 25%  3 of 12") {
		t.Errorf("%q", got)
	}
}
