package tykversion_test

import (
	"strings"
	"testing"

	"example.com/tykupgrade/internal/tykversion"
)

func TestParse(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"5.2.5": "5.2.5", "v5.2.5": "5.2.5", " v5.2.5\n": "5.2.5", "5.3.0~rc1": "5.3.0-rc1",
		"v5.3.0-rc1": "5.3.0-rc1",
		"5.2":        "", "": "", "latest": "", "5.2.5.1": "", "vv5.2.5": "", "5.2.x": "", "-5.2.5": "",
		strings.Repeat("1", 65): "", "v5.2.\x1b[31m5": "",
	} {
		v, err := tykversion.Parse(in)
		if (err == nil) != (want != "") || err == nil && v.String() != want {
			t.Errorf("%q: %v, %v", in, v, err)
		}
		if err != nil && strings.Contains(err.Error(), "\x1b") {
			t.Errorf("%q: %q", in, err)
		}
	}
}
