package goenv_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"example.com/tykupgrade/internal/goenv"
	"example.com/tykupgrade/internal/lab"
)

// The answers are those of the go command itself.
func TestAsTheGoCommand(t *testing.T) {
	t.Parallel()
	goCmd := lab.Program(t, "go", "golang-go")
	home := t.TempDir()
	file := filepath.Join(home, ".config", "go", "env")
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file,
		[]byte("# mine\nGOPROXY=https://file.example.org\nGOPRIVATE=a.example.org\nnot a "+
			"setting\nlower=x\nGOFLAGS=-buildvcs=false\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	base := []string{"PATH=" + os.Getenv("PATH"), "HOME=" + home}
	for name, more := range map[string][]string{
		"file":              nil,
		"environment wins":  {"GOPROXY=https://env.example.org"},
		"last one wins":     {"GOPRIVATE=x.example.org", "GOPRIVATE=y.example.org"},
		"empty hides not":   {"GOPROXY=", "GOFLAGS="},
		"off":               {"GOENV=off"},
		"other directory":   {"XDG_CONFIG_HOME=" + t.TempDir()},
		"other file":        {"GOENV=" + file, "HOME=" + t.TempDir()},
		"file that is gone": {"GOENV=" + filepath.Join(home, "none")},
	} {
		env := append(append([]string{}, base...), more...)
		s, err := goenv.Read(env)
		if err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command(goCmd, "env", "GOPROXY", "GOPRIVATE", "GOFLAGS")
		cmd.Env = append(env, "GOTOOLCHAIN=local")
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		for i, want := range strings.Split(strings.TrimSuffix(string(out), "\n"), "\n") {
			key := []string{"GOPROXY", "GOPRIVATE", "GOFLAGS"}[i]
			got := s.Get(key)
			if key == "GOPROXY" && got == "" {
				// Neither variable nor file: what the go command says without both.
				bare := exec.Command(goCmd, "env", "GOPROXY")
				bare.Env = append(env, "GOENV=off", "GOPROXY=", "GOTOOLCHAIN=local")
				text, err := bare.Output()
				if err != nil {
					t.Fatal(err)
				}
				got = strings.TrimSpace(string(text))
			}
			if got != want {
				t.Errorf("%s: %s is %q, the go command has %q", name, key, got, want)
			}
		}
	}
	if _, err := goenv.Read([]string{"GOENV=" + home}); err == nil {
		t.Error("a directory was read")
	}
}
