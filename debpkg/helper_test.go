package debpkg_test

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"example.com/tykupgrade/debpkg"
	"example.com/tykupgrade/internal/lab/debs"
)

// A user with the helper alone upgrades and reverts, and gains nothing else: not by
// arguments, standard input, environment, paths or packages of his own.
func TestHostHelper(t *testing.T) {
	t.Parallel()
	m := newMachine(t, gateway("4.0.8", debs.TykOptions{Config: conf1}), gateway("5.2.5",
		debs.TykOptions{Config: conf2}))
	ctx := t.Context()
	m.exec("sh", "-ec", `useradd -m -s /bin/bash ops; cp -r /home/deploy/.ssh /home/ops/; chown -R ops: /home/ops/.ssh
rm -f /root/pwned /usr/local/sbin/tykupgrade-helper /etc/sudoers.d/tykupgrade`)
	t.Cleanup(func() {
		m.exec("sh", "-c", `userdel -rf ops; rm -f /usr/local/sbin/tykupgrade-helper /etc/sudoers.d/tykupgrade /root/pwned; true`)
	})
	h := debpkg.New(debpkg.Helper(m.ssh("ops")), m.options())
	_, err := h.Facts(ctx)
	wantError(t, err, debpkg.ErrNotRoot)
	wantError(t, debpkg.InstallHelper(ctx, m.ssh("ops"), "ops"), debpkg.ErrNotRoot)
	for _, user := range []string{"", "ALL", "ops ALL=(ALL) ALL", "%ops", "#0", "ops\nroot", "nobody-there"} {
		if err := debpkg.InstallHelper(ctx, m.ssh("root"), user); err == nil {
			t.Errorf("installed for %q", user)
		}
	}
	m.exec("sh", "-c", "! ls /etc/sudoers.d/tykupgrade* /usr/local/sbin/tykupgrade*")
	for range 2 {
		if err := debpkg.InstallHelper(ctx, debpkg.Sudo(m.ssh("deploy")), "ops"); err != nil {
			t.Fatal(err)
		}
	}
	if got := m.exec("stat", "-c", "%U:%G %a", debpkg.HelperPath,
		debpkg.HelperSudoers); got != "root:root 755\nroot:root 440" {
		t.Errorf("installed as %s", got)
	}

	if err := h.Update(ctx); err != nil {
		t.Fatal(err)
	}
	if facts, err := h.Facts(ctx); err != nil || len(facts.Packages) != 0 {
		t.Errorf("facts %+v, %v", facts, err)
	}
	// The rest is the same without SSH.
	h = debpkg.New(debpkg.Helper(m.user("ops")), m.options())
	m.apply(h, m.request("tyk-gateway", "4.0.8"))
	m.exec("sh", "-c", "echo edited >/opt/tyk-gateway/tyk.conf")
	p := m.plan(h, m.request("tyk-gateway", "5.2.5"))
	if p.Actions[0].Rollback != "repository" || p.Conffiles[0].Outcome != debpkg.OutcomeConflict {
		t.Errorf("plan %s", p)
	}
	c, err := h.Apply(ctx, p)
	if err != nil {
		t.Fatal(err)
	}
	if facts, err := h.Facts(ctx); err != nil || len(facts.Packages) != 1 || len(facts.Units) != 1 {
		t.Errorf("facts %+v, %v", facts, err)
	}
	attacks(m, c)
	if err := h.Revert(ctx, c, debpkg.RevertOptions{Files: true}); err != nil {
		t.Fatal(err)
	}
	if got := m.version("tyk-gateway"); got != "4.0.8 install installed" ||
		m.exec("cat", "/opt/tyk-gateway/tyk.conf") != "edited" {
		t.Errorf("reverted: %s", got)
	}
	if err := h.Repair(ctx); err != nil {
		t.Error(err)
	}
	if entries, err := h.History(ctx); err != nil || len(entries) == 0 {
		t.Errorf("history %v, %v", entries, err)
	}
	if list, err := h.Prune(ctx, debpkg.PruneOptions{Before: c.Ended.Add(time.Hour),
		DryRun: true}); err != nil || len(list) != 2 {
		t.Errorf("to prune: %v, %v", list, err)
	}
	if err := h.Forget(ctx, c); err != nil {
		t.Error(err)
	}
	_, err = h.Upload(ctx, "tyk-gateway_9_all.deb", strings.NewReader("x"))
	wantError(t, err, debpkg.ErrHelper, "would run as root")
	m.exec("sh", "-c", "echo >>"+debpkg.HelperPath+"; sed -i s/^digest=./digest=x/ "+debpkg.HelperPath)
	_, err = h.Facts(ctx)
	wantError(t, err, debpkg.ErrHelper, "has another version", "InstallHelper")
}

