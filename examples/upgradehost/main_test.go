package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"example.com/tykupgrade/debpkg"
	"example.com/tykupgrade/internal/lab"
	"example.com/tykupgrade/internal/lab/debs"
)

// lab is a private root with a repository of all three components.
type privateRoot struct {
	*testing.T
	root *debs.Root
	repo *debs.Repo
}

func newRoot(t *testing.T) *privateRoot {
	t.Helper()
	for prog, deb := range map[string]string{"apt-get": "apt", "apt-ftparchive": "apt-utils", "gpg": "gnupg", "dpkg-deb": "dpkg"} {
		lab.Program(t, prog, deb)
	}
	repo, err := debs.NewRepo(filepath.Join(t.TempDir(), "repo"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := repo.Close(); err != nil {
			t.Error(err)
		}
	})
	var all []debs.Package
	for _, v := range []string{"4.0.8", "5.2.5"} {
		all = append(all, debs.Tyk("tyk-gateway", v, debs.TykOptions{Config: v}), debs.Tyk("tyk-dashboard", v, debs.TykOptions{}))
	}
	all = append(all, debs.Tyk("tyk-pump", "1.8.3", debs.TykOptions{}), debs.Tyk("tyk-pump", "1.9.0", debs.TykOptions{}),
		debs.Tyk("tyk-gateway-ee", "5.7.0", debs.TykOptions{Fields: []string{"Conflicts: tyk-gateway", "Replaces: tyk-gateway"}}))
	if _, err := repo.Add(all...); err != nil {
		t.Fatal(err)
	}
	root, err := debs.NewRoot(filepath.Join(t.TempDir(), "root"), repo)
	if err != nil {
		t.Fatal(err)
	}
	return &privateRoot{t, root, repo}
}

// command runs upgradehost in the private root.
func (r *privateRoot) command(code int, stdin, verb string, args ...string) (stdout, stderr string) {
	r.Helper()
	var out, errOut bytes.Buffer
	args = append([]string{verb, "-root", r.root.Dir, "-apt-config", r.root.AptConfig}, args...)
	if got := run(r.Context(), args, strings.NewReader(stdin), &out, &errOut); got != code {
		r.Fatalf("%v: exit code %d, want %d\n%s%s", args, got, code, &out, &errOut)
	}
	return out.String(), errOut.String()
}

func (r *privateRoot) apt(args ...string) {
	r.Helper()
	cmd := exec.Command("apt-get", append([]string{"-q", "-y"}, args...)...)
	cmd.Env = append(os.Environ(), "APT_CONFIG="+r.root.AptConfig)
	if out, err := cmd.CombinedOutput(); err != nil {
		r.Fatalf("%v: %v\n%s", args, err, out)
	}
}

func contains(t *testing.T, text string, want ...string) {
	t.Helper()
	for _, w := range want {
		if !strings.Contains(text, w) {
			t.Errorf("no %q in:\n%s", w, text)
		}
	}
}

