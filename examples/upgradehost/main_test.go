package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"example.com/tykupgrade/debpkg"
	"example.com/tykupgrade/debpkg/debpkgtest"
	"example.com/tykupgrade/examples/internal/cli"
	"example.com/tykupgrade/internal/lab"
	"example.com/tykupgrade/internal/lab/debs"
)

// upgradehost runs the command.
func upgradehost(t *testing.T, code int, stdin string, args ...string) (stdout, stderr string) {
	t.Helper()
	return call(t, debpkg.Local(), code, stdin, args...)
}

func call(t *testing.T, local debpkg.Runner, code int, stdin string,
	args ...string) (stdout, stderr string) {
	t.Helper()
	var out, errOut bytes.Buffer
	if got := program(local).Run(t.Context(), args, cli.Streams{In: strings.NewReader(stdin),
		Out: &out, Err: &errOut}); got != code {
		t.Fatalf("%v: exit code %d, want %d\n%s%s", args, got, code, &out, &errOut)
	}
	return out.String(), errOut.String()
}

// machine is a host in memory on which the command runs.
type machine struct {
	*testing.T
	fake *debpkgtest.Host
}

func newMachine(t *testing.T) machine {
	t.Helper()
	m := machine{t, debpkgtest.New("here")}
	for _, p := range [][]string{{"tyk-gateway", "5.2.5", "4.0.8"}, {"tyk-dashboard", "5.2.5", "4.0.8"},
		{"tyk-pump", "1.9.0", "1.8.3"}} {
		for _, v := range p[1:] {
			m.fake.Offer(debpkgtest.Tyk(p[0], v))
		}
	}
	return m
}

func (m machine) command(code int, stdin string, args ...string) (stdout, stderr string) {
	m.Helper()
	if args[0] == "apply" || args[0] == "revert" {
		args = append(args, "-settle", "1ms")
	}
	return call(m.T, m.fake.Run, code, stdin, args...)
}

func contains(t *testing.T, text string, want ...string) {
	t.Helper()
	for _, w := range want {
		if !strings.Contains(text, w) {
			t.Errorf("no %q in:\n%s", w, text)
		}
	}
}

// conf is the configuration file that somebody edited.
const conf = "/opt/tyk-gateway/tyk.conf"

