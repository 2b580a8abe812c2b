package compiler_test

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"example.com/tykupgrade/internal/lab"
	"example.com/tykupgrade/internal/lab/port"
	"example.com/tykupgrade/pluginbuild/compiler"
)

// TestPodman runs the tests that need an engine through Podman's socket: in a
// child process, against a service with storage of its own.
func TestPodman(t *testing.T) {
	t.Parallel()
	if os.Getenv(registryAddrEnv) != "" {
		t.Skip("this is the child")
	}
	lab.Long(t) // TestEngine makes the same calls to Docker
	if os.Geteuid() != 0 {
		lab.Missing(t, "root permissions for a separate Podman service")
	}
	podman := lab.Program(t, "podman", "podman")
	dir, err := os.MkdirTemp("", "tykupgrade-podman-*")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		// The service leaves its storage mounted.
		_ = syscall.Unmount(filepath.Join(dir, "root", "overlay"), syscall.MNT_DETACH)
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	registry, err := port.Addr()
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		// Podman raises limits unless told otherwise, which needs permissions that
		// containers and sandboxes lack.
		"containers.conf": "[containers]\ndefault_ulimits = [\"nofile=16384:16384\", " +
			"\"nproc=16384:16384\"]\n",
		"registries.conf": "[[registry]]\nlocation = \"" + registry + "\"\ninsecure = true\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	host := "unix://" + filepath.Join(dir, "podman.sock")
	var log buffer
	service := exec.Command(podman, "--root", filepath.Join(dir, "root"), "--runroot",
		filepath.Join(dir, "run"), "--tmpdir", filepath.Join(dir, "tmp"),
		"--cgroup-manager", "cgroupfs", "system", "service", "--time", "0", host)
	service.Env = append(os.Environ(), "CONTAINERS_CONF="+filepath.Join(dir, "containers.conf"),
		"CONTAINERS_REGISTRIES_CONF="+filepath.Join(dir, "registries.conf"))
	service.Dir = dir // conmon 2.1 drops a file there when a container runs out of memory
	service.Stdout, service.Stderr = &log, &log
	service.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
	if err := service.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = service.Process.Signal(syscall.SIGTERM)
		_ = service.Wait()
	})
	docker, err := compiler.Connect(compiler.ConnectOptions{Host: host})
	if err != nil {
		t.Fatal(err)
	}
	defer docker.Close()
	for end := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
		if _, err = docker.Ping(t.Context()); err == nil {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("%v\n%s", err, log.String())
		}
	}
	args := []string{"-test.run=^(TestEngine|TestRegistry|TestCancelPull|TestAirgap)$", "-test.v"}
	ctx, stop := context.WithTimeout(t.Context(), 10*time.Minute)
	defer stop()
	tests := exec.CommandContext(ctx, os.Args[0], args...)
	tests.Env = append(os.Environ(), "DOCKER_HOST="+host, registryAddrEnv+"="+registry, lab.RequireEnv+
		"=1")
	tests.Cancel = func() error { return tests.Process.Signal(syscall.SIGQUIT) }
	tests.WaitDelay = 5 * time.Second
	out, err := tests.CombinedOutput()
	if err != nil {
		t.Errorf("%v\n%s\nThe service said:\n%s", err, out, log.String())
	}
	// Compiling, and a gateway that loads what was compiled.
	for _, name := range []string{"TestEngine/Compile", "TestEngine/LoadTest"} {
		if err == nil && !bytes.Contains(out, []byte("--- PASS: "+name+" ")) {
			t.Errorf("%s did not run", name)
		}
	}
	if n := bytes.Count(out, []byte("--- PASS")); n < 10 && !strings.Contains(string(out),
		"--- FAIL") {
		t.Errorf("only %d tests passed:\n%s", n, out)
	}
}
