package compiler_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	stub "example.com/tykupgrade/internal/lab/compiler"
	"example.com/tykupgrade/internal/run"
	"example.com/tykupgrade/pluginbuild"
	"example.com/tykupgrade/pluginbuild/compiler"
)

// The child of testOwner: a user who is not root.
func TestBuildAsUser(t *testing.T) {
	ref := os.Getenv("TYKUPGRADE_TEST_USER_IMAGE")
	if ref == "" {
		t.Skip("TestEngine/Owner runs this")
	}
	docker, err := compiler.Connect(compiler.ConnectOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer docker.Close()
	label, value, _ := strings.Cut(os.Getenv("TYKUPGRADE_TEST_USER_LABEL"), "=")
	_, err = compiler.New(docker, compiler.Options{}).Build(t.Context(), compiler.Request{
		Release: release(t, "4.0.8"), Dir: os.Getenv("TYKUPGRADE_TEST_USER_DIR"), OutputDir: "/"})
	if !errors.Is(err, compiler.ErrRequest) || !errors.Is(err, os.ErrPermission) {
		t.Errorf("into a directory of root: %v", err)
	}
	_, err = compiler.New(docker, compiler.Options{
		Pull: compiler.PullNever, Caches: "none", Mounts: stub.Mounts(), Env: map[string]string{
			"GOPROXY": "off"},
		Limits: compiler.Limits{Network: "none"}, Labels: map[string]string{label: value},
	}).Build(t.Context(), compiler.Request{Release: release(t, "4.0.8"),
		Dir: os.Getenv("TYKUPGRADE_TEST_USER_DIR"), Image: pluginbuild.Image{Ref: ref}})
	if err != nil {
		t.Fatal(err)
	}
}

// What a user compiles belongs to that user.
func testOwner(t *testing.T, b *bench) {
	socket, ok := strings.CutPrefix(b.docker.DaemonHost(), "unix://")
	if os.Geteuid() != 0 || !ok || b.podman {
		t.Skip("only root can become another user, and Podman's socket of this test is root's")
	}
	info, err := os.Stat(socket)
	if err != nil {
		t.Fatal(err)
	}
	group := info.Sys().(*syscall.Stat_t).Gid
	// Not t.TempDir, which others cannot enter.
	dir, err := os.MkdirTemp("", "tykupgrade-user-*")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	exe, err := os.ReadFile(os.Args[0])
	if err != nil {
		t.Fatal(err)
	}
	src, home := filepath.Join(dir, "plugin"), filepath.Join(dir, "home")
	if err := errors.Join(os.Chmod(dir, 0o755), run.WriteProgram(filepath.Join(dir, "test"), exe, 0o755),
		os.Mkdir(src, 0o755), os.Mkdir(home, 0o755), os.Chown(src, 1234, 1234), os.Chown(home, 1234,
			1234)); err != nil {
		t.Fatal(err)
	}
	for name, text := range tiny {
		if err := os.WriteFile(filepath.Join(src, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	// The result of 4.0 needs no build information, so it need not be compiled.
	so := string(sharedObject(62))
	cmd := exec.CommandContext(t.Context(), filepath.Join(dir, "test"), "-test.run=^TestBuildAsUser$",
		"-test.v")
	cmd.Dir = src
	cmd.Env = []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + home, "DOCKER_HOST=" + b.docker.DaemonHost(),
		"TYKUPGRADE_TEST_USER_DIR=" + src,
		"TYKUPGRADE_TEST_USER_IMAGE=" + b.image(t, stub.Config{Version: "4.0.8", Script: []string{
			"copy /so", "exit 0"}, Files: map[string]string{"/so": so}}),
		"TYKUPGRADE_TEST_USER_LABEL=" + testLabel + "=" + b.id,
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 1234, Gid: 1234,
		Groups: []uint32{group}}}
	if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out),
		"--- PASS: TestBuildAsUser") {
		t.Fatalf("%v\n%s", err, out)
	}
	info, err = os.Stat(filepath.Join(src, "plugin.so"))
	if err != nil {
		t.Fatal(err)
	}
	if s := info.Sys().(*syscall.Stat_t); s.Uid != 1234 || s.Gid != 1234 {
		t.Errorf("the plugin belongs to %d:%d", s.Uid, s.Gid)
	}
	only(t, src, "go.mod", "plugin.go", "plugin.so")
}