// Every verb, on a host in memory.
func TestUpgradeHost(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	out, _ := m.command(cli.Yes, "", "facts")
	contains(t, out, "debian 12", "No Tyk package is installed")
	m.fake.Install(debpkgtest.Tyk("tyk-gateway", "4.0.8"), debpkgtest.Tyk("tyk-dashboard", "4.0.8"),
		debpkgtest.Tyk("tyk-pump", "1.8.3"))
	m.fake.Write(conf, "edited")
	out, _ = m.command(cli.Yes, "", "facts")
	contains(t, out, "tyk-gateway", "4.0.8", "5.2.5, 4.0.8", "edited: "+conf)
	var facts debpkg.Facts
	out, _ = m.command(cli.Yes, "", "facts", "-json")
	if err := json.Unmarshal([]byte(out), &facts); err != nil || len(facts.Packages) != 3 {
		t.Errorf("%v\n%s", err, out)
	}

	versions := []string{"tyk-gateway=5.2.5", "tyk-dashboard=5.2.5", "tyk-pump=1.9.0"}
	out, _ = m.command(cli.Yes, "", append([]string{"plan"}, versions...)...)
	contains(t, out, "edits kept, new one next to it as .dpkg-dist",
		"tyk-pump.service will be restarted")
	if d, g, p := strings.Index(out, "tyk-dashboard"), strings.Index(out, "tyk-gateway"),
		strings.Index(out, "tyk-pump"); d > g || g > p {
		t.Errorf("the order is not dashboard, gateway, pump:\n%s", out)
	}
	out, _ = m.command(cli.Yes, "", append([]string{"plan", "-json"}, versions...)...)
	var plans []debpkg.Plan
	if err := json.Unmarshal([]byte(out), &plans); err != nil || len(plans) != 3 ||
		plans[0].Digest == "" {
		t.Errorf("%v\n%s", err, out)
	}

	change := filepath.Join(t.TempDir(), "change.json")
	apply := append([]string{"apply", "-out", change}, versions...)
	_, errOut := m.command(cli.Refused, "n\n", apply...)
	contains(t, errOut, "not approved; nothing was changed")
	if _, err := os.Stat(change); err == nil {
		t.Error("a change was recorded though nothing was changed")
	}
	out, errOut = m.command(cli.Yes, "y\n", apply...)
	contains(t, out, "ok tyk-dashboard 5.2.5, was tyk-dashboard 4.0.8", "ok tyk-pump 1.9.0",
		"revert -change "+change)
	contains(t, errOut, "Carry this out?")
	out, _ = m.command(cli.Yes, "", apply...)
	contains(t, out, "Nothing to do")

	out, _ = m.command(cli.Yes, "", "revert", "-change", change, "-files")
	contains(t, out, "ok tyk-gateway 4.0.8 is back from tyk-gateway 5.2.5")
	if text := m.fake.Read(conf); text != "edited" {
		t.Errorf("%s holds %q", conf, text)
	}
	out, _ = m.command(cli.Yes, "", "history")
	contains(t, out, "upgrade", "downgrade", "tyk-gateway", "ok")
	out, _ = m.command(cli.Yes, "", "history", "-json")
	var entries []debpkg.Entry
	if err := json.Unmarshal([]byte(out), &entries); err != nil || len(entries) == 0 {
		t.Errorf("%v\n%s", err, out)
	}
	out, _ = m.command(cli.Yes, "", "revert", "-last", "tyk-pump")
	contains(t, out, "ok tyk-pump 1.9.0 is back from tyk-pump 1.8.3")

	// The file keeps what it has.
	_, errOut = m.command(cli.Usage, "", "apply", "-yes", "-out", change, "tyk-gateway=5.2.5")
	contains(t, errOut, "name another file with -out")
	_, errOut = m.command(cli.No, "", "plan", "tyk-pump=5.2.5")
	contains(t, errOut, "no source offers this version", "1.9.0, 1.8.3")
	_, errOut = m.command(cli.Busy, "", "apply", "-yes", "-lock-wait", "1ms", "-out", change+"2",
		m.locked("tyk-gateway=5.2.5"))
	contains(t, errOut, "give a longer -lock-wait")
}

// locked makes another package manager hold the lock.
func (m machine) locked(request string) string { m.fake.Locked("apt-get upgrade"); return request }

