// Package script is the entry point of the stub compiler image. It keeps
// the contract of Tyk's build.sh, as read in the tags 3.0.0 to 5.14.0 of the
// gateway and picked by GITHUB_TAG, and calls the real go command.
//
// With STUB_SCRIPT it does not compile but what the lines of that variable
// say:
//
//	out N TEXT     write N numbered lines to standard output
//	err N TEXT     the same to standard error
//	write TEXT     leave a file of that content under the expected name
//	copy PATH      the same with the content of a file in the image
//	touch NAME     leave an empty file of that name in the plugin's source
//	append PATH    add a line "kept" to a file
//	cat PATH       print a file or its error
//	env NAME       print a variable
//	deaf           ignore SIGTERM from here on
//	memory         allocate until something stops it
//	sleep          wait for ever
//	exit N         end with that code
package script

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const (
	source  = "/plugin-source"
	gateway = "/go/src/github.com/TykTechnologies/tyk"
)

// Main is this process from now on. args are those of the script.
func Main(args []string) {
	b := build{goos: os.Getenv("GOOS"), goarch: os.Getenv("GOARCH")}
	if err := b.run(args); err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			os.Exit(exit.ExitCode())
		}
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

type build struct {
	version      [3]int
	name, id     string
	goos, goarch string
	dir          string // where the plugin is built
}

func (b *build) run(args []string) error {
	tag := regexp.MustCompile(`v(\d+)\.(\d+)\.(\d+)`).FindStringSubmatch(os.Getenv("GITHUB_TAG"))
	if tag == nil {
		return errors.New("GITHUB_TAG is not set")
	}
	for i := range b.version {
		b.version[i], _ = strconv.Atoi(tag[i+1])
	}
	if len(args) == 0 || args[0] == "" {
		fmt.Print("To build a plugin:\n      /build.sh <plugin_name> <plugin_id>\n\n<plugin_id> " +
			"is optional\n")
		os.Exit(1)
	}
	args = append(args, "", "", "")
	b.name = args[0]
	if b.takesID() {
		b.id = args[1]
	}
	if b.takesPlatform() {
		b.goos, b.goarch = or(args[2], b.goos), or(args[3], b.goarch)
	}
	b.goos, b.goarch = or(b.goos, "linux"), or(b.goarch, "amd64")
	if script := os.Getenv("STUB_SCRIPT"); script != "" {
		return b.script(strings.Split(script, "\n"))
	}
	if _, err := os.Stat(source); err != nil {
		return err
	}
	if os.Getenv("STUB_NEXT") != "" {
		return b.next()
	}
	base := strings.TrimSuffix(b.name, filepath.Ext(b.name))
	b.dir = "/go/src/plugin_" + base + b.id
	if b.since(5, 0, 3) {
		b.dir = filepath.Join(filepath.Dir(gateway), "plugin_"+base+b.id)
	}
	for _, dir := range []string{b.dir, "/tmp", "/root"} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	fmt.Println("PLUGIN_BUILD_PATH:", b.dir)
	fmt.Println("PLUGIN_SOURCE_PATH:", source)
	copyVisible(source, b.dir)
	if b.workspace() {
		return b.inWorkspace()
	}
	return b.inGOPATH()
}

// since says whether the image's release is at least this one.
func (b *build) since(major, minor, patch int) bool {
	return slices.Compare(b.version[:], []int{major, minor, patch}) >= 0
}

func (b *build) line(major, minor int) bool {
	return b.version[0] == major &&
		b.version[1] == minor
}

func (b *build) takesID() bool {
	return b.line(3, 0) && b.since(3, 0, 10) || b.line(3, 2) && b.since(3, 2, 3) || b.since(4, 0, 0)
}

func (b *build) takesPlatform() bool {
	return b.line(3, 2) && b.since(3, 2, 3) || b.since(4, 1, 0)
}

func (b *build) workspace() bool { return b.since(5, 1, 0) }

