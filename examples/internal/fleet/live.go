package fleet

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"time"

	"example.com/tykupgrade/debpkg/rollout"
	"example.com/tykupgrade/examples/internal/cli"
)

// Live shows a run while it goes on: the hosts that are under way, and counts.
// Where the output is no terminal each event is a line of a log.
type Live struct {
	Words func(string) string // puts errors into the command's words; nil: as they are

	out *cli.Out

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

// NewLive returns a view that is shown on out.
func NewLive(out *cli.Out) *Live {
	return &Live{out: out, hosts: map[string]*line{}, ended: map[string]rollout.Status{}}
}

// Work runs, resumes or undoes the waves, shown on the view. The first signal
// to end, or the end of the terminal, stops between hosts, the second cuts short
// and undoes those under way; SIGUSR1 pauses, SIGUSR2 goes on.
func (t *Live) Work(ctx context.Context, mode rollout.Mode, waves []rollout.Wave, o rollout.Options) (*rollout.Report, error) {
	if o.Control == nil {
		o.Control = &rollout.Control{}
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer listen(o.Control, cancel, t.out)()
	event := o.Event
	o.Event = func(r rollout.Record) {
		t.record(r)
		if event != nil {
			event(r)
		}
	}
	t.targets, t.wave = Targets(waves), string(mode)
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

// Agreed asks a question at the terminal.
func Agreed(in io.Reader, out io.Writer, question string) bool {
	_, _ = fmt.Fprintf(out, "%s [y/N] ", question)
	answer, _ := bufio.NewReader(in).ReadString('\n')
	return strings.EqualFold(strings.TrimSpace(answer), "y")
}

// listen lets signals stop, pause and continue the run.
func listen(control *rollout.Control, cancel context.CancelCauseFunc, out *cli.Out) (stop func()) {
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
				case s == syscall.SIGHUP && stopped: // a terminal that is gone may say so twice
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

// Note takes what a package says of a host.
func (t *Live) Note(host, text string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if l := t.hosts[host]; l != nil {
		l.text = text
	}
}

// record takes the run's events. Where there is no live view each becomes a
// line of a log.
func (t *Live) record(r rollout.Record) {
	if t.Words != nil {
		r.Error = t.Words(r.Error)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	say := func(style cli.Style, format string, a ...any) {
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
			say(cli.Faint, "%s: %s", r.Target, step)
		}
	case rollout.KindVerify:
		if r.OK {
			t.ended[r.Target] = rollout.StatusDone
			say(cli.Faint, "%s: done before, and still so", r.Target)
		} else {
			say(cli.Warn, "%s: done before, but no longer: %s", r.Target, r.Error)
		}
	case rollout.KindSkip:
		say(cli.Faint, "%s: %s was done already", r.Target, step)
	case rollout.KindStep:
		if !r.OK {
			say(cli.Bad, "%s: %s failed: %s", r.Target, step, r.Error)
		}
	case rollout.KindEnd:
		delete(t.hosts, r.Target)
		t.ended[r.Target] = r.Status
		switch r.Status {
		case rollout.StatusDone:
			say(cli.Good, "%s done", r.Target)
		case rollout.StatusFailed:
			say(cli.Bad, "%s COULD NOT BE UNDONE, it needs a look: %s", r.Target, r.Error)
		default:
			say(cli.Warn, "%s is as it was before", r.Target)
		}
	case rollout.KindHalt:
		say(cli.Bad, "no further host: %s", r.Error)
	case rollout.KindPause:
		say(cli.Warn, "paused; SIGUSR2 goes on")
	case rollout.KindContinue:
		say(cli.Good, "going on")
	case rollout.KindSoak:
		switch {
		case r.Error != "":
			say(cli.Bad, "canary of %s failed: %s", r.Wave, r.Error)
		case r.OK:
			say(cli.Good, "canary of %s soaked", r.Wave)
		default:
			say(cli.Faint, "canary of %s soaks", r.Wave)
		}
	case rollout.KindTakeover:
		say(cli.Warn, "%s", r.Error)
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

// lines are few however large the fleet is.
func (t *Live) lines() []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	const most = 20
	counts := map[rollout.Status]int{}
	for _, s := range t.ended {
		counts[s]++
	}
	lines := []string{fmt.Sprintf("%s: %d of %d done, %d as before, %d need a look", t.out.Paint(cli.Bold, t.wave),
		counts[rollout.StatusDone], t.targets, counts[rollout.StatusUndone], counts[rollout.StatusFailed])}
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