// The real apt and dpkg in a private root, which -root and -apt-config name: an edition takes the
// place of another, and a package of a directory is planned without a source.
func TestPrivateRoot(t *testing.T) {
	t.Parallel()
	for prog, deb := range map[string]string{"apt-get": "apt", "apt-ftparchive": "apt-utils",
		"gpg": "gnupg", "dpkg-deb": "dpkg"} {
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
	if _, err := repo.Add(debs.Tyk("tyk-gateway", "4.0.8", debs.TykOptions{}),
		debs.Tyk("tyk-gateway-ee", "5.7.0", debs.TykOptions{Fields: []string{"Conflicts: tyk-gateway",
			"Replaces: tyk-gateway"}})); err != nil {
		t.Fatal(err)
	}
	root, err := debs.NewRoot(filepath.Join(t.TempDir(), "root"), repo)
	if err != nil {
		t.Fatal(err)
	}
	command := func(verb string, args ...string) string {
		t.Helper()
		out, _ := upgradehost(t, cli.Yes, "", append([]string{verb, "-root", root.Dir, "-apt-config",
			root.AptConfig}, args...)...)
		return out
	}
	contains(t, command("plan", "-debs", repo.Dir, "tyk-gateway=4.0.8"), "local-deb")
	contains(t, command("apply", "-yes", "-out", filepath.Join(t.TempDir(), "first"),
		"tyk-gateway=4.0.8"), "ok tyk-gateway 4.0.8, was tyk-gateway not installed")
	contains(t, command("facts"), "tyk-gateway", "4.0.8", "lab0.list:1", repo.KeyFile)
	contains(t, command("apply", "-yes", "-out", filepath.Join(t.TempDir(), "second"), "-no-update",
		"tyk-gateway-ee=5.7.0", "tyk-gateway-"), "ok tyk-gateway-ee 5.7.0",
		"ok tyk-gateway not installed, was tyk-gateway 4.0.8")
}

// progress shows what happens where there is no terminal: no bars, but all that needs attention.
func TestProgress(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	show := progress(cli.NewOut(&out))
	for _, e := range []debpkg.Event{{Kind: debpkg.EventDownload, Package: "tyk-gateway", Percent: 40},
		{Kind: debpkg.EventStep, Text: "plan"}, {Kind: debpkg.EventConffile, Text: conf}} {
		show(e)
	}
	if want := "edited configuration file: " + conf + "\n"; out.String() != want {
		t.Errorf("%q, want %q", &out, want)
	}
}

// The process was killed while it applied: the file tells of the plan, and the
// next apply to it finds what became of that.
func TestKilled(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.fake.Install(debpkgtest.Tyk("tyk-gateway", "4.0.8"), debpkgtest.Tyk("tyk-pump", "1.8.3"))
	h := debpkg.New(m.fake.Run, debpkg.Options{Settle: time.Millisecond})
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
	args := []string{"apply", "-yes", "tyk-gateway=5.2.5", "tyk-pump=1.9.0", "-out", file}
	_, errOut := m.command(cli.No, "", append(args, "-host", "root@127.0.0.1", "-ssh-port", "9")...)
	contains(t, errOut, "connection to the host failed", file+" still tells of it")
	if kept, err := os.ReadFile(file); err != nil || !bytes.Contains(kept, []byte(p.Digest)) {
		t.Errorf("the file holds %s, %v", kept, err)
	}
	out, errOut := m.command(cli.Yes, "", args...)
	contains(t, errOut, "finishing what an earlier apply began")
	contains(t, out, "ok tyk-gateway 5.2.5, was tyk-gateway 4.0.8", "ok tyk-pump 1.9.0")
	record, err := debpkg.OpenRecord(file)
	if err != nil {
		t.Fatal(err)
	}
	changes := record.Changes
	if len(changes) != 2 || changes[0].Dir != c.Dir || len(changes[0].Saved) != 1 {
		t.Errorf("%+v, %v", changes, err)
	}
	out, _ = m.command(cli.Yes, "", "revert", "-change", file)
	contains(t, out, "tyk-gateway 4.0.8 is back", "tyk-pump 1.8.3 is back")
	m.command(cli.Yes, "", "repair")
	out, _ = m.command(cli.Yes, "", "forget", "-change", file)
	contains(t, out, "nothing is kept of "+file)
	if _, err := os.Stat(file); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%s is left: %v", file, err)
	}
	for _, change := range changes {
		if !slices.Contains(m.fake.Done(), "forget "+path.Base(change.Dir)) {
			t.Errorf("the host was not asked to forget %s: %q", change.Dir, m.fake.Done())
		}
	}
	// What was never begun, and cannot be any more, does not stay in the file.
	if err := os.WriteFile(file, data, 0o600); err != nil {
		t.Fatal(err)
	}
	m.fake.Write(conf, "edited")
	_, errOut = m.command(cli.Refused, "", "apply", "-yes", "tyk-gateway=5.2.5", "-out", file)
	contains(t, errOut, "host has changed since the plan was made")
	if _, err := os.Stat(file); err == nil {
		t.Error("the file stays")
	}
}