// output is the file name that this era writes.
func (b *build) output() string {
	if !b.since(4, 1, 0) {
		return b.name
	}
	base := strings.TrimSuffix(b.name, filepath.Ext(b.name))
	return fmt.Sprintf("%s_v%d.%d.%d_%s_%s.so", base, b.version[0], b.version[1], b.version[2], b.goos,
		b.goarch)
}

func (b *build) inGOPATH() error {
	vendor := filepath.Join(b.dir, "vendor")
	if !exists(vendor) && exists(filepath.Join(b.dir, "go.mod")) {
		if err := b.goCmd([]string{"GO111MODULE=on"}, "mod", "vendor"); err != nil && !b.since(5, 0, 3) {
			return err
		}
	}
	if !b.since(5, 0, 3) {
		_ = os.Remove(filepath.Join(b.dir, "go.mod"))
	}
	// The gateway's own packages win.
	_ = os.RemoveAll(filepath.Join(vendor, "github.com/TykTechnologies/tyk"))
	if exists(vendor) {
		copyVisible(vendor, "/go/src")
		_ = os.RemoveAll(vendor)
	}
	args := []string{"build", "-buildmode=plugin", "-o", b.output()}
	if !b.takesID() {
		args = append(args, "-ldflags", "-pluginpath="+strconv.FormatInt(time.Now().Unix(), 10)+"-"+
			b.name)
	}
	if err := b.goCmd([]string{"GO111MODULE=off"}, args...); err != nil {
		return err
	}
	return move(filepath.Join(b.dir, b.output()), filepath.Join(source, b.output()))
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

func (b *build) inWorkspace() error {
	mod := filepath.Join(b.dir, "go.mod")
	data, err := os.ReadFile(mod)
	switch {
	case err == nil:
	case !b.since(5, 2, 4):
		return errors.New("go.mod is missing: the plugin must be a Go module")
	default:
		fmt.Println("INFO: Creating go.mod")
		if err := b.goCmd([]string{"GOWORK=off"}, "mod", "init", "tyk.internal/tyk_plugin"+
			b.id); err != nil {
			return err
		}
	}
	if b.id != "" && err == nil && b.since(5, 2, 4) {
		if err := b.rename(data); err != nil {
			return err
		}
	}
	work := filepath.Dir(gateway)
	if err := os.WriteFile(filepath.Join(work, "go.work"), []byte("go "+b.goVersion()+
		"\n\nuse ./tyk\nuse ./"+filepath.Base(b.dir)+"\n"), 0o644); err != nil {
		return err
	}
	if os.Getenv("GO_GET") == "1" && b.since(5, 2, 3) {
		if err := b.goCmd(nil, "get", "github.com/TykTechnologies/tyk@"+
			os.Getenv("GITHUB_SHA")); err != nil {
			return err
		}
	}
	if os.Getenv("GO_TIDY") == "1" && b.since(5, 2, 4) {
		if err := b.goCmd(nil, "mod", "tidy"); err != nil {
			return err
		}
	}
	args := []string{"build", "-buildmode=plugin", "-trimpath"}
	if b.since(5, 12, 1) || b.line(5, 8) && b.since(5, 8, 14) {
		args = append(args, "-tags=goplugin")
	}
	if err := b.goCmd(nil, append(args, "-o", b.output())...); err != nil {
		return err
	}
	if !b.since(5, 2, 4) {
		return move(filepath.Join(b.dir, b.output()), filepath.Join(source, b.output()))
	}
	// mv *.so: whatever was in the source comes back as root's.
	found, err := filepath.Glob(filepath.Join(b.dir, "*.so"))
	if err != nil {
		return err
	}
	for _, f := range found {
		if err := move(f, filepath.Join(source, filepath.Base(f))); err != nil {
			return err
		}
	}
	return nil
}

// rename gives the module its unique name, the sed of the script with its
// flaw: a prefix is enough.
func (b *build) rename(mod []byte) error {
	m := regexp.MustCompile(`(?m)^module\s+(\S+)`).FindSubmatch(mod)
	if m == nil {
		return errors.New("go.mod has no module line")
	}
	unique := "tyk.internal/tyk_plugin" + b.id
	return filepath.WalkDir(b.dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() || filepath.Ext(path) != ".go" && d.Name() != "go.mod" {
			return err
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		text := strings.ReplaceAll(string(data), `"`+string(m[1]), `"`+unique)
		if d.Name() == "go.mod" {
			text = strings.Replace(text, string(m[1]), unique, 1)
		}
		return os.WriteFile(path, []byte(text), 0o644)
	})
}

func (b *build) goVersion() string {
	out, err := exec.Command("go", "env", "GOVERSION").Output()
	if err != nil {
		return "1.21"
	}
	return strings.TrimPrefix(strings.TrimSpace(string(out)), "go")
}

func (b *build) goCmd(env []string, args ...string) error {
	cmd := exec.Command("go", args...)
	cmd.Dir = b.dir
	cmd.Env = append(os.Environ(), "CGO_ENABLED=1", "GOOS="+b.goos, "GOARCH="+b.goarch)
	if b.goarch == "arm64" {
		cmd.Env = append(cmd.Env, "CC=aarch64-linux-gnu-gcc")
	}
	cmd.Env = append(cmd.Env, env...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	// set -x, which newer scripts have with DEBUG alone.
	if !b.since(5, 2, 4) || os.Getenv("DEBUG") == "1" {
		fmt.Fprintln(os.Stderr, "+ go", strings.Join(args, " "))
	}
	return cmd.Run()
}

// copyVisible is cp -r from/* to: nothing that begins with a dot, and what
// cannot be copied is passed over.
func copyVisible(from, to string) {
	entries, _ := os.ReadDir(from)
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), ".") {
			_ = exec.Command("cp", "-r", filepath.Join(from, e.Name()), to).Run()
		}
	}
}

