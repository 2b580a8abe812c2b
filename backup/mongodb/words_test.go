package mongodb_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"example.com/tykupgrade/backup"
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

// The driver describes the whole deployment when no server answers. The cause is enough.
func TestUnreachable(t *testing.T) {
	t.Parallel()
	_, err := (&mongodb.Source{Server: mongodb.Server{
		URI: "mongodb://127.0.0.1:1,127.0.0.1:2/?serverSelectionTimeoutMS=300"}}).Plan(t.Context())
	var e *backup.Error
	if !errors.As(err, &e) || !e.Retryable() || e.Hint() == "" || len(err.Error()) > 300 ||
		!strings.Contains(err.Error(), "127.0.0.1:1: connect: connection refused") ||
		!strings.Contains(err.Error(), "127.0.0.1:2: ") || strings.Contains(err.Error(), "opology") {
		t.Errorf("error %v", err)
	}
}
