package pluginbuild_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/Masterminds/semver/v3"

	"example.com/tykupgrade/pluginbuild"
)

func TestPathTo(t *testing.T) {
	t.Parallel()
	for v, want := range map[string]pluginbuild.Path{
		"3.0.0": 1, "4.0.8": 1, "4.1.0": 1, "4.1.99": 1,
		"4.2.0-rc1": 2, "4.2.0": 2, "4.3.8": 2, "5.0.15": 2, "5.0.99": 2,
		"5.1.0-rc1": 3, "5.1.0": 3, "5.1.0+build": 3, "5.2.4": 3, "5.2.5": 3, "5.14.0": 3,
		"6.0.0-alpha": 3,
	} {
		if got := pluginbuild.PathTo(semver.MustParse(v)); got != want {
			t.Errorf("%s: %s, want %s", v, got, want)
		}
	}
}

// Every pair of boundary versions, against the procedure's table to the letter.
func TestExplain(t *testing.T) {
	t.Parallel()
	var b strings.Builder
	for _, pair := range []string{
		"4.0.8 5.2.5", "4.0.8 4.0.16", "3.2.3 4.0.8", "4.0.8 4.1.0", "4.0.8 4.2.0", "4.0.8 5.0.15",
		"4.0.8 5.1.0",
		"4.1.0 4.1.0", "4.1.0 5.1.0", "4.1.0 5.2.4", "4.1.0 5.2.5", "5.0.3 5.2.5-rc1", "5.1.0 5.2.4",
		"5.2.5 4.0.8", "5.2.1 5.14.0",
	} {
		var from, to string
		if _, err := fmt.Sscan(pair, &from, &to); err != nil {
			t.Fatal(err)
		}
		row := pluginbuild.Explain(semver.MustParse(from), semver.MustParse(to))
		fmt.Fprintf(&b, "%s -> %s\ttable %d\t%s\n\t%s\n", from, to, row.Table, row.Path, row.Why)
	}
	golden(t, "explain.txt", b.String())
}