func move(from, to string) error {
	data, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	if err := os.WriteFile(to, data, 0o755); err != nil {
		return err
	}
	return os.Remove(from)
}

func or(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

// held keeps what the line "memory" allocates.
var held [][]byte

func (b *build) script(lines []string) error {
	for _, line := range lines {
		verb, arg, _ := strings.Cut(line, " ")
		n, text, _ := strings.Cut(arg, " ")
		count, _ := strconv.Atoi(n)
		switch verb {
		case "out", "err":
			w := os.Stdout
			if verb == "err" {
				w = os.Stderr
			}
			for i := range count {
				fmt.Fprintf(w, "%s %d\n", text, i)
			}
		case "write":
			if err := os.WriteFile(filepath.Join(source, b.output()), []byte(arg), 0o755); err != nil {
				return err
			}
		case "copy":
			data, err := os.ReadFile(arg)
			if err != nil {
				return err
			}
			if err := os.WriteFile(filepath.Join(source, b.output()), data, 0o755); err != nil {
				return err
			}
		case "touch":
			if err := os.WriteFile(filepath.Join(source, arg), nil, 0o755); err != nil {
				return err
			}
		case "append":
			f, err := os.OpenFile(arg, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644)
			if err != nil {
				return err
			}
			_, err = f.WriteString("kept\n")
			if err := errors.Join(err, f.Close()); err != nil {
				return err
			}
		case "cat":
			data, err := os.ReadFile(arg)
			if err != nil {
				data = []byte(err.Error() + "\n")
			}
			_, _ = os.Stdout.Write(data)
		case "env":
			fmt.Println(arg + "=" + os.Getenv(arg))
		case "deaf":
			signal.Ignore(syscall.SIGTERM)
		case "memory":
			for {
				chunk := make([]byte, 8<<20)
				for i := range chunk {
					chunk[i] = byte(i)
				}
				held = append(held, chunk)
			}
		case "sleep":
			for {
				time.Sleep(time.Hour)
			}
		case "exit":
			os.Exit(count)
		}
	}
	return nil
}
