package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"time"

	"example.com/tykupgrade/debpkg/rollout"
	"example.com/tykupgrade/examples/internal/fleet"
	"example.com/tykupgrade/examples/internal/term"
)

func (c *command) waves(inv *fleet.Inventory, event func(host, text string)) ([]rollout.Wave, error) {
	waves, err := inv.Waves(event)
	if err == nil && c.only != "" {
		waves, err = rollout.Select(waves, c.only, c.step)
	}
	return waves, err
}

// work runs, resumes or undoes.
func (c *command) work(inv *fleet.Inventory, mode rollout.Mode) int {
	out := term.New(c.stderr)
	t := &table{out: out, hosts: map[string]*line{}}
	waves, err := c.waves(inv, t.note)
	if err != nil {
		return c.fail(err)
	}
	if mode == rollout.ModeRun {
		if _, err := os.Stat(c.journal); err == nil && c.only != "" {
			mode = rollout.ModeResume // one idempotent call
		}
	}
	if !c.yes && c.only == "" && !c.agreed(mode, waves) {
		return c.fail(errors.New("nothing was done: not confirmed; -yes confirms"))
	}
	control := &rollout.Control{}
	ctx, cancel := context.WithCancelCause(context.Background())
	defer cancel(nil)
	defer listen(control, cancel, out)()

	o := inv.Options()
	o.Journal, o.Control, o.Event = c.journal, control, t.record
	begin := map[rollout.Mode]func(context.Context, []rollout.Wave, rollout.Options) (*rollout.Report, error){
		rollout.ModeRun: rollout.Run, rollout.ModeResume: rollout.Resume, rollout.ModeUndo: rollout.Undo,
	}[mode]
	defer t.follow()()
	rep, err := begin(ctx, waves, o)
	out.Clear()
	if rep != nil && c.json {
		c.print(rep, 0)
	} else if rep != nil {
		_ = rep.WriteText(c.stdout)
	}
	code := exitOK
	if err != nil {
		code = c.fail(err)
	}
	switch {
	case errors.As(err, new(*rollout.LockedError)):
		return exitLocked
	case rep != nil && rep.Outcome == rollout.OutcomeFailed:
		return exitStuck
	}
	return code
}

// agreed asks at the terminal.
func (c *command) agreed(mode rollout.Mode, waves []rollout.Wave) bool {
	hosts := 0
	for _, w := range waves {
		hosts += len(w.Targets)
	}
	_, _ = fmt.Fprintf(c.stderr, "%s the rollout of %d targets, recorded in %s? [y/N] ", mode, hosts, c.journal)
	answer, _ := bufio.NewReader(c.stdin).ReadString('\n')
	return strings.EqualFold(strings.TrimSpace(answer), "y")
}

// listen lets signals stop, pause and continue the run.
func listen(control *rollout.Control, cancel context.CancelCauseFunc, out *term.Out) (stop func()) {
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM, syscall.SIGUSR1, syscall.SIGUSR2)
	done := make(chan struct{})
	go func() {
		stopped := false
		for {
			select {
			case <-done:
				return
			case s := <-signals:
				switch {
				case s == syscall.SIGUSR1:
					control.Pause()
				case s == syscall.SIGUSR2:
					control.Continue()
				case !stopped:
					stopped = true
					control.Stop()
					out.Printf("stopping after the hosts that are under way; once more undoes them first\n")
				default:
					cancel(errors.New("interrupted by the operator"))
				}
			}
		}
	}()
	return func() {
		signal.Stop(signals)
		close(done)
	}
}

// table is the live view: the hosts that are under way, and counts.
type table struct {
	out *term.Out

	mu      sync.Mutex
	order   []string
	hosts   map[string]*line
	done    int
	failed  int
	targets int
	wave    string
}

type line struct {
	step, text string
	since      time.Time
}

// note takes what a package says of a host.
func (t *table) note(host, text string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if l := t.hosts[host]; l != nil {
		l.text = text
	}
}