func TestUsage(t *testing.T) {
	t.Parallel()
	broken := filepath.Join(t.TempDir(), "broken.json")
	if err := os.WriteFile(broken, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		code int
		args string
		text string
	}{
		{cli.Usage, "", "no verb given"},
		{cli.Yes, "-h", "PACKAGE is tyk-gateway=5.2.5"},
		{cli.Yes, "plan -h", "-ssh-jump host"},
		{cli.Usage, "upgrade", `unknown verb "upgrade"`},
		{cli.Usage, "plan", "nothing is requested"},
		{cli.Usage, "plan tyk-gateway=v5.2.5", "write 5.2.5 rather than v5.2.5"},
		{cli.Usage, "plan tyk-gateway", "write tyk-gateway=5.2.5, or tyk-gateway- to remove it"},
		{cli.Usage, "plan Tyk=5.2.5", `"Tyk" is not a package name`},
		{cli.Usage, "facts tyk-gateway=5.2.5", "unexpected argument"},
		{cli.Usage, "facts -stage", "-stage goes with apply, not with facts"},
		{cli.Usage, "plan -lock-wait 5 tyk-gateway=1", "want a duration such as 90s or 5m"},
		{cli.Usage, "revert", "either -change FILE or -last PACKAGES"},
		{cli.Usage, "forget", "either -change FILE or -older-than AGE"},
		{cli.Usage, "forget -change x -older-than 1h", "either -change FILE or -older-than AGE"},
		{cli.Usage, "forget -change x -dry-run", "-dry-run needs -older-than"},
		{cli.Usage, "forget -change x -keep y", "-keep needs -older-than"},
		{cli.Usage, "forget -older-than -1h", `invalid -older-than "-1h0m0s": want more than 0`},
		{cli.Usage, "forget -older-than 1h -keep /nowhere", "no such file"},
		{cli.Usage, "revert -change /nowhere", "no such file"},
		{cli.Usage, "revert -change " + broken, "name a file of changes"},
		{cli.Usage, "apply -yes -out /nowhere/x tyk-gateway=5.2.5", "/nowhere: no such file"},
		{cli.Usage, "facts -host=-x", "want an SSH destination"},
	} {
		out, errOut := upgradehost(t, c.code, "", strings.Fields(c.args)...)
		contains(t, out+errOut, c.text)
	}
}

func TestDefaults(t *testing.T) {
	t.Parallel()
	f := flag.NewFlagSet("", flag.ContinueOnError)
	flags.Flags("A")(f)
	if d := f.Lookup("lock-wait").DefValue; d != debpkg.DefaultLockWait.String() {
		t.Errorf("-lock-wait has the default %s", d)
	}
}

// The file decides what root does, so nobody else may have written it.
func TestFileOfOthers(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := filepath.Join(dir, "change.json")
	refused := func(change func() error) {
		t.Helper()
		if err := errors.Join(os.RemoveAll(file), os.WriteFile(file, []byte("[]"), 0o600),
			change()); err != nil {
			t.Fatal(err)
		}
		_, errOut := upgradehost(t, cli.Refused, "", "revert", "-change", file)
		contains(t, errOut, "somebody else can write to it")
		if err := os.Chmod(dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	refused(func() error { return os.Chmod(file, 0o620) })
	refused(func() error { return os.Chmod(file, 0o602) })
	refused(func() error { return os.Chmod(dir, 0o777) })
	if os.Geteuid() == 0 {
		refused(func() error { return os.Chown(file, 65534, 65534) })
		refused(func() error { return os.Chown(dir, 65534, 65534) })
		if err := os.Chown(dir, 0, 0); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(os.WriteFile(file, []byte("[]"), 0o600), os.Symlink(file,
		file+".link")); err != nil {
		t.Fatal(err)
	}
	_, errOut := upgradehost(t, cli.Usage, "", "revert", "-change", file+".link")
	contains(t, errOut, "symbolic link")
}
