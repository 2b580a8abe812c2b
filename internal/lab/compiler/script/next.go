package script

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
)

// next follows the script of the next-generation image (plugin-compiler-ng at
// 1a0c59dbda93), which STUB_NEXT picks. The stub has no glibc of its own to
// link with, and checks the processor and the edition's tag alone.
func (b *build) next() error {
	if !slices.Contains([]string{"amd64", "arm64", "s390x"}, b.goarch) {
		//lint:ignore ST1005 the script's words
		return fmt.Errorf("ERROR: this compiler image has no toolchain/sysroot for linux/%s.", b.goarch)
	}
	base := strings.TrimSuffix(b.name, filepath.Ext(b.name))
	b.dir = filepath.Join(filepath.Dir(gateway), "plugin_"+base+b.id)
	for _, dir := range []string{b.dir, "/tmp", "/root"} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	entries, err := os.ReadDir(source)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.Name() != ".git" {
			if out, err := exec.Command("cp", "-a", filepath.Join(source, e.Name()),
				b.dir+"/").CombinedOutput(); err != nil {
				return fmt.Errorf("%w: %s", err, out)
			}
		}
	}
	fmt.Println("PLUGIN_BUILD_PATH:", b.dir)
	fmt.Println("PLUGIN_SOURCE_PATH:", source)
	if err := b.normalize(); err != nil {
		return err
	}
	work := filepath.Dir(gateway)
	defer os.Remove(filepath.Join(work, "go.work"))
	if err := os.WriteFile(filepath.Join(work, "go.work"), []byte("go "+b.goVersion()+
		"\n\nuse ./tyk\nuse ./"+filepath.Base(b.dir)+"\n"), 0o644); err != nil {
		return err
	}
	if os.Getenv("GO_GET") == "1" {
		if err := b.goCmd(nil, "get", "github.com/TykTechnologies/tyk@"+
			os.Getenv("GITHUB_SHA")); err != nil {
			return err
		}
	}
	if os.Getenv("GO_TIDY") == "1" {
		if err := b.goCmd(nil, "mod", "tidy"); err != nil {
			return err
		}
	}
	tags := "goplugin"
	edition := or(os.Getenv("EDITION"), "ce")
	if edition != "ce" {
		tags += ",ee"
		if b.goarch == "s390x" {
			//lint:ignore ST1005 the script's words
			return fmt.Errorf("ERROR: edition '%s' has no %s Gateway (published: amd64 arm64).", edition,
				b.goarch)
		}
	}
	args := []string{"build", "-buildmode=plugin"}
	if or(os.Getenv("PLUGIN_TRIMPATH"), "true") == "true" {
		args = append(args, "-trimpath")
	}
	if err := b.goCmd(nil, append(args, "-tags="+tags, "-o", b.output())...); err != nil {
		return err
	}
	if os.Getenv("VALIDATE") != "0" {
		if err := b.validate(tags); err != nil {
			return fmt.Errorf("ERROR (plugin validation): %w", err)
		}
	}
	found, err := filepath.Glob(filepath.Join(b.dir, "*.so"))
	for _, f := range found {
		err = errors.Join(err, move(f, filepath.Join(source, filepath.Base(f))))
	}
	return err
}

// normalize sets the go directive to this image's Go and drops a toolchain line; the
// module's name stays. Without go.mod it makes one.
func (b *build) normalize() error {
	mod := filepath.Join(b.dir, "go.mod")
	data, err := os.ReadFile(mod)
	if err != nil {
		fmt.Println("INFO: Creating go.mod")
		return b.goCmd([]string{"GOWORK=off"}, "mod", "init", "tyk.internal/tyk_plugin"+b.id)
	}
	minor := regexp.MustCompile(`^\d+\.\d+`).FindString(b.goVersion())
	fmt.Printf("INFO: pinning plugin go directive to Gateway Go (%s)\n", minor)
	text := regexp.MustCompile(`(?m)^(toolchain|go)\s.*\n?`).ReplaceAllString(string(data), "")
	fmt.Println("INFO: Preserving existing go.mod module path and Go source imports")
	return os.WriteFile(mod, []byte(text+"\ngo "+minor+"\n"), 0o644)
}

func (b *build) validate(tags string) error {
	out, err := exec.Command("go", "version", "-m", filepath.Join(b.dir, b.output())).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	for _, want := range []string{"GOARCH=" + b.goarch, "-tags=" + tags, runtime.Version()} {
		if !strings.Contains(string(out), want) {
			return fmt.Errorf("no %s in %s", want, out)
		}
	}
	fmt.Printf("== validation OK: %s ==\n", b.output())
	return nil
}
