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
	"time"

	"example.com/tykupgrade/debpkg"
	"example.com/tykupgrade/debpkg/fleet"
	"example.com/tykupgrade/debpkg/rollout"
	"example.com/tykupgrade/examples/internal/cli"
	"example.com/tykupgrade/internal/lab"
	"example.com/tykupgrade/internal/lab/site"
	"example.com/tykupgrade/internal/lab/stage"
	"example.com/tykupgrade/internal/lab/traffic"
	"example.com/tykupgrade/internal/run"
)

// Two real systemd hosts go there and back over SSH, with the real apt, behind a real HAProxy. What
// can happen on the way is tested with hosts in memory, here and in package fleet.
func TestFleet(t *testing.T) {
	lab.Long(t) // debpkg/fleet does the same without the command, and upgrade's test with one
	t.Parallel()
	s := newStage(t)
	inv, err := s.Inventory(site.New, "")
	if err != nil {
		t.Fatal(err)
	}
	call := func(args ...string) string {
		t.Helper()
		code, _, out := 0, "", ""
		code, stdout, stderr := invoke(t, "", append([]string{"-file", inv}, args...)...)
		if out = stdout + stderr; code != cli.Yes {
			t.Fatalf("rolling %q: exit code %d\n%s", args, code, out)
		}
		return out
	}
	if plan := call("plan"); !strings.Contains(plan, "tyk-gateway 4.0.8 → 5.2.5") ||
		!strings.Contains(plan, "drain → install → healthy → ready") {
		t.Errorf("plan:\n%s", plan)
	}
	l := stage.StartLoad(s.Front, 4)
	t.Cleanup(l.Stop)
	call("-yes", "run")
	if v := versions(t.Context(), t, s); v != "5.2.5 5.2.5" {
		t.Errorf("versions %s", v)
	}
	call("-yes", "undo")
	if v := versions(t.Context(), t, s); v != "4.0.8 4.0.8" {
		t.Errorf("versions %s", v)
	}
	l.Stop()
	if total, failed := l.Sent(); failed > 0 || total < 100 {
		t.Errorf("%d of %d requests failed, the first: %s", failed, total, l.First())
	}
}

// Every verb, on hosts in memory.
func TestVerbs(t *testing.T) {
	t.Parallel()
	s, front, file := newSite(t, "drain: {grace: 300ms}\nshared_journal: true\n")
	load := traffic.Run(4, front)
	for _, c := range []struct {
		verb, versions string
		want           []string
	}{
		{"plan", "4.0.8 4.0.8", []string{"tyk-gateway 4.0.8 → 5.2.5", "ends at failure 1"}},
		{"run", "5.2.5 5.2.5", []string{"outcome   done", "targets   2, 2 done"}},
		{"run", "5.2.5 5.2.5", []string{"outcome   done", "still done"}}, // nothing is done again
		{"report", "5.2.5 5.2.5", []string{"outcome   done"}},
		{"audit", "5.2.5 5.2.5", []string{`"event":"command"`, `"event":"done"`}},
		{"undo", "4.0.8 4.0.8", []string{"outcome   undone"}},
		{"run", "5.2.5 5.2.5", []string{"outcome   done"}}, // a new run, for the old one is undone
		{"accept", "5.2.5 5.2.5", nil},
	} {
		args := []string{"-file", file, c.verb}
		switch c.verb {
		case "run", "undo", "accept":
			args = append(args, "-yes")
		}
		code, out := rolling(t, s, args...)
		if code != cli.Yes || s.Versions() != c.versions {
			t.Fatalf("%s: exit code %d, versions %s\n%s", c.verb, code, s.Versions(), out)
		}
		for _, want := range c.want {
			if !strings.Contains(out, want) {
				t.Errorf("%s: no %q in\n%s", c.verb, want, out)
			}
		}
		if info, err := os.Stat(file + ".journal"); c.verb == "run" && (err != nil ||
			info.Mode().Perm() != 0o660) {
			t.Errorf("the journal is not its group's: %v, %v", info, err)
		}
	}
	if sent, failed, why := load.End(200); failed > 0 {
		t.Errorf("%d of %d requests failed, the first: %v", failed, sent, why)
	}
	if n := len(s.Gateways[0].Installed(0)); n != 3 {
		t.Errorf("h1 was given %d packages, want 3", n)
	}
	if code, out := rolling(t, s, "-file", file, "-yes", "undo"); code != cli.Refused ||
		!strings.Contains(out, "holds no run") {
		t.Errorf("an accepted run: exit code %d\n%s", code, out)
	}
	kept, _ := filepath.Glob(file + ".journal.*")
	if len(kept) != 2 {
		t.Errorf("journals of finished runs: %v", kept)
	}
	code, out := rolling(t, s, "audit", "-journal", kept[0], "-format", "syslog")
	if code != cli.Yes || !strings.HasPrefix(out, "<109>1 ") {
		t.Errorf("exit code %d\n%s", code, out)
	}
	if code, _ := rolling(t, s, "audit", "-journal", kept[0], "-format", "csv"); code != cli.Usage {
		t.Errorf("an unknown format: exit code %d", code)
	}
}

