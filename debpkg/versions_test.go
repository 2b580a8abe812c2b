package debpkg_test

import (
	"maps"
	"os/exec"
	"testing"

	"example.com/tykupgrade/debpkg"
	"example.com/tykupgrade/internal/lab"
)

func TestVersions(t *testing.T) {
	t.Parallel()
	const text = "installed tyk-gateway 5.2.5\nconfig-files tyk-pump 1.9.0\nnot-installed tyk-mdcb \n" +
		"triggers-pending redis-server 5:7.0.15-1\nhalf-configured tyk-dashboard 5.2.5\nodd\n"
	want := map[string]string{"tyk-gateway": "5.2.5", "redis-server": "5:7.0.15-1"}
	for code, ok := range map[int]bool{0: true, 1: true, 2: false, 127: false} {
		h := debpkg.New(answers(text, "dpkg-query: error\n", code), debpkg.Options{})
		got, err := h.Versions(t.Context(), "tyk-*", "redis-server")
		if ok != (err == nil) || ok != maps.Equal(got, want) {
			t.Errorf("exit code %d: %v, %v", code, got, err)
		}
	}
	if got, err := debpkg.New(answers("", "", 2), debpkg.Options{}).Versions(t.Context()); err != nil ||
		len(got) > 0 {
		t.Errorf("no name: %v, %v", got, err)
	}
}

// dpkg itself: an unknown name or a pattern without a match does not hide the others.
func TestVersionsOfThisHost(t *testing.T) {
	t.Parallel()
	query := lab.Program(t, "dpkg-query", "dpkg")
	want, err := exec.CommandContext(t.Context(), query, "-W", "-f", "${Version}", "dpkg").Output()
	if err != nil {
		t.Fatal(err)
	}
	h := debpkg.New(debpkg.Local(), debpkg.Options{})
	got, err := h.Versions(t.Context(), "no-such-package", "dpk?", "no-such-*")
	if err != nil || len(got) != 1 || got["dpkg"] != string(want) {
		t.Errorf("%v, %v, want %s", got, err, want)
	}
	h = debpkg.New(debpkg.Local(), debpkg.Options{Root: t.TempDir()})
	if got, err := h.Versions(t.Context(), "dpkg"); len(got) > 0 {
		t.Errorf("an empty root has %v, %v", got, err)
	}
}
