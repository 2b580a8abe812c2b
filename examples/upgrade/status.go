package main

import (
	"context"
	"encoding/json"
	"os"
	"strings"

	"example.com/tykupgrade/backup"
	"example.com/tykupgrade/debpkg/fleet"
	"example.com/tykupgrade/debpkg/rollout"
	"example.com/tykupgrade/examples/internal/cli"
)

// status is what everybody says.
type status struct {
	Run    *rollout.Report `json:"run,omitempty"` // none: nothing was begun
	Bundle *fileStatus     `json:"bundle,omitempty"`
	Set    *fileStatus     `json:"set,omitempty"`
	Hosts  []fleet.Status  `json:"hosts"`
}

// fileStatus is the bundle or the set of the run as it is now.
type fileStatus struct {
	Path  string `json:"path"`
	OK    bool   `json:"ok"`
	Error string `json:"error,omitempty"`
}

// status asks; it changes nothing, and may be called while a run goes on.
func (u *upgrade) status(ctx context.Context, c *cli.Call) error {
	rep, err := u.history()
	if err != nil {
		return err
	}
	waves, err := u.waves()
	if err != nil {
		return err
	}
	s := status{Run: rep, Bundle: bundleStatus(rep), Set: setStatus(ctx, rep), Hosts: u.Statuses(ctx, u.HostsOf(hostWaves(waves)))}
	if u.html != "" {
		if err := page(u.html, rep); err != nil {
			return err
		}
	}
	code := cli.Yes
	for _, h := range s.Hosts {
		if !h.OK() {
			code = cli.No
		}
	}
	for _, f := range []*fileStatus{s.Bundle, s.Set} {
		if f != nil && !f.OK {
			code = cli.No
		}
	}
	switch {
	case rep == nil || rep.Outcome != rollout.OutcomeDone:
		code = max(code, cli.No)
		if rep != nil && rep.Outcome == rollout.OutcomeNotRestored {
			code = cli.Unknown
		}
	}
	if u.json {
		err = c.JSON(s)
	} else {
		err = u.printStatus(c, s)
	}
	if err != nil {
		return err
	}
	return cli.Exit(code, nil)
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
		return "upgrade accept removes what only a revert needs; upgrade revert takes the hosts back"
	case rep.Outcome == rollout.OutcomeUndone:
		return "upgrade apply begins a new run"
	case rep.Outcome == rollout.OutcomeNotRestored:
		return "look at the hosts that failed, then upgrade resume or upgrade revert"
	case !begun(rep):
		return "fix what is named above, then upgrade resume, or upgrade apply to begin again; no host was changed"
	}
	return "upgrade resume continues, upgrade revert takes back what was done"
}

func (u *upgrade) printStatus(c *cli.Call, s status) error {
	out := c.Out
	if s.Run == nil {
		out.Printf("no run in %s; upgrade apply begins one\n\n", u.journal)
	} else if err := u.report(c, s.Run); err != nil {
		return err
	} else {
		out.Printf("\nnext: %s\n", next(s.Run))
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
		style, text := cli.Good, strings.TrimSpace(string(h.Health)+" "+h.Error)
		if !h.OK() {
			style = cli.Bad
		}
		rows = append(rows, []string{h.Host, h.Component, h.Installed, h.Wanted, h.Unit, out.Paint(style, text)})
	}
	out.Printf("%s", out.Table(rows))
	return nil
}
