package compiler_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"example.com/tykupgrade/pluginbuild/compiler"
)

// The provenance names plugin, image and source by digest, and no secret.
func TestProvenance(t *testing.T) {
	t.Parallel()
	dir := plugin(t, tiny, map[string]string{"go.sum": "", "testdata/x": "1", ".env": "left out"})
	build := func() (compiler.Artifact, compiler.Statement) {
		t.Helper()
		a, err := buildFake(t, newFake(t, 0, "", sharedObject(62)), compiler.Options{
			Env: map[string]string{"GOPROXY": "https://me:hunter2@p"}},
			compiler.Request{Dir: dir, Provenance: true, ID: "a1", Release: release(t, "4.0.8")})
		if err != nil {
			t.Fatal(err)
		}
		s, err := compiler.VerifyProvenance(a.Path)
		if err != nil {
			t.Fatal(err)
		}
		return a, s
	}
	a, s := build()
	data, err := os.ReadFile(a.Path + compiler.ProvenanceSuffix)
	if err != nil || strings.Contains(string(data), "hunter2") {
		t.Errorf("%v\n%s", err, data)
	}
	var generic map[string]any
	if err := json.Unmarshal(data, &generic); err != nil ||
		generic["_type"] != "https://in-toto.io/Statement/v1" ||
		generic["predicateType"] != "https://slsa.dev/provenance/v1" {
		t.Errorf("%v\n%s", err, data)
	}
	digests := func(s compiler.Statement) map[string]string {
		all := map[string]string{}
		for _, d := range s.Predicate.BuildDefinition.ResolvedDependencies {
			all[d.Name] = d.Digest["sha256"]
		}
		return all
	}
	first := digests(s)
	if names := s.Predicate.BuildDefinition.InternalParameters["environment"]; fmt.Sprint(
		names) != "[GOPROXY]" {
		t.Errorf("environment %v", names)
	}
	if s.Subject[0].Digest["sha256"] != a.SHA256 || first["image"] != "aa" ||
		len(first["source tree"]) != 64 || len(first["go.mod"]) != 64 || len(first["go.sum"]) != 64 {
		t.Errorf("%s", data)
	}
	// Of the source what the compiler gets counts, and nothing else.
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(".env", "other")
	if _, s := build(); digests(s)["source tree"] != first["source tree"] {
		t.Error("a file that is not uploaded changes the digest")
	}
	write("testdata/x", "2")
	if _, s := build(); digests(s)["source tree"] == first["source tree"] ||
		digests(s)["go.mod"] != first["go.mod"] {
		t.Error("a change of the source is not seen")
	}
	// A source that changes while it is compiled has no provenance.
	f := newFake(t, 0, "", sharedObject(62))
	start := f.containerStart
	f.containerStart = func() error {
		write("testdata/x", "3")
		return start()
	}
	if changed, err := buildFake(t, f, compiler.Options{}, compiler.Request{Dir: dir,
		Provenance: true, Release: release(t, "4.0.8"), OutputDir: t.TempDir()}); err == nil ||
		!strings.Contains(err.Error(), "the source changed") {
		t.Errorf("%+v, %v", changed, err)
	} else if _, err := os.Stat(changed.Path + compiler.ProvenanceSuffix); err == nil {
		t.Error("there is a provenance")
	}
	// A plugin that was replaced afterwards.
	if err := os.WriteFile(a.Path, []byte("other"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := compiler.VerifyProvenance(a.Path); err == nil || !strings.Contains(err.Error(),
		"its provenance is for "+a.SHA256) {
		t.Errorf("%v", err)
	}
	if _, err := compiler.VerifyProvenance(a.Path + "x"); err == nil {
		t.Error("no file, no error")
	}
}
