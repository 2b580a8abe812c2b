package postgres_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"

	"example.com/tykupgrade/backup"
	"example.com/tykupgrade/backup/postgres"
)

// Every rule about versions, with the error and the hint that it gives.
func TestVersionTable(t *testing.T) {
	t.Parallel()
	const now, old, next = 15, 14, 16
	tooOld, tooNew := postgres.ErrToolTooOld, backup.ErrTooNew
	for _, c := range []struct {
		name          string
		m             postgres.Majors
		dump, restore int // the programs
		take, back    error
		words         string
	}{
		{"same", postgres.Majors{now, now, now}, now, now, nil, nil, ""},
		{"pg_dump is older than the server", postgres.Majors{now, now, now}, old, now, tooOld, tooOld,
			"postgresql-client-15"},
		{"the server is newer", postgres.Majors{next, now, now}, now, now, tooOld, tooOld,
			"postgresql-client-16"},
		{"the set is of a newer server", postgres.Majors{now, next, next}, next, next, nil, tooNew,
			"or a newer one"},
		{"the set is of an older server", postgres.Majors{now, old, now}, now, now, nil, nil, ""},
		{"a newer pg_dump wrote the set", postgres.Majors{now, now, next}, now, now, nil, tooOld,
			"postgresql-client-16"},
		{"pg_restore is older", postgres.Majors{now, now, now}, now, old, nil, tooOld,
			"postgresql-client-15"},
		{"an older pg_dump wrote the set", postgres.Majors{now, old, old}, now, now, nil, nil, ""},
	} {
		versions := map[string]int{"pg_dump": c.dump, "pg_restore": c.restore}
		run := func(_ context.Context, argv []string, _ io.Reader, out, _ io.Writer) error {
			for _, name := range argv[slices.Index(argv, "sh")+3:] {
				if v := versions[name]; v > 0 {
					fmt.Fprintf(out, "%s (PostgreSQL) %d.4\n", name, v)
				}
			}
			return nil
		}
		take, back := postgres.CheckVersions(t.Context(), c.m, run)
		for verb, r := range map[string]struct{ got, want error }{"take": {take, c.take},
			"restore": {back, c.back}} {
			var e *backup.Error
			switch {
			case r.want == nil && r.got == nil:
			case r.want == nil || !errors.Is(r.got, r.want) || !errors.As(r.got, &e) ||
				!strings.Contains(e.Hint(), c.words):
				t.Errorf("%s, %s: %v", c.name, verb, r.got)
			}
		}
	}
}
