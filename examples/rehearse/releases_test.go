package main

import (
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Releases that cannot share a bundle get two, and no gateway is switched from one to the other.
func TestNoCommonBundle(t *testing.T) {
	t.Parallel()
	r := newRehearsal(options{from: mustVersion(t, "4.0.8"), to: mustVersion(t, "4.0.16"),
		stdout: io.Discard, err: io.Discard})
	r.dir = t.TempDir()
	r.plugin.builds = filepath.Join(r.dir, "builds")
	if err := os.MkdirAll(filepath.Join(r.plugin.builds, "new"), 0o755); err != nil {
		t.Fatal(err)
	}
	s := &Step{Status: statusOK}
	if err := r.bundle(t.Context(), s); err != nil || s.Status != statusOK ||
		!strings.Contains(strings.Join(s.Detail, "\n"), "for 4.0.16: new-") {
		t.Errorf("%v, %+v", err, s)
	}
	if made, _ := filepath.Glob(filepath.Join(r.dir, "bundles", "*.zip")); len(made) != 2 {
		t.Errorf("bundles: %q", made)
	}
	for _, what := range []string{stepToday, stepPublish, stepNext, stepBack} {
		s := &Step{Status: statusOK}
		if err := r.switchStep(what)(t.Context(), s); err != nil || s.Status != statusSkipped {
			t.Errorf("%s: %v, %+v", what, err, s)
		}
	}
}

// Plugins for releases before 5.1.0 are built in another way than the gateway.
func TestNoGatewayForOldReleases(t *testing.T) {
	t.Parallel()
	for to, want := range map[string]string{"5.0.15": "plugins for 5.0.15 are not",
		"4.0.16": "plugins for 4.0.16 are not"} {
		r := newRehearsal(options{from: mustVersion(t, "4.0.8"), to: mustVersion(t, to),
			stdout: io.Discard, err: io.Discard})
		r.plugin.new = "compiled"
		s := &Step{}
		if err := r.preflight(t.Context(), s); err != nil || s.Status != statusSkipped ||
			!strings.Contains(s.Detail[0], want) {
			t.Errorf("%s: %v, %+v", to, err, s)
		}
	}
}
