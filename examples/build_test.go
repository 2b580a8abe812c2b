package examples_test

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
)

// commands builds all commands once and returns their directory. The race detector looks at them in
// the tests of their own packages. Linking eight commands takes twenty seconds of a core, so one
// program is linked: an overlay makes each command a package with a Main, and the program's name
// selects it.
var commands = sync.OnceValues(func() (bin string, err error) {
	if bin, err = os.MkdirTemp("", "commands-"); err != nil {
		return "", err
	}
	built = bin
	var imports, cases strings.Builder
	overlay := make(map[string]string)
	for name := range calls {
		fmt.Fprintf(&imports, "\t%s %q\n", name, "example.com/tykupgrade/examples/all/"+name)
		fmt.Fprintf(&cases, "\tcase %q:\n\t\t%[1]s.Main()\n", name)
		if err := packaged(bin, name, overlay); err != nil {
			return bin, err
		}
	}
	// rehearse gives the processes that it starts of itself names of their own.
	program := "package main\n\nimport (\n\t\"os\"\n\t\"path/filepath\"\n" + imports.String() +
		")\n\nfunc main() {\n\tswitch filepath.Base(os.Args[0]) {\n" + cases.String() +
		"\tdefault:\n\t\trehearse.Main()\n\t}\n}\n"
	if err := replaced(bin, "main.go", program, overlay); err != nil {
		return bin, err
	}
	text, err := json.Marshal(map[string]any{"Replace": overlay})
	if err != nil {
		return bin, err
	}
	list, all := filepath.Join(bin, "overlay.json"), filepath.Join(bin, "all")
	if err := os.WriteFile(list, text, 0o600); err != nil {
		return bin, err
	}
	if out, err := exec.Command("go", "build", "-ldflags=-s -w", "-overlay", list, "-o", all,
		"./all").CombinedOutput(); err != nil {
		return bin, fmt.Errorf("go build: %w\n%s", err, out)
	}
	for name := range calls {
		if err := os.Link(all, filepath.Join(bin, name)); err != nil {
			return bin, err
		}
	}
	return bin, nil
})

// packaged puts a command's sources into the overlay, as a package.
func packaged(bin, name string, overlay map[string]string) error {
	sources, err := filepath.Glob(name + "/*.go")
	if err != nil {
		return err
	}
	clause := regexp.MustCompile(`(?m)^package main$`)
	for _, path := range sources {
		if strings.HasSuffix(path, "_test.go") {
			continue
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		text := string(data)
		at := clause.FindStringIndex(text)
		if at == nil {
			return fmt.Errorf("%s has no package clause", path)
		}
		text = text[:at[0]] + "package " + name + text[at[1]:]
		if filepath.Base(path) == "main.go" {
			text = strings.Replace(text, "\nfunc main() {", "\n// Main is the command.\nfunc Main() {", 1)
		}
		if err := replaced(bin, path, text, overlay); err != nil {
			return err
		}
	}
	return nil
}

// replaced writes a file, which stands for one in the directory all.
func replaced(bin, path, text string, overlay map[string]string) error {
	there, err := filepath.Abs(filepath.Join("all", path))
	if err != nil {
		return err
	}
	file := filepath.Join(bin, strings.ReplaceAll(path, "/", "-"))
	overlay[there] = file
	return os.WriteFile(file, []byte(text), 0o600)
}