// One host, and one step of it, in calls of their own.
func TestOnly(t *testing.T) {
	t.Parallel()
	s, _, file := newSite(t, "")
	for range 2 { // the second call finds everything done
		code, _ := rolling(t, s, "-file", file, "-only", "h2", "-json", "run")
		rep, err := rollout.History(file + ".journal.h2")
		if code != cli.Yes || err != nil || rep.Outcome != rollout.OutcomeDone ||
			len(rep.Targets) != 1 || rep.Targets[0].Name != "h2" {
			t.Errorf("exit code %d, %v, report %+v", code, err, rep)
		}
	}
	steps := func(verb string, names ...string) {
		for _, step := range names {
			if code, out := rolling(t, s, "-file", file, "-only", "h1", "-step", step,
				verb); code != cli.Yes {
				t.Fatalf("%s %s: exit code %d\n%s", verb, step, code, out)
			}
		}
	}
	steps("run", "drain", "install", "healthy", "ready")
	if v := s.Versions(); v != "5.2.5 5.2.5" {
		t.Errorf("versions %s", v)
	}
	steps("undo", "ready", "install", "drain")
	if code, out := rolling(t, s, "-file", file, "-only", "h2", "undo"); code != cli.Yes ||
		s.Versions() != "4.0.8 4.0.8" {
		t.Errorf("exit code %d, versions %s\n%s", code, s.Versions(), out)
	}
}

// HAProxy's socket, and then a host, cannot be reached in the middle of a run. The run ends, says
// what to do, and resume continues.
func TestTrouble(t *testing.T) {
	t.Parallel()
	s, front, file := newSite(t, "")
	load := traffic.Run(2, front)
	for _, c := range []struct {
		verb      string
		harm, fix func()
	}{
		{"run", func() { _ = os.Rename(s.Socket(), s.Socket()+".gone") },
			func() { _ = os.Rename(s.Socket()+".gone", s.Socket()) }},
		{"resume", func() { s.Gateways[0].Cut(errors.New("no route to host")) },
			func() { s.Gateways[0].Cut(nil) }},
	} {
		c.harm()
		code, out := rolling(t, s, "-file", file, "-without", "plan,findings", "-yes", c.verb)
		if code == cli.Yes || !strings.Contains(out, "resume") {
			t.Errorf("%s: exit code %d\n%s", c.verb, code, out)
		}
		c.fix()
	}
	for _, c := range []struct{ verb, want string }{{"resume", "5.2.5 5.2.5"}, {"undo",
		"4.0.8 4.0.8"}} {
		code, out := rolling(t, s, "-file", file, "-yes", c.verb)
		if code != cli.Yes || s.Versions() != c.want {
			t.Errorf("%s: exit code %d, versions %s\n%s", c.verb, code, s.Versions(), out)
		}
	}
	if sent, failed, why := load.End(100); failed > 0 {
		t.Errorf("%d of %d requests failed, the first: %v", failed, sent, why)
	}
}

