package compiler_test

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	"example.com/tykupgrade/internal/lab"
	"example.com/tykupgrade/internal/lab/compiler"
)

// Equal configurations give equal images, others do not, and the image holds
// what a compile needs. Compiling with it is tested by package pluginbuild.
func TestImage(t *testing.T) {
	t.Parallel()
	lab.Program(t, "go", "golang-go")
	digest := func(c compiler.Config) string {
		t.Helper()
		img, err := compiler.Image(c)
		if err != nil {
			t.Fatal(err)
		}
		d, err := img.Digest()
		if err != nil {
			t.Fatal(err)
		}
		return d.String()
	}
	one := compiler.Config{Version: "5.2.5"}
	if digest(one) != digest(compiler.Config{Version: "5.2.5"}) ||
		digest(one) == digest(compiler.Config{Version: "5.2.6"}) || digest(one) == digest(compiler.Config{
		Version: "5.2.5", Script: []string{"exit 1"}}) {
		t.Error("digests do not follow the configuration")
	}
	img, err := compiler.Image(one)
	if err != nil {
		t.Fatal(err)
	}
	layers, err := img.Layers()
	if err != nil || len(layers) != 1 {
		t.Fatal(err)
	}
	r, err := layers[0].Uncompressed()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	var names []string
	for tr := tar.NewReader(r); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, h.Name)
	}
	for _, want := range []string{"build.sh", "go/src/github.com/TykTechnologies/tyk/go.mod"} {
		if !slices.Contains(names, want) {
			t.Errorf("no %s in %v", want, names)
		}
	}
	var saved bytes.Buffer
	if err := compiler.Save(&saved, "lab.test/compiler:v5.2.5", img); err != nil ||
		!bytes.Contains(saved.Bytes(), []byte("lab.test/compiler:v5.2.5")) {
		t.Errorf("saved %d bytes, %v", saved.Len(), err)
	}
}

// The toolchain that a container needs is among the mounts.
func TestMounts(t *testing.T) {
	t.Parallel()
	lab.Program(t, "go", "golang-go")
	root, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		t.Fatal(err)
	}
	mounts := compiler.Mounts()
	if !slices.Contains(mounts, string(bytes.TrimSpace(root))) {
		t.Errorf("no GOROOT in %v", mounts)
	}
	for _, m := range mounts {
		if !filepath.IsAbs(m) || m == "/usr" {
			t.Errorf("mount %s", m)
		}
	}
}
