package mongodb_test

import (
	"fmt"
	"testing"

	"example.com/tykupgrade/backup/mongodb"
)

// The words for people are those of the command's flags.
func TestWords(t *testing.T) {
	t.Parallel()
	for value, want := range map[fmt.Stringer]string{
		mongodb.SnapshotIfPossible: "if-possible", mongodb.SnapshotRequired: "required",
		mongodb.SnapshotNever: "never", mongodb.SnapshotMode(7): "SnapshotMode(7)",
	} {
		if got := value.String(); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
	l := mongodb.Leftover{Database: "db", State: mongodb.LeftUnknown, Collections: []string{"a", "b"}}
	if got := l.String(); got != "a restore into db (unknown): a, b" {
		t.Error(got)
	}
}
