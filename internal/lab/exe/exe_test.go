package exe_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"example.com/tykupgrade/internal/lab"
	"example.com/tykupgrade/internal/lab/exe"
)

// Each call gives a program of the caller's own, made by the flags, whatever an earlier one made.
func TestBuild(t *testing.T) {
	t.Parallel()
	lab.Program(t, "go", "golang-go")
	dir := t.TempDir()
	for name, text := range map[string]string{
		"go.mod":  "module example.org/hello\n\ngo 1.21\n",
		"main.go": "package main\n\nvar name string\n\nfunc main() { println(\"hello\", name) }\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for i, name := range []string{"a", "b", "a"} {
		out := filepath.Join(t.TempDir(), "program")
		if err := exe.Build(t.Context(), dir, out, lab.GoEnv(), "-ldflags=-X main.name="+name,
			"."); err != nil {
			t.Fatal(err)
		}
		said, err := exec.Command(out).CombinedOutput()
		if err != nil || string(said) != "hello "+name+"\n" {
			t.Errorf("%d: %q, %v", i, said, err)
		}
		if err := os.Remove(out); err != nil {
			t.Error(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "main.go"), []byte("package main\n\nvar x = y\n"),
		0o600); err != nil {
		t.Fatal(err)
	}
	if err := exe.Build(t.Context(), dir, filepath.Join(dir, "x"), lab.GoEnv(),
		"."); err == nil || !strings.Contains(err.Error(), "undefined: y") {
		t.Errorf("a source with an error: %v", err)
	}
}