func TestUpgradeHost(t *testing.T) {
	t.Parallel()
	r := newRoot(t)
	out, _ := r.command(exitDone, "", "facts")
	contains(t, out, "debian 12", "No Tyk package is installed")
	r.apt("update")
	r.apt("install", "tyk-gateway=4.0.8", "tyk-dashboard=4.0.8", "tyk-pump=1.8.3")
	if err := os.WriteFile(r.root.Dir+"/opt/tyk-gateway/tyk.conf", []byte("edited"), 0o600); err != nil {
		t.Fatal(err)
	}
	out, _ = r.command(exitDone, "", "facts")
	contains(t, out, "tyk-gateway", "4.0.8", "5.2.5, 4.0.8", "edited: /opt/tyk-gateway/tyk.conf", "lab0.list:1", r.repo.KeyFile)
	var facts debpkg.Facts
	out, _ = r.command(exitDone, "", "facts", "-json")
	if err := json.Unmarshal([]byte(out), &facts); err != nil || len(facts.Packages) != 3 {
		t.Errorf("%v\n%s", err, out)
	}

	versions := []string{"-gateway", "5.2.5", "-dashboard", "5.2.5", "-pump", "1.9.0"}
	out, _ = r.command(exitDone, "", "plan", versions...)
	contains(t, out, "edits kept, new one beside it as .dpkg-dist", "tyk-pump.service will be restarted")
	if d, g, p := strings.Index(out, "tyk-dashboard"), strings.Index(out, "tyk-gateway"), strings.Index(out, "tyk-pump"); d > g || g > p {
		t.Errorf("the order is not dashboard, gateway, pump:\n%s", out)
	}
	out, _ = r.command(exitDone, "", "plan", append(versions, "-json")...)
	var plans []debpkg.Plan
	if err := json.Unmarshal([]byte(out), &plans); err != nil || len(plans) != 3 || plans[0].Digest == "" {
		t.Errorf("%v\n%s", err, out)
	}

	change := filepath.Join(t.TempDir(), "change.json")
	args := append(versions, "-out", change)
	_, errOut := r.command(exitRefused, "no\n", "apply", args...)
	contains(t, errOut, "not approved; nothing was changed")
	if _, err := os.Stat(change); err == nil {
		t.Error("a change was recorded though nothing was changed")
	}
	out, errOut = r.command(exitDone, "yes\n", "apply", args...)
	contains(t, out, "ok tyk-dashboard 5.2.5, was tyk-dashboard 4.0.8", "ok tyk-pump 1.9.0", "revert -change "+change)
	contains(t, errOut, "Carry this out?", "edited configuration file: /opt/tyk-gateway/tyk.conf")
	out, _ = r.command(exitDone, "", "apply", args...)
	contains(t, out, "Nothing to do")

	out, _ = r.command(exitDone, "", "revert", "-change", change, "-files")
	contains(t, out, "ok tyk-gateway 4.0.8 is back from tyk-gateway 5.2.5")
	out, _ = r.command(exitDone, "", "history")
	contains(t, out, "upgrade", "downgrade", "tyk-gateway", "ok")
	out, _ = r.command(exitDone, "", "history", "-json")
	var entries []debpkg.Entry
	if err := json.Unmarshal([]byte(out), &entries); err != nil || len(entries) == 0 {
		t.Errorf("%v\n%s", err, out)
	}
	out, _ = r.command(exitDone, "", "revert", "-last", "tyk-pump")
	contains(t, out, "ok tyk-pump 1.9.0 is back from tyk-pump 1.8.3")

	// An edition takes the place of another, when both are named.
	_, errOut = r.command(exitRefused, "", "apply", "-yes", "-package", "tyk-gateway-ee=5.7.0")
	contains(t, errOut, "it would remove tyk-gateway")
	// The file keeps what it has.
	ee := []string{"-yes", "-package", "tyk-gateway-ee=5.7.0", "-package", "tyk-gateway-", "-out", change}
	_, errOut = r.command(exitUsage, "", "apply", ee...)
	contains(t, errOut, "name another file with -out")
	ee[len(ee)-1] += "2"
	out, _ = r.command(exitDone, "", "apply", ee...)
	contains(t, out, "ok tyk-gateway-ee 5.7.0", "ok tyk-gateway not installed, was tyk-gateway 4.0.8")

	_, errOut = r.command(exitFailed, "", "plan", "-pump", "5.2.5")
	contains(t, errOut, "no source offers this version", "1.9.0, 1.8.3")
	out, _ = r.command(exitDone, "", "plan", "-debs", r.repo.Dir, "-pump", "1.8.3")
	contains(t, out, "local-deb")
}