// The play of the docs as it stands there, with the Ansible of the machine: an upgrade, and the
// next one, which meets the journals of the first. [TestOnly] repeats a call of the play.
func TestAnsiblePlay(t *testing.T) {
	t.Parallel()
	ansible := lab.Program(t, "ansible-playbook", "ansible-core")
	page, err := os.ReadFile("../../docs/commands.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(page), "## In an Ansible play\n\n```yaml\n")
	play, _, ok := strings.Cut(rest, "```\n")
	if !ok {
		t.Fatal("docs/commands.md has no play")
	}
	s, front, file := newSite(t, "")
	bin, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(s.Dir, "hosts")
	s.Listen(t, socket)
	for name, text := range map[string]string{"play.yaml": play, "inventory": "[gateways]\nh1\nh2\n",
		"rolling": "#!/bin/sh\nexec env " + hostsEnv + "=" + socket + " " + bin + " \"$@\"\n"} {
		if err := run.WriteProgram(filepath.Join(s.Dir, name), []byte(text), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	load := traffic.Run(2, front)
	for i, c := range []struct {
		version string
		commits int // packages that h1 was given so far
	}{{site.New, 1}, {site.Next, 2}} {
		describe(t, s, file, c.version, "")
		cmd := exec.CommandContext(t.Context(), ansible, "-i", "inventory", "play.yaml")
		cmd.Dir = s.Dir
		cmd.Env = append(os.Environ(), "PATH="+s.Dir+":"+os.Getenv("PATH"), "LC_ALL=C.UTF-8",
			"ANSIBLE_LOCAL_TEMP="+filepath.Join(s.Dir, "tmp"), "ANSIBLE_REMOTE_TEMP="+filepath.Join(
				s.Dir, "tmp"), "ANSIBLE_NOCOLOR=1")
		out, err := cmd.CombinedOutput()
		if want := c.version + " " + c.version; err != nil || s.Versions() != want {
			t.Fatalf("play %d: versions %s, want %s: %v\n%s", i+1, s.Versions(), want, err, out)
		}
		for _, g := range s.Gateways {
			if n := len(g.Installed(0)); n != c.commits {
				t.Errorf("play %d: %s was given %d packages, want %d", i+1, g.Name, n, c.commits)
			}
		}
	}
	if sent, failed, why := load.End(100); failed > 0 {
		t.Errorf("%d of %d requests failed, the first: %v", failed, sent, why)
	}
	var rep rollout.Report
	code, out := rolling(t, s, "-file", file, "-only", "h1", "-json", "report")
	if err := json.Unmarshal([]byte(out), &rep); err != nil || code != cli.Yes ||
		rep.Outcome != rollout.OutcomeDone {
		t.Errorf("exit code %d, %v\n%s", code, err, out)
	}
}

// Old runs that nobody accepted are forgotten by their recorded age. What a journal can undo
// stays, whatever its age.
func TestPrune(t *testing.T) {
	t.Parallel()
	s, _, file := newSite(t, "drain: {grace: 100ms}\n")
	now := time.Now()
	prune := func(want int, args ...string) string {
		t.Helper()
		var out bytes.Buffer
		o := job{connect: s.Connect, now: func() time.Time { return now }}
		if code := command(o).Run(t.Context(), append([]string{"prune", "-file", file}, args...),
			cli.Streams{In: strings.NewReader(""), Out: &out, Err: &out}); code != want {
			t.Errorf("prune %q: exit code %d\n%s", args, code, out.String())
		}
		return out.String()
	}
	run := func(args ...string) {
		t.Helper()
		if code, out := rolling(t, s, append([]string{"-file", file, "-yes"}, args...)...); code != cli.Yes {
			t.Fatalf("%q: exit code %d\n%s", args, code, out)
		}
	}
	count := func(text, part string, want int) {
		t.Helper()
		if n := strings.Count(text, part); n != want {
			t.Errorf("%d times %q, want %d:\n%s", n, part, want, text)
		}
	}
	forgotten := func() (n int) {
		for _, g := range s.Gateways {
			n += strings.Count(strings.Join(g.Fake.Done(), "\n"), "forget ")
		}
		return n
	}
	count(prune(cli.Yes, "-older-than", "1h"), "keeps nothing", 2)
	run("-only", "h1", "run") // h1's own journal
	run("run")
	now = now.Add(1000 * time.Hour)
	count(prune(cli.Yes, "-older-than", "1h", "-yes"), "kept: it can still be reverted", 2)
	describe(t, s, file, site.Next, "drain: {grace: 100ms}\n")
	run("run") // puts the fleet's journal aside
	out := prune(cli.Yes, "-older-than", "1h", "-dry-run")
	count(out, "kept: it can still be reverted", 3) // h1's journal, and the new run on both
	count(out, ": forgotten", 1)
	count(prune(cli.Refused, "-older-than", "1h"), "not confirmed", 1)
	count(prune(cli.Yes, "-older-than", "1200h", "-yes"), "kept: not old enough", 1)
	if n := forgotten(); n != 0 {
		t.Errorf("%d changes were forgotten", n)
	}
	if err := os.Remove(file + ".journal.h1"); err != nil {
		t.Fatal(err)
	}
	count(prune(cli.Yes, "-older-than", "1h", "-yes"), "2 changes forgotten", 1)
	if n := forgotten(); n != 2 {
		t.Errorf("%d changes were forgotten, want 2", n)
	}
	var rows []fleet.Pruned
	if err := json.Unmarshal([]byte(prune(cli.Yes, "-older-than", "1h", "-yes", "-json")),
		&rows); err != nil || len(rows) != 2 || len(rows[0].Changes) != 1 ||
		rows[0].Changes[0].State != debpkg.PruneInUse {
		t.Errorf("%v: %+v", err, rows)
	}
	run("undo") // has all it needs
	if v := s.Versions(); v != site.New+" "+site.New {
		t.Errorf("versions %s", v)
	}
	count(prune(cli.Yes, "-older-than", "1h", "-yes"), "2 changes forgotten", 1) // undone
	if err := os.WriteFile(file+".journal", []byte("garbage\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	count(prune(cli.Refused, "-older-than", "1h", "-yes"), "list runs that can still be undone", 1)
	count(prune(cli.Usage), "-older-than is missing", 1)
	count(prune(cli.Usage, "-older-than", "0s"), "want more than 0", 1)
}
