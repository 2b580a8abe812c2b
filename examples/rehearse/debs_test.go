package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/docker/docker/api/types/image"
	"github.com/docker/docker/client"

	"example.com/tykupgrade/debpkg"
	"example.com/tykupgrade/internal/lab"
	"example.com/tykupgrade/internal/lab/debs"
	"example.com/tykupgrade/pluginbuild/compiler"
)

// userDebs are packages whose scripts do what Tyk's do: they create a user, change owners, write
// to /etc, and ask systemd to restart.
func userDebs(t *testing.T, postinst string) string {
	t.Helper()
	lab.Program(t, "dpkg-deb", "dpkg")
	dir := t.TempDir()
	script := `getent passwd tyk-rehearsed >/dev/null || useradd --system --no-create-home tyk-rehearsed
echo rehearsed >/etc/tyk-rehearsed
systemctl daemon-reload || :
` + postinst
	for _, p := range []debs.Package{
		debs.Tyk("tyk-gateway", "5.2.5", debs.TykOptions{Postinst: script}),
		debs.Tyk("tyk-gateway", "5.14.0", debs.TykOptions{Config: "{\"listen_port\": 8080, \"new\": 1}\n",
			Postinst: script + "chown -R tyk-rehearsed /opt/tyk-gateway/templates\n"}),
		debs.Tyk("tyk-pump", "1.8.3", debs.TykOptions{}),
		debs.Tyk("tyk-pump", "1.9.0", debs.TykOptions{}),
	} {
		if _, err := p.Build(dir); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// debSteps runs the steps of -debs alone.
func debSteps(t *testing.T, dir string) ([]*Step, error) {
	t.Helper()
	if os.Geteuid() != 0 {
		lab.Missing(t, "root: maintainer scripts create users")
	}
	o := options{given: inputs{debs: dir}}
	var from, to string
	var err error
	if o.debs, err = o.given.readDebs(t.Context(), &from, &to); err != nil {
		t.Fatal(err)
	}
	if from != "5.2.5" || to != "5.14.0" || filepath.Dir(o.given.gateway) != dir ||
		!strings.Contains(o.given.gatewayFrom, "5.2.5") {
		t.Errorf("from %s to %s, gateways %s, %s", from, to, o.given.gatewayFrom, o.given.gateway)
	}
	o.from, o.to = mustVersion(t, from), mustVersion(t, to)
	r := newRehearsal(o)
	r.dir = t.TempDir()
	t.Cleanup(func() {
		for _, f := range r.undo {
			if err := f(context.Background()); err != nil {
				t.Error(err)
			}
		}
	})
	var steps []*Step
	for _, do := range []func(context.Context, *Step) error{r.debsToday, r.debsNext, r.debsBack} {
		s := &Step{Status: statusOK}
		steps = append(steps, s)
		if err := do(t.Context(), s); err != nil {
			return steps, err
		}
		if s.Status == statusSkipped {
			lab.Missing(t, strings.Join(s.Detail, " "))
		}
	}
	return steps, nil
}

// The user's packages run their own scripts, and this machine sees nothing of it.
func TestOwnDebs(t *testing.T) {
	t.Parallel()
	hosts, err := os.ReadFile("/etc/passwd")
	if err != nil {
		t.Fatal(err)
	}
	steps, err := debSteps(t, userDebs(t, ""))
	if err != nil {
		t.Fatal(err)
	}
	for i, wants := range [][]string{
		{"tyk-gateway 5.2.5", "tyk-pump 1.8.3", "2 configuration files edited: /opt/tyk-gateway/tyk.conf"},
		{"upgrade tyk-gateway 5.2.5 → 5.14.0", "/opt/tyk-gateway/tyk.conf: ", "edits are kept"},
		{"tyk-gateway is 5.2.5 again", "all as before the upgrade"},
	} {
		text := strings.Join(steps[i].Detail, "\n")
		for _, want := range wants {
			if !strings.Contains(text, want) {
				t.Errorf("step %d lacks %q:\n%s", i, want, text)
			}
		}
	}
	now, err := os.ReadFile("/etc/passwd")
	if err != nil || string(now) != string(hosts) {
		t.Errorf("/etc/passwd of this machine has changed: %v", err)
	}
	if _, err := os.Stat("/etc/tyk-rehearsed"); err == nil {
		t.Error("a script wrote to this machine's /etc")
	}
	if mounts, err := os.ReadFile("/proc/mounts"); err != nil || strings.Contains(string(mounts),
		"/machine/root") {
		t.Errorf("mounts are left: %v", err)
	}
}

// What a script printed before it failed is reported. That a failed script is found is tested by
// package debpkg.
func TestSayOutput(t *testing.T) {
	t.Parallel()
	s := &Step{}
	s.sayOutput(fmt.Errorf("upgrade: %w", &debpkg.Error{Kind: debpkg.ErrScript,
		Output: "Setting up tyk-gateway\nthe disk is full\n"}))
	if got := strings.Join(s.Detail, "|"); got != "apt and the scripts printed:|Setting up "+
		"tyk-gateway|the disk is full" {
		t.Error(got)
	}
	s = &Step{}
	for _, err := range []error{errors.New("no output"), &debpkg.Error{Kind: debpkg.ErrLocked}} {
		if s.sayOutput(err); s.Detail != nil {
			t.Errorf("%v: %q", err, s.Detail)
		}
	}
}

// The same with apt and a script that fails.
func TestOwnDebsScriptFails(t *testing.T) {
	lab.Long(t)
	t.Parallel()
	steps, err := debSteps(t, userDebs(t,
		"case $2 in 5.2.5) echo the disk of postinst is full >&2; exit 7;; esac\n"))
	if err == nil || len(steps) != 2 || !strings.Contains(err.Error(), "maintainer script failed") ||
		!strings.Contains(strings.Join(steps[1].Detail, "\n"), "the disk of postinst is full") {
		t.Errorf("%d steps, %v\n%s", len(steps), err, strings.Join(steps[len(steps)-1].Detail, "\n"))
	}
}

// What is wrong with the directory is said before anything is made.
func TestReadDebs(t *testing.T) {
	t.Parallel()
	dir := userDebs(t, "")
	drop := func(name string) {
		t.Helper()
		all, err := filepath.Glob(filepath.Join(dir, name))
		if err != nil || len(all) != 1 {
			t.Fatalf("%s: %v, %v", name, all, err)
		}
		if err := os.Remove(all[0]); err != nil {
			t.Fatal(err)
		}
	}
	from, to := "4.0.8", ""
	in := inputs{debs: dir}
	if _, err := in.readDebs(t.Context(), &from, &to); err == nil ||
		!strings.Contains(err.Error(), "-from 4.0.8, and -debs has") {
		t.Errorf("another -from: %v", err)
	}
	from = ""
	drop("tyk-pump_1.8.3_*.deb")
	if _, err := in.readDebs(t.Context(), &from, &to); err == nil ||
		!strings.Contains(err.Error(), "tyk-pump is there in version 1.9.0") {
		t.Errorf("one version: %v", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "tyk-x_1_all.deb"), []byte("<html>"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := in.readDebs(t.Context(), &from, &to); err == nil ||
		!strings.Contains(err.Error(), "tyk-x_1_all.deb") {
		t.Errorf("no package: %v", err)
	}
	in.debs = t.TempDir()
	if _, err := in.readDebs(t.Context(), &from, &to); err == nil ||
		!strings.Contains(err.Error(), "it has no .deb file") {
		t.Errorf("empty: %v", err)
	}
}

// A gateway comes out of a package and out of an image, ready to be run; a stub replaces it.
func TestGatewayPart(t *testing.T) {
	t.Parallel()
	program := lab.Program(t, "dpkg-deb", "dpkg") // any
	dir := t.TempDir()
	deb, err := debs.Tyk("tyk-gateway", "5.14.0", debs.TykOptions{Binary: program}).Build(dir)
	if err != nil {
		t.Fatal(err)
	}
	args := []string{filepath.Join(dir, filepath.Base(deb))}
	if docker, err := compiler.Connect(compiler.ConnectOptions{}); err == nil {
		defer func() { _ = docker.Close() }()
		if _, err := docker.Ping(t.Context()); err == nil {
			args = append(args, imagePrefix+gatewayImage(t, docker, args[0]))
		}
	}
	if len(args) == 1 {
		lab.Missing(t, "a Docker engine (Debian package docker.io)")
	}
	want, err := os.ReadFile(program)
	if err != nil {
		t.Fatal(err)
	}
	o := options{from: mustVersion(t, "5.2.5"), to: mustVersion(t, "5.14.0")}
	for _, arg := range args {
		r := newRehearsal(o)
		r.dir = t.TempDir()
		g, err := r.gatewayPart(t.Context(), arg, "5.14.0")
		if err != nil {
			t.Errorf("%s: %v", arg, err)
			continue
		}
		got, err := os.ReadFile(g.Binary)
		if err != nil || !bytes.Equal(got, want) || !g.Real {
			t.Errorf("%s: %+v, %d bytes, %v", arg, g, len(got), err)
		}
		if text, err := os.ReadFile(filepath.Join(g.Templates, "error.json")); err != nil ||
			!strings.Contains(string(text), "5.14.0") {
			t.Errorf("%s: templates %q, %v", arg, text, err)
		}
	}
	for _, arg := range []string{imagePrefix + "no-such-image:5", args[0] + "x", program[:4]} {
		r := newRehearsal(o)
		r.dir = t.TempDir()
		if _, err := r.gatewayPart(t.Context(), arg, "5.14.0"); err == nil {
			t.Errorf("%s: no error", arg)
		}
	}
}

// gatewayImage makes an image of what is in a package.
func gatewayImage(t *testing.T, docker *client.Client, deb string) string {
	t.Helper()
	tree, err := exec.Command("dpkg-deb", "--fsys-tarfile", deb).Output()
	if err != nil {
		t.Fatal(err)
	}
	ref := "tykupgrade.rehearse-test/gateway:" + strings.ToLower(rand.Text()[:10])
	out, err := docker.ImageImport(t.Context(), image.ImportSource{Source: bytes.NewReader(tree),
		SourceName: "-"}, ref, image.ImportOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = out.Close()
		_, err := docker.ImageRemove(context.Background(), ref, image.RemoveOptions{Force: true})
		if err != nil {
			t.Error(err)
		}
	})
	if _, err := io.Copy(io.Discard, out); err != nil {
		t.Fatal(err)
	}
	return ref
}