// The process was killed while it applied: the file tells of the plan, and the
// next apply to it finds what became of that.
func TestKilled(t *testing.T) {
	lab.Long(t)
	t.Parallel()
	r := newRoot(t)
	r.apt("update")
	r.apt("install", "tyk-gateway=4.0.8", "tyk-pump=1.8.3")
	h := debpkg.New(debpkg.Local(), debpkg.Options{Root: r.root.Dir, AptConfig: r.root.AptConfig})
	v, err := debpkg.ParseVersion("5.2.5")
	if err != nil {
		t.Fatal(err)
	}
	p, err := h.Plan(t.Context(), debpkg.Request{Package: "tyk-gateway", Version: v})
	if err != nil {
		t.Fatal(err)
	}
	c, err := h.Apply(t.Context(), p)
	if err != nil {
		t.Fatal(err)
	}
	data, err := json.Marshal([]debpkg.Change{{Plan: p}})
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "change.json")
	if err := os.WriteFile(file, data, 0o600); err != nil {
		t.Fatal(err)
	}
	// While the host cannot be asked, the file keeps what a revert needs.
	lab.Program(t, "ssh", "openssh-client")
	args := []string{"apply", "-yes", "-gateway", "5.2.5", "-pump", "1.9.0", "-out", file}
	_, errOut := r.command(exitFailed, "", args[0], append(args[1:], "-host", "root@127.0.0.1", "-ssh-port", "9")...)
	contains(t, errOut, "connection to the host failed", file+" still tells of it")
	if kept, err := os.ReadFile(file); err != nil || !bytes.Contains(kept, []byte(p.Digest)) {
		t.Errorf("the file holds %s, %v", kept, err)
	}
	out, errOut := r.command(exitDone, "", args[0], args[1:]...)
	contains(t, errOut, "finishing what an earlier apply began")
	contains(t, out, "ok tyk-gateway 5.2.5, was tyk-gateway 4.0.8", "ok tyk-pump 1.9.0")
	changes, err := readChanges(file)
	if err != nil || len(changes) != 2 || changes[0].Dir != c.Dir || len(changes[0].Saved) != 1 {
		t.Errorf("%+v, %v", changes, err)
	}
	out, _ = r.command(exitDone, "", "revert", "-change", file)
	contains(t, out, "tyk-gateway 4.0.8 is back", "tyk-pump 1.8.3 is back")
	r.command(exitDone, "", "repair")
	out, _ = r.command(exitDone, "", "forget", "-change", file)
	contains(t, out, "nothing is kept of "+file)
	for _, name := range []string{file, c.Dir, changes[1].Dir} {
		if _, err := os.Stat(name); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s is left: %v", name, err)
		}
	}
	// What was never begun, and cannot be any more, does not stay in the file.
	if err := os.WriteFile(file, data, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(r.root.Dir+"/opt/tyk-gateway/tyk.conf", []byte("edited"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, errOut = r.command(exitRefused, "", "apply", "-yes", "-gateway", "5.2.5", "-out", file)
	contains(t, errOut, "host has changed since the plan was made")
	if _, err := os.Stat(file); err == nil {
		t.Error("the file stays")
	}
}

func TestUsage(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		code int
		args []string
		text string
	}{
		{exitUsage, nil, "usage: upgradehost"},
		{exitDone, []string{"-h"}, "exit codes:"},
		{exitDone, []string{"plan", "-h"}, "-gateway version"},
		{exitUsage, []string{"upgrade"}, `there is no verb "upgrade"`},
		{exitUsage, []string{"plan"}, "name a version"},
		{exitUsage, []string{"plan", "-gateway", "v5.2.5"}, "write 5.2.5 rather than v5.2.5"},
		{exitUsage, []string{"plan", "-package", "x"}, "name=version"},
		{exitUsage, []string{"plan", "5.2.5"}, "is not a flag"},
		{exitUsage, []string{"facts", "-gateway", "5.2.5"}, "not defined"},
		{exitUsage, []string{"revert"}, "either -change FILE or -last PACKAGES"},
		{exitUsage, []string{"forget"}, "give -change FILE"},
		{exitFailed, []string{"revert", "-change", "/nowhere"}, "no such file"},
		{exitFailed, []string{"facts", "-host", "-x"}, "is not a destination"},
	} {
		var out bytes.Buffer
		if code := run(t.Context(), c.args, strings.NewReader(""), &out, &out); code != c.code || !strings.Contains(out.String(), c.text) {
			t.Errorf("%v: exit code %d, want %d\n%s", c.args, code, c.code, &out)
		}
	}
}
