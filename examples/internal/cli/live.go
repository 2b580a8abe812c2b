package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"example.com/tykupgrade/debpkg/rollout"
)

// Live shows a running rollout: the hosts in progress, and counts. If the output is not a terminal,
// each event is a line of a log.
type Live struct {
	out *Out

	mu      sync.Mutex
	order   []string
	hosts   map[string]*line
	ended   map[string]rollout.Status
	targets int
	wave    string
}

type line struct {
	step, text string
	since      time.Time
}

// NewLive returns a view on out.
func NewLive(out *Out) *Live {
	return &Live{out: out, hosts: map[string]*line{}, ended: map[string]rollout.Status{}}
}

// Work runs, resumes or undoes the waves and shows them. The first Ctrl-C or SIGTERM, or the loss
// of the terminal, stops the run between hosts. A second signal interrupts the hosts in progress
// and undoes them. SIGUSR1 pauses, and SIGUSR2 continues. Work uses only the values of ctx and
// ignores its end.
func (t *Live) Work(ctx context.Context, mode rollout.Mode, waves []rollout.Wave,
	o rollout.Options) (*rollout.Report, error) {
	if o.Control == nil {
		o.Control = &rollout.Control{}
	}
	ctx, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	defer cancel(nil)
	defer listen(o.Control, cancel, t.out)()
	event := o.Progress
	o.Progress = func(r rollout.Record) {
		t.record(r)
		if event != nil {
			event(r)
		}
	}
	t.targets, t.wave = targets(waves), string(mode)
	defer t.follow()()
	switch mode {
	case rollout.ModeResume:
		return rollout.Resume(ctx, waves, o)
	case rollout.ModeUndo:
		return rollout.Undo(ctx, waves, o)
	default:
		return rollout.Run(ctx, waves, o)
	}
}

// listen lets signals stop, pause and continue the run.
func listen(control *rollout.Control, cancel context.CancelCauseFunc, out *Out) (stop func()) {
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM, syscall.SIGUSR1, syscall.SIGUSR2)
	if !signal.Ignored(syscall.SIGHUP) { // as under nohup
		signal.Notify(signals, syscall.SIGHUP)
	}
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
				case s == syscall.SIGHUP && stopped: // a lost terminal may send it twice
				case !stopped:
					stopped = true
					control.Stop()
					out.Printf("stopping after the hosts in progress; a second signal undoes these\n")
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

// Note shows a message about a host.
func (t *Live) Note(host, text string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if l := t.hosts[host]; l != nil {
		l.text = text
	}
}

// record takes the run's events. Without a live view each becomes a line of a log.
func (t *Live) record(r rollout.Record) {
	t.mu.Lock()
	defer t.mu.Unlock()
	say := func(style Style, format string, a ...any) {
		t.out.Printf("%s  %s\n", r.Time.Format("15:04:05"), t.out.Paint(style, fmt.Sprintf(format, a...)))
	}
	step := r.Step
	if r.Undo {
		step = "undo " + step
	}
	switch r.Kind {
	case rollout.KindWave:
		t.wave = r.Wave
	case rollout.KindStart:
		if t.hosts[r.Target] == nil {
			t.hosts[r.Target] = &line{}
			t.order = append(t.order, r.Target)
		}
		*t.hosts[r.Target] = line{step: step, since: r.Time}
		if !t.out.Live() {
			say(Faint, "%s: %s", r.Target, step)
		}
	case rollout.KindVerify:
		if r.OK {
			t.ended[r.Target] = rollout.StatusDone
			say(Faint, "%s: done before, and still done", r.Target)
		} else {
			say(Warn, "%s: done before, but no longer: %s", r.Target, r.Error)
		}
	case rollout.KindSkip:
		say(Faint, "%s: %s was done already", r.Target, step)
	case rollout.KindStep:
		if !r.OK {
			say(Bad, "%s: %s failed: %s", r.Target, step, r.Error)
		}
	case rollout.KindEnd:
		delete(t.hosts, r.Target)
		t.ended[r.Target] = r.Status
		switch r.Status {
		case rollout.StatusDone:
			say(Good, "%s done", r.Target)
		case rollout.StatusNotRestored:
			say(Bad, "%s COULD NOT BE RESTORED and needs attention: %s", r.Target, r.Error)
		default:
			say(Warn, "%s has its previous state again", r.Target)
		}
	case rollout.KindHalt:
		say(Bad, "no further host: %s", r.Error)
	case rollout.KindPause:
		say(Warn, "paused; SIGUSR2 continues")
	case rollout.KindContinue:
		say(Good, "continuing")
	case rollout.KindSoak:
		switch {
		case r.Error != "":
			say(Bad, "canary of %s failed: %s", r.Wave, r.Error)
		case r.OK:
			say(Good, "canary of %s soaked", r.Wave)
		default:
			say(Faint, "canary of %s soaks", r.Wave)
		}
	case rollout.KindInfo:
		say(Warn, "%s: %s", r.Target, r.Text)
	case rollout.KindTakeover:
		say(Warn, "%s", r.Error)
	}
}

// follow redraws until the returned function is called.
func (t *Live) follow() (stop func()) {
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

// lines returns a few lines for a fleet of any size.
func (t *Live) lines() []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	const most = 20
	counts := map[rollout.Status]int{}
	for _, s := range t.ended {
		counts[s]++
	}
	lines := []string{fmt.Sprintf("%s: %d of %d done, %d restored, %d need attention",
		t.out.Paint(Bold, t.wave),
		counts[rollout.StatusDone], t.targets, counts[rollout.StatusUndone],
		counts[rollout.StatusNotRestored])}
	rest := 0
	t.order = keep(t.order, t.hosts)
	for i, name := range t.order {
		if i >= most {
			rest++
			continue
		}
		l := t.hosts[name]
		lines = append(lines, fmt.Sprintf("  %-24s %-14s %6s  %s", name, l.step,
			time.Since(l.since).Round(time.Second), l.text))
	}
	if rest > 0 {
		lines = append(lines, fmt.Sprintf("  and %d more", rest))
	}
	return lines
}

// keep drops the names of hosts that are no longer in progress.
func keep(order []string, hosts map[string]*line) []string {
	kept := order[:0]
	for _, name := range order {
		if hosts[name] != nil {
			kept = append(kept, name)
		}
	}
	return kept
}

func targets(waves []rollout.Wave) int {
	n := 0
	for _, w := range waves {
		n += len(w.Targets)
	}
	return n
}

// Ended returns the error of a rollout with its exit code and a hint. next names the verbs that
// continue and undo the run.
func Ended(rep *rollout.Report, err error, next string) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, rollout.ErrLocked):
		return Exit(Busy, err)
	case errors.Is(err, rollout.ErrPlanChanged):
		return Advice(err, "restore the file to continue that run; -journal names another journal for "+
			"a new one")
	case rep == nil:
		return err
	case rep.Outcome == rollout.OutcomeNotRestored: // the state of such a host is unknown
		return Exit(Unknown, Advice(err, "check the hosts above; then "+next))
	case rep.Outcome == rollout.OutcomeUndone:
		return Advice(err, "the run is undone: fix the cause and start again")
	}
	return Advice(err, "fix the cause; then "+next)
}

// Signals is the part of a help text about the signals and exit code 3 of [Live.Work].
const Signals = `During a run: Ctrl-C stops it after the hosts in progress, and so does the loss of
the terminal. A second Ctrl-C undoes these hosts. SIGUSR1 pauses the run, SIGUSR2 continues it.
Exit code 3 means here: a host could not be restored and needs attention.
`