// record takes the run's events. Where there is no live view each becomes a
// line of a log.
func (t *table) record(r rollout.Record) {
	t.mu.Lock()
	defer t.mu.Unlock()
	say := func(style term.Style, format string, a ...any) {
		t.out.Printf("%s  %s\n", r.Time.Format("15:04:05"), t.out.Paint(style, fmt.Sprintf(format, a...)))
	}
	step := r.Step
	if r.Undo {
		step = "undo " + step
	}
	switch r.Kind {
	case rollout.KindPlan:
		t.targets += len(r.Names)
	case rollout.KindWave:
		t.wave = r.Wave
	case rollout.KindStart:
		if t.hosts[r.Target] == nil {
			t.hosts[r.Target] = &line{}
			t.order = append(t.order, r.Target)
		}
		*t.hosts[r.Target] = line{step: step, since: r.Time}
		if !t.out.Live() {
			say(term.Faint, "%s: %s", r.Target, step)
		}
	case rollout.KindVerify:
		if r.OK {
			t.done++
			say(term.Faint, "%s: done before, and still so", r.Target)
		} else {
			say(term.Warn, "%s: done before, but no longer: %s", r.Target, r.Error)
		}
	case rollout.KindSkip:
		say(term.Faint, "%s: %s was done already", r.Target, step)
	case rollout.KindStep:
		if !r.OK {
			say(term.Bad, "%s: %s failed: %s", r.Target, step, r.Error)
		}
	case rollout.KindEnd:
		delete(t.hosts, r.Target)
		switch r.Status {
		case rollout.StatusDone:
			t.done++
			say(term.Good, "%s done", r.Target)
		case rollout.StatusFailed:
			t.failed++
			say(term.Bad, "%s COULD NOT BE UNDONE, it needs a look: %s", r.Target, r.Error)
		default:
			t.failed++
			say(term.Warn, "%s is as it was before", r.Target)
		}
	case rollout.KindHalt:
		say(term.Bad, "no further host: %s", r.Error)
	case rollout.KindPause:
		say(term.Warn, "paused; SIGUSR2 goes on")
	case rollout.KindContinue:
		say(term.Good, "going on")
	case rollout.KindSoak:
		switch {
		case r.Error != "":
			say(term.Bad, "canary of %s failed: %s", r.Wave, r.Error)
		case r.OK:
			say(term.Good, "canary of %s soaked", r.Wave)
		default:
			say(term.Faint, "canary of %s soaks", r.Wave)
		}
	case rollout.KindTakeover:
		say(term.Warn, "%s", r.Error)
	}
}

// follow redraws until the returned function is called.
func (t *table) follow() (stop func()) {
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		tick := time.NewTicker(200 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-done:
				return
			case <-tick.C:
				t.out.Redraw(t.lines()...)
			}
		}
	})
	return func() {
		close(done)
		wg.Wait()
		t.out.Clear()
	}
}

// lines are few however large the fleet is.
func (t *table) lines() []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	const most = 20
	lines := []string{fmt.Sprintf("%s: %d of %d done, %d failed", t.out.Paint(term.Bold, t.wave), t.done, t.targets, t.failed)}
	rest := 0
	t.order = keep(t.order, t.hosts)
	for i, name := range t.order {
		if i >= most {
			rest++
			continue
		}
		l := t.hosts[name]
		lines = append(lines, fmt.Sprintf("  %-24s %-14s %6s  %s", name, l.step, time.Since(l.since).Round(time.Second), l.text))
	}
	if rest > 0 {
		lines = append(lines, fmt.Sprintf("  and %d more", rest))
	}
	return lines
}

// keep drops the names of hosts that are no longer under way.
func keep(order []string, hosts map[string]*line) []string {
	kept := order[:0]
	for _, name := range order {
		if hosts[name] != nil {
			kept = append(kept, name)
		}
	}
	return kept
}