// Environment, netrc, network and limits as the container sees them.
func testSettings(t *testing.T, b *bench) {
	netrc := filepath.Join(t.TempDir(), "netrc")
	if err := os.WriteFile(netrc, []byte("machine git.example.org login me password hunter2\n"),
		0o600); err != nil {
		t.Fatal(err)
	}
	img := b.script(t, "env GOPROXY", "env GOPRIVATE", "env NETRC", "env GOCACHE", "env GOMODCACHE",
		"cat /root/.netrc", "cat /proc/net/dev", "cat /mnt/ca/ca.pem", "exit 3")
	extra := plugin(t, map[string]string{"ca.pem": "certificate"})
	var stdout buffer
	_, err := b.build(t, compiler.Request{Image: img, Stdout: &stdout}, func(o *compiler.Options) {
		o.Env = map[string]string{"GOPROXY": "https://proxy.example.org", "GOPRIVATE": "git.example.org"}
		o.Netrc = netrc
		o.Limits = compiler.Limits{Memory: 256 << 20, CPUs: 1, PIDs: 200, Network: "none"}
		o.Mounts = append(o.Mounts, extra+":/mnt/ca")
	})
	var e *compiler.Error
	if !errors.As(err, &e) || e.ExitCode != 3 || strings.Contains(fmt.Sprintf("%+v", e.Err),
		"hunter2") {
		t.Fatal(err)
	}
	got := stdout.String()
	for _, want := range []string{
		"GOPROXY=https://proxy.example.org\n", "GOPRIVATE=git.example.org\n", "NETRC=/root/.netrc\n",
		"GOCACHE=/root/.cache/go-build\n", "GOMODCACHE=/go/pkg/mod\n", "password hunter2\n", "lo:",
		"certificate",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in %s", want, got)
		}
	}
	if strings.Contains(got, "eth0") {
		t.Errorf("the network is on: %s", got)
	}
	if !b.podman { // whose bridge would stay on the machine
		var stdout buffer
		_, _ = b.build(t, compiler.Request{Image: img, Stdout: &stdout},
			func(o *compiler.Options) { o.Limits.Network = "" })
		if !strings.Contains(stdout.String(), "eth0") {
			t.Errorf("by default there is no network: %s", stdout.String())
		}
	}
	// A mount whose source is missing must not be created.
	_, err = b.build(t, compiler.Request{Image: img}, func(o *compiler.Options) {
		o.Mounts = []string{
			extra + "/gone"}
	})
	if _, statErr := os.Stat(extra + "/gone"); err == nil || statErr == nil && !b.podman {
		t.Errorf("missing mount: %v; %v", err, statErr)
	}
}

func testBind(t *testing.T, b *bench) {
	dir := plugin(t, tiny)
	img := pluginbuild.Image{Ref: b.image(t, copies(t, "5.2.5", "cat /plugin-source/go.mod"))}
	for range 2 { // the second build replaces the first one's result
		var stdout buffer
		a, err := b.build(t, compiler.Request{Dir: dir, OutputDir: dir, Bind: true, Image: img,
			Stdout: &stdout}, nil)
		if err != nil {
			t.Fatal(err)
		}
		only(t, dir, "go.mod", "plugin.go", "plugin_v5.2.5_linux_amd64.so")
		if a.Size == 0 || stdout.String() != tiny["go.mod"] {
			t.Errorf("%+v, read %q", a, stdout.String())
		}
	}
	_, err := b.build(t, compiler.Request{Dir: plugin(t, tiny, map[string]string{"mine.so": "x"}),
		Bind: true}, nil)
	if !errors.Is(err, compiler.ErrRequest) {
		t.Errorf("with a .so in the way: %v", err)
	}
}