// attacks calls sudo and the helper as a hostile user does. The helper's own refusals do not
// depend on sudo, so root calls it for most of them.
func attacks(m *machine, c debpkg.Change) {
	m.Helper()
	digest := m.exec("sed", "-n", "s/^digest=//p", debpkg.HelperPath)
	const run, prep = "/var/lib/tykupgrade/runs/x", "/var/lib/tykupgrade/runs/x.new.abcdef"
	m.exec("mkdir", "-p", prep)
	// Times of files count, those of directories do not: refused calls make and remove run.
	const look = "cat /etc/shadow /etc/passwd /etc/sudoers.d/* " + debpkg.HelperPath +
		"; find /etc/apt /etc/cron.d /root /var/lib/tykupgrade -printf '%M %u:%g %p ' " +
		`\( -type d -printf '\n' -o -printf '%s %T@ %l\n' \) | sort`
	before := m.exec("sh", "-c", look)
	job := func(argv ...string) []string {
		return append([]string{"start", prep, "", run, "", "", "", "/etc/apt/preferences.d", "", ""}, argv...)
	}
	apt := func(argv ...string) []string { return append([]string{"apt-get", "-q", "-y"}, argv...) }
	m.exec("sh", "-c", "echo x >/home/ops/tyk-evil_1_all.deb; cp /home/ops/tyk-evil_1_all.deb /tmp/")
	calls := [][]string{
		{}, {"sh", "-c", "touch /root/pwned"}, {"sh"}, {"text", "job"}, {"install-helper", "/etc/x", "/etc/y", "ops", "1"},
		job("sh", "-c", "touch /root/pwned"), job("env", "sh", "-c", "touch /root/pwned"), job(),
		job("apt-get", "-o", "Dpkg::Pre-Invoke::=touch /root/pwned", "update"),
		job("apt-get", "install", "--", "/home/ops/tyk-evil_1_all.deb"),
		job("apt-get", "install", "--", "bash=1"), job("apt-get", "install", "tyk-gateway=5.2.5"),
		job("dpkg", "-i", "/home/ops/tyk-evil_1_all.deb"), job("dpkg", "--root=/tmp", "--configure", "-a"),
		{"start", "/tmp/x.new.abcdef", "", "/tmp/x", "", "", "", "/etc/apt/preferences.d", "", "", "apt-get", "update"},
		{"start", prep, "/", run, "", "", "", "/etc/apt/preferences.d", "", "", "apt-get", "update"},
		{"start", prep, "", run, "openssl", "", "", "/etc/apt/preferences.d", "", "", "apt-get", "update"},
		{"start", prep, "", run, "", "", "ssh.service", "/etc/apt/preferences.d", "", "", "apt-get", "update"},
		{"start", prep, "", run, "", "", "", "", "all", "tyk-gateway=5.2.5", "apt-get", "update"},
		{"start", prep, "", run, "", "", "", "", "", "tyk-gateway=5.2.5", "apt-get", "update"},
		{"start", prep, "", run, "", "", "", "/etc/cron.d", "all", "tyk-gateway=5.2.5", "apt-get", "update"},
		{"start", prep, "", run, "", "", "", "/etc/apt/preferences.d", "all", "tyk-x=1\nPackage:*", "apt-get", "update"},
		{"start", prep, "", run, "", "", "$(touch /root/pwned)", "/etc/apt/preferences.d", "", "", "apt-get", "update"},
		apt("-o", "Dir::Etc=/home/ops", "update"), apt("-c", "/home/ops/apt.conf", "update"),
		apt("-oAPT::Update::Pre-Invoke::=touch /root/pwned", "update"), apt("--option=a=b", "update"),
		apt("install", "--", "-o", "x=y"), apt("install", "--", "tyk-gateway/home"), apt("install", "--", "tyk-gateway"),
		apt("install", "--", "/var/cache/apt/archives/../../../../home/ops/tyk-evil_1_all.deb"),
		apt("install", "--", "tyk-evil=1", "/tmp/tyk-evil_1_all.deb"), apt("purge", "tyk-gateway"), apt("download", "bash"),
		{"survey", "/home/ops", "/var/lib/tykupgrade"}, {"survey", "", "/home/ops"}, {"survey", "", "/var/lib/tykupgrade", "--help"},
		{"packages", "/home/ops", "/var/lib/apt/extended_states"}, {"packages", "", "/etc/shadow", "tyk-gateway"},
		{"packages", "", "/var/lib/apt/extended_states", "--help"},
		{"offers", "/home/ops"}, {"offered", "/home/ops", "--", "--"}, {"history", "/etc/shadow"},
		{"keys", "", "/root/x"}, {"keys", "", "/etc/apt/../shadow"}, {"locks", "/etc/shadow"},
		{"candidates", "", "tyk-evil", "/home/ops/tyk-evil_1_all.deb"}, {"candidates", "/tmp", "a", "/tmp/a.deb"},
		{"debs", "", "/home/ops"}, {"debs", "", "/tmp/tyk-evil_1_all.deb"},
		{"state", "/etc"}, {"prepare", "/etc/x"}, {"prepare", "/var/lib/tykupgrade/runs/../../../../etc/x"},
		{"discard", "/var/lib/tykupgrade/runs/x"}, {"discard", "/etc"}, {"discard", prep + "/../.."}, {"discard", prep, "/etc"},
		{"changes", "/etc"}, {"changes", "/var/lib/tykupgrade/runs/"}, {"changes", "/var/lib/tykupgrade/runs", "/etc"},
		{"forget", "/var/lib/tykupgrade/runs/."}, {"forget", "/var/lib/tykupgrade/runs/.."}, {"forget", "/"}, {"forget", "-x"},
		{"write", "/etc/cron.d/change.json"}, {"write", prep + "/job.sh"}, {"write", run + "/../change.json"},
		{"move", "/home/ops/x", "/etc/shadow"}, {"upload", "/etc/cron.d", "x"}, {"follow", "/etc", "1"}, {"log", "/etc"},
		{"save-packages", "", "/var/lib/dpkg", "/var/cache/apt/archives", "/etc", "tyk-a", "1", "all", "a.deb"},
		{"save-packages", "", "/home/ops", "/var/cache/apt/archives", prep, "tyk-a", "1", "all", "a.deb"},
		{"save-packages", "", "/var/lib/dpkg", "/var/cache/apt/archives", prep, "tyk-a", "1", "all", "../a.deb"},
		{"save-packages", "", "/var/lib/dpkg", "/var/cache/apt/archives", prep, "tyk-a", "1", "all", "job.sh"},
		{"revert-files", "/home/ops", c.Dir}, {"revert-files", "", "/home/ops"}, {"save-files", "", prep, "x"},
		{"restart", "ssh.service"}, {"restart", "--root=/tmp"}, {"reset-failed"}, {"watch", "1", "ssh.service"},
		{"apt-mark", "hold", "--", "bash"}, {"apt-mark", "unhold", "--", "tyk-gateway"},
		{"systemctl", "edit", "tyk-gateway.service"}, {"systemctl", "unmask", "--runtime", "--", "ssh.service"},
		{"systemctl", "show", "-p", "Environment", "--", "tyk-gateway.service"},
		{"journalctl", "--file=/etc/shadow"}, {"journalctl", "-u", "ssh.service"}, {"journalctl", "-o", "export"},
	}
	helper := []string{"sudo", "-n", debpkg.HelperPath, digest}
	refused := func(user string, front []string, calls [][]string) {
		m.Helper()
		for i, r := range m.as(user, front, calls) {
			if r.code != "77" || !strings.Contains(r.out, "refused: ") {
				m.Errorf("%q: exit code %s\n%s", calls[i], r.code, r.out)
			}
		}
	}
	refused("ops", helper, calls[:3])
	refused("root", helper[2:], calls[3:])
	// What comes by standard input.
	stdin := func(text string, call ...string) []string {
		line, err := debpkg.Quote(append(slices.Clone(helper), call...))
		if err != nil {
			m.Fatal(err)
		}
		return []string{"sh", "-c", "printf %s \"$1\" | " + line, "sh", text}
	}
	const suffixes = ".dpkg-dist .dpkg-old .dpkg-new .dpkg-tmp .dpkg-bak .dpkg-backup .dpkg-remove"
	calls = [][]string{stdin("/etc/shadow\n", "save-files", "", prep, suffixes),
		stdin("+/etc/shadow\n.\n", "revert-files", "", c.Dir),
		stdin("=/opt/tyk-gateway/../../etc/shadow\n.\n", "revert-files", "", c.Dir),
		stdin("+/opt/tyk-gateway/tyk.conf\n+/root/x\n.\n", "revert-files", "", c.Dir)}
	refused("ops", nil, calls)
	// Of the job's script, the helper's own runs. The environment does not arrive.
	evil := "touch /root/pwned\n"
	m.as("ops", nil, [][]string{stdin(fmt.Sprintf("2 %d\n{}%s", len(evil), evil), job("apt-get", "-q", "-y",
		"update")...)})
	calls = [][]string{
		{"sh", "-c", "touch /root/pwned"}, {"env", "touch", "/root/pwned"}, {"-s"}, {"-i"}, {"-u", "#0", "id"},
		{"BASH_ENV=/home/ops/evil", debpkg.HelperPath, digest, "locks"},
		{"ENV=/home/ops/evil", debpkg.HelperPath, digest, "locks"},
		{"LD_PRELOAD=/home/ops/evil", debpkg.HelperPath, digest, "locks"},
		{"--preserve-env=PATH", debpkg.HelperPath, digest, "locks"},
		{debpkg.HelperPath + "/../sh", "-c", "touch /root/pwned"}, {"-e", debpkg.HelperPath},
		{"--chdir=/root", debpkg.HelperPath, digest, "locks"},
	}
	for i, r := range m.as("ops", []string{"sudo", "-n"}, calls) {
		if r.code == "0" {
			m.Errorf("sudo %q: %s", calls[i], r.out)
		}
	}
	m.exec("sh", "-c", "mkdir -p /home/ops/bin; printf '#!/bin/sh\\ntouch /root/pwned\\n' >/home/ops/bin/id; chmod 755 /home/ops/bin/id; cp /home/ops/bin/id /home/ops/bin/sh")
	if r := m.as("ops", []string{"env", "PATH=/home/ops/bin:/usr/bin:/bin", "ENV=/home/ops/bin/id", "IFS=/"},
		[][]string{append(slices.Clone(helper), "locks")}); r[0].code != "0" {
		m.Errorf("locks: %+v", r)
	}
	m.exec("test", "!", "-e", "/root/pwned")
	// The job runs on after the call, and writes its exit code last.
	m.exec("timeout", "60", "sh", "-c", "until [ -s "+run+"/rc ]; do sleep 0.1; done; rm -rf "+run+
		"; mkdir -p "+prep)
	if after := m.exec("sh", "-c", look); after != before {
		m.Errorf("it was\n%s\nit is\n%s", before, after)
	}
	m.exec("rm", "-rf", prep)
}

type result struct{ code, out string }

// as runs commands as the user, with words in front. ops knows no password.
func (m *machine) as(user string, front []string, calls [][]string) []result {
	m.Helper()
	var script, out bytes.Buffer
	for _, call := range calls {
		line, err := debpkg.Quote(append(slices.Clone(front), call...))
		if err != nil {
			m.Fatal(err)
		}
		fmt.Fprintf(&script, "out=$(%s </dev/null 2>&1); printf '%%s\\036%%s\\037' $? \"$out\"\n", line)
	}
	if err := m.ssh(user)(m.Context(), []string{"sh"}, &script, &out, nil); err != nil {
		m.Fatal(err)
	}
	var all []result
	for one := range strings.SplitSeq(strings.TrimSuffix(out.String(), "\x1f"), "\x1f") {
		code, text, _ := strings.Cut(one, "\x1e")
		all = append(all, result{code, text})
	}
	if len(all) != len(calls) {
		m.Fatalf("%d answers to %d calls: %q", len(all), len(calls), out.String())
	}
	return all
}
