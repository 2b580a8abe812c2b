package main

import (
	"context"
	"encoding/json"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"example.com/tykupgrade/backup"
	"example.com/tykupgrade/debpkg"
	"example.com/tykupgrade/debpkg/fleet"
	"example.com/tykupgrade/debpkg/rollout"
	"example.com/tykupgrade/examples/internal/cli"
	"example.com/tykupgrade/health"
)

// status is what everybody says.
type status struct {
	Run    *rollout.Report `json:"run,omitempty"` // none: nothing was begun
	Bundle *fileStatus     `json:"bundle,omitempty"`
	Set    *fileStatus     `json:"set,omitempty"`
	Hosts  []hostStatus    `json:"hosts"`
}

// fileStatus is the bundle or the set of the run as it is now.
type fileStatus struct {
	Path  string `json:"path"`
	OK    bool   `json:"ok"`
	Error string `json:"error,omitempty"`
}

type hostStatus struct {
	Host      string        `json:"host"`
	Component string        `json:"component"`
	Installed string        `json:"installed,omitempty"`
	Wanted    string        `json:"wanted"`
	Unit      string        `json:"unit,omitempty"` // active, failed …
	Health    health.Status `json:"health,omitempty"`
	Error     string        `json:"error,omitempty"`
}

// ok says whether the host is as the file wants it.
func (s hostStatus) ok() bool {
	return s.Error == "" && s.Installed == s.Wanted && s.Health != health.Fail && s.Health != health.Unknown
}

// status asks; it changes nothing, and may be called while a run goes on.
func (c *command) status(u *upgrade) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	rep, err := c.history()
	if err != nil {
		return c.Fail(err)
	}
	waves, err := u.waves()
	if err != nil {
		return c.Fail(err)
	}
	s := status{Run: rep, Bundle: bundleStatus(rep), Set: setStatus(ctx, rep), Hosts: u.hostStatus(ctx, u.among(hostWaves(waves)))}
	if c.html != "" {
		if err := page(c.html, rep); err != nil {
			return c.Fail(err)
		}
	}
	code := exitOK
	for _, h := range s.Hosts {
		if !h.ok() {
			code = exitFailed
		}
	}
	for _, f := range []*fileStatus{s.Bundle, s.Set} {
		if f != nil && !f.OK {
			code = exitFailed
		}
	}
	switch {
	case rep == nil || rep.Outcome != rollout.OutcomeDone:
		code = max(code, exitFailed)
		if rep != nil && rep.Outcome == rollout.OutcomeNotRestored {
			code = exitStuck
		}
	}
	if c.json {
		return c.Print(s, code)
	}
	out := cli.NewOut(c.Stdout)
	c.printStatus(out, s)
	return c.Written(out, code)
}

func bundleStatus(rep *rollout.Report) *fileStatus {
	var note bundleNote
	data := saved(rep, targetPlugin, "bundle")
	if data == nil || json.Unmarshal(data, &note) != nil {
		return nil
	}
	s := &fileStatus{Path: note.File}
	sum, err := digest(note.File)
	if s.OK = err == nil && sum == note.SHA256; err != nil {
		s.Error = err.Error()
	} else if !s.OK {
		s.Error = "it is not what was written: SHA-256 " + sum + " instead of " + note.SHA256
	}
	return s
}

func setStatus(ctx context.Context, rep *rollout.Report) *fileStatus {
	var note setNote
	data := saved(rep, targetBackup, "set")
	if data == nil || json.Unmarshal(data, &note) != nil || note.Dir == "" {
		return nil
	}
	s := &fileStatus{Path: note.Dir}
	set, err := backup.Open(note.Dir)
	if err == nil {
		err = set.Verify(ctx, backup.VerifyOptions{})
	}
	if s.OK = err == nil; !s.OK {
		s.Error = err.Error()
	}
	return s
}

func (u *upgrade) hostStatus(ctx context.Context, hosts []fleet.Host) []hostStatus {
	all := make([]hostStatus, len(hosts))
	_ = each(hosts, func(i int, h fleet.Host) error {
		all[i] = hostStatus{Host: h.Name, Component: h.Component, Wanted: u.Versions[h.Component]}
		if err := all[i].ask(ctx, u.config, h); err != nil {
			all[i].Error = err.Error()
		}
		return nil
	})
	return all
}

func (s *hostStatus) ask(ctx context.Context, c *config, h fleet.Host) error {
	v, err := c.installed(ctx, h)
	if err != nil || v.IsZero() {
		return err
	}
	s.Installed = v.String()
	units, err := debpkg.New(c.Runner(h), debpkg.Options{}).Units(ctx, h.Unit())
	if err != nil {
		return err
	}
	for _, u := range units {
		s.Unit = u.ActiveState
	}
	probes, err := h.Probes(s.Installed)
	if err != nil {
		return err
	}
	rep, err := health.Once(ctx, health.Policy{TryTimeout: 10 * time.Second}, probes...)
	s.Health = rep.Status
	for _, p := range rep.Probes {
		if p.Error != "" && err == nil {
			s.Error = p.Error
		}
	}
	return err
}

// page writes the report for a change board.
func page(path string, rep *rollout.Report) error {
	if rep == nil {
		return rollout.ErrNoRun
	}
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	if err := rep.WriteHTML(f); err != nil {
		_ = f.Close()
		return err
	}
	return f.Close()
}

// next is what can be done after a run.
func next(rep *rollout.Report) string {
	switch {
	case rep.Outcome == rollout.OutcomeDone:
		return "nothing; revert takes the hosts back"
	case rep.Outcome == rollout.OutcomeUndone:
		return "apply begins a new run"
	case rep.Outcome == rollout.OutcomeNotRestored:
		return "look at the hosts that failed, then resume or revert"
	case !begun(rep):
		return "mend what is named above, then resume, or apply to begin anew; no host was changed"
	}
	return "resume goes on, revert takes back what was done"
}

func (c *command) printStatus(out *cli.Out, s status) {
	if s.Run == nil {
		out.Printf("no run in %s; apply begins one\n\n", c.journal)
	} else {
		c.report(out, s.Run)
		out.Printf("\n")
	}
	if s.Run != nil {
		out.Printf("next: %s\n", next(s.Run))
	}
	for _, f := range []struct {
		name string
		*fileStatus
	}{{"bundle", s.Bundle}, {"backup", s.Set}} {
		switch {
		case f.fileStatus == nil:
		case f.OK:
			out.Printf("%s %s: %s\n", f.name, f.Path, out.Paint(cli.Good, "whole"))
		default:
			out.Printf("%s %s: %s\n", f.name, f.Path, out.Paint(cli.Bad, f.Error))
		}
	}
	rows := [][]string{{"HOST", "COMPONENT", "INSTALLED", "WANTED", "UNIT", "HEALTH"}}
	for _, h := range s.Hosts {
		style, text := cli.Good, string(h.Health)
		if h.Error != "" {
			text = strings.TrimSpace(text + " " + h.Error)
		}
		if !h.ok() {
			style = cli.Bad
		}
		rows = append(rows, []string{h.Host, h.Component, h.Installed, h.Wanted, h.Unit, out.Paint(style, text)})
	}
	out.Printf("%s", out.Table(rows))
}
