package rollout_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"example.com/tykupgrade/debpkg/rollout"
	"example.com/tykupgrade/internal/run"
)

func TestHooks(t *testing.T) {
	t.Parallel()
	points := []rollout.Point{
		rollout.BeforeRun, rollout.BeforeWave, rollout.BeforeTarget, rollout.AfterTarget,
		rollout.AfterWave, rollout.OnFailure, rollout.AfterRun,
	}
	for _, c := range []struct {
		name, veto, want, status string
		outcome                  rollout.Outcome
	}{
		{"no veto", "", "before_run, before_wave w, before_target w a, after_target w a done, " +
			"before_target w b, " +
			"on_failure w b undone, after_target w b undone, after_wave w, after_run held",
			"a done, b undone", rollout.OutcomeHeld},
		{"the run", "before_run", "before_run, after_run stopped", "a pending, b pending",
			rollout.OutcomeStopped},
		{"a wave", "before_wave", "before_run, before_wave w, after_run stopped", "a pending, b pending",
			rollout.OutcomeStopped},
		{"a target", "before_target", "before_run, before_wave w, before_target w a, after_wave w, " +
			"after_run stopped", "a pending, b pending", rollout.OutcomeStopped},
		{"what has happened", "after_target", "before_run, before_wave w, before_target w a, " +
			"after_target w a done, before_target w b, " +
			"on_failure w b undone, after_target w b undone, after_wave w, after_run held",
			"a done, b undone", rollout.OutcomeHeld},
	} {
		f := newFleet()
		f.fail["b ready"] = errors.New("sick")
		var got []string
		o := rollout.Options{Journal: filepath.Join(t.TempDir(), "journal"), Secrets: []string{"hunter2"}}
		o.Hooks = []rollout.Hook{
			{Name: "log", On: points, Call: func(_ context.Context, e rollout.HookEvent) error {
				got = append(got, strings.Join(strings.Fields(strings.Join([]string{string(e.Point), e.Wave,
					e.Target, string(e.Status), string(e.Outcome)}, " ")), " "))
				if string(e.Point) == c.veto {
					return errors.New("change window is closed for hunter2")
				}
				return nil
			}},
			{Name: "other wave", On: points[1:5], Waves: []string{"x"}, Call: func(context.Context,
				rollout.HookEvent) error {
				t.Errorf("%s: called for another wave", c.name)
				return nil
			}},
		}
		rep, err := rollout.Run(t.Context(), []rollout.Wave{f.wave("w", "a", "b")}, o)
		want(t, c.name, strings.Join(got, ", "), c.want)
		want(t, c.name, statuses(rep), c.status)
		if rep.Outcome != c.outcome ||
			errors.Is(err, rollout.ErrVetoed) != (c.outcome == rollout.OutcomeStopped) {
			t.Errorf("%s: %s, %v", c.name, rep.Outcome, err)
		}
		data, rerr := os.ReadFile(o.Journal)
		if rerr != nil || strings.Contains(string(data), "hunter2") || !strings.Contains(string(data),
			`"text":"log before_run"`) {
			t.Errorf("%s: journal %s, %v", c.name, data, rerr)
		}
		if c.outcome == rollout.OutcomeStopped {
			o.Hooks, f.fail = nil, map[string]error{}
			if rep, err := rollout.Resume(t.Context(), []rollout.Wave{f.wave("w", "a", "b")},
				o); err != nil || rep.Outcome != rollout.OutcomeDone {
				t.Errorf("%s: resumed: %v", c.name, err)
			}
		}
	}
	// A hook that hangs or panics does not stop the run for good.
	synctest.Test(t, func(t *testing.T) {
		f := newFleet()
		o := rollout.Options{Hooks: []rollout.Hook{
			{Name: "hangs", On: points[3:], Call: func(ctx context.Context, _ rollout.HookEvent) error {
				<-ctx.Done()
				return ctx.Err()
			}},
			{Name: "panics", On: points[3:], Call: func(context.Context, rollout.HookEvent) error {
				panic("boom")
			}},
		}}
		start := time.Now()
		rep, err := rollout.Run(t.Context(), []rollout.Wave{f.wave("w", "a")}, o)
		if err != nil || time.Since(start) != 3*rollout.DefaultHookTimeout {
			t.Errorf("after %v: %v", time.Since(start), err)
		}
		var b strings.Builder
		if err := rep.WriteText(&b); err != nil || !strings.Contains(b.String(), "no answer in 30s") ||
			!strings.Contains(b.String(), "panic: boom") {
			t.Errorf("%s, %v", b.String(), err)
		}
	})
	if _, err := rollout.Run(t.Context(), []rollout.Wave{newFleet().wave("w", "a")},
		rollout.Options{Hooks: []rollout.Hook{{Name: "x"}}}); !errors.Is(err, rollout.ErrInvalid) {
		t.Errorf("a hook without a Call: %v", err)
	}
}

func TestCommandHook(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "event")
	local := run.Local(run.Options{})
	e := rollout.HookEvent{Point: rollout.BeforeWave, Wave: "gateways"}
	if err := rollout.CommandHook(local, "sh", "-c", `cat >"$1"`, "sh", file)(t.Context(),
		e); err != nil {
		t.Fatal(err)
	}
	var got rollout.HookEvent
	data, err := os.ReadFile(file)
	if err = errors.Join(err, json.Unmarshal(data, &got)); err != nil || got != e {
		t.Errorf("event %s, %v", data, err)
	}
	err = rollout.CommandHook(local, "sh", "-c", "cat >/dev/null; echo no window; exit 3")(t.Context(),
		e)
	if err == nil || !strings.Contains(err.Error(), "no window") {
		t.Errorf("error %v", err)
	}
}

func TestProber(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name    string
		control bool
		stop    bool
	}{{"pauses", true, false}, {"stops without a control", false, false}, {"stops", true, true}} {
		synctest.Test(t, func(t *testing.T) {
			f := newFleet()
			var bad atomic.Bool
			f.hook = func(_ context.Context, what string) error {
				time.Sleep(10 * time.Second)
				bad.Store(strings.HasPrefix(what, "b "))
				return nil
			}
			o := rollout.Options{Journal: filepath.Join(t.TempDir(), "journal"), Prober: &rollout.Prober{
				Allowed: 2, Stop: c.stop, Probe: func(context.Context) error {
					if bad.Load() {
						return errors.New("502 Bad Gateway")
					}
					return nil
				}}}
			if c.control {
				o.Control = &rollout.Control{}
			}
			paused := 0
			o.Progress = func(r rollout.Record) {
				if r.Kind == rollout.KindPause {
					paused++
					go func() { time.Sleep(time.Hour); bad.Store(false); o.Control.Continue() }()
				}
			}
			rep, err := rollout.Run(t.Context(), []rollout.Wave{f.wave("w", "a", "b", "c")}, o)
			if rep.Probes == nil || rep.Probes.Failed < 3 || rep.Probes.Sent < 60 {
				t.Fatalf("%s: probes %v", c.name, rep.Probes)
			}
			var b strings.Builder
			if werr := rep.WriteText(&b); werr != nil || !strings.Contains(b.String(),
				"probe failed while b was worked on: 502 Bad Gateway") || !strings.Contains(b.String(),
				"probes failed\n") {
				t.Errorf("%s: %s", c.name, b.String())
			}
			if c.control && !c.stop {
				if err != nil || paused != 1 {
					t.Errorf("%s: paused %d times, %v", c.name, paused, err)
				}
				return
			}
			want(t, c.name, statuses(rep), "a done, b done, c pending")
			if !errors.Is(err, rollout.ErrProbes) || rep.Outcome != rollout.OutcomeStopped {
				t.Errorf("%s: %v", c.name, err)
			}
			bad.Store(false)
			f.hook = nil
			if rep, err = rollout.Resume(t.Context(), []rollout.Wave{f.wave("w", "a", "b", "c")},
				o); err != nil {
				t.Errorf("%s: resume: %v", c.name, err)
			}
			recs, err := readFile(o.Journal)
			if again := rollout.BuildReport(recs); err != nil || *again.Probes != *rep.Probes {
				t.Errorf("%s: the journal counts %v, the run %v; %v", c.name, again.Probes, rep.Probes, err)
			}
		})
	}
}

func TestGates(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		slow := rollout.Gate{Name: "latency", Failures: 3, Check: func(context.Context) error {
			if s := time.Since(start); s > 20*time.Second && s < 22*time.Second || s > 40*time.Second {
				return errors.New("p99 is 2 s")
			}
			return nil
		}}
		for d, bad := range map[time.Duration]bool{30 * time.Second: false, time.Minute: true} {
			start = time.Now()
			ctx, cancel := context.WithTimeout(t.Context(), d)
			err := rollout.Watch(time.Second, slow)(ctx)
			cancel()
			if (err != nil) != bad || bad && (!strings.Contains(err.Error(), "gate latency: p99") ||
				time.Since(start) < 42*time.Second) {
				t.Errorf("soak of %v: after %v: %v", d, time.Since(start), err)
			}
		}
		hangs := rollout.Gate{Name: "query", Check: func(ctx context.Context) error {
			<-ctx.Done()
			return nil
		}}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := rollout.Watch(time.Second, hangs)(ctx); err == nil {
			t.Error("a gate that was never checked passed")
		}
		n := 0
		flaky := rollout.Gate{Name: "status", Check: func(context.Context) error {
			if n++; n < 5 && n != 2 {
				return errors.New("503")
			}
			return nil
		}}
		if err := rollout.Pass(t.Context(), time.Second, 3, flaky); err != nil || n != 7 {
			t.Errorf("passed after %d checks: %v", n, err)
		}
		short, end := context.WithTimeout(t.Context(), 3*time.Second)
		defer end()
		never := rollout.Gate{Name: "never", Check: func(context.Context) error {
			return errors.New(
				"503")
		}}
		if err := rollout.Pass(short, time.Second, 3, never); !errors.Is(err, context.DeadlineExceeded) ||
			!strings.Contains(err.Error(), "gate never: 0 of 3 passes in a row: 503") {
			t.Errorf("error %v", err)
		}
	})
}

func TestAccept(t *testing.T) {
	t.Parallel()
	f := newFleet()
	var forgot []string
	waves := []rollout.Wave{f.wave("w", "a", "b")}
	for i := range waves[0].Targets {
		target := &waves[0].Targets[i]
		target.Steps[1].Accept = func(ctx context.Context) error {
			var saved map[string]string
			if has, err := rollout.Saved(ctx, &saved); err != nil || !has {
				return errors.Join(err, errors.New("nothing saved"))
			}
			if err := f.fail["accept "+target.Name]; err != nil {
				return err
			}
			forgot = append(forgot, target.Name)
			return nil
		}
	}
	o := rollout.Options{Journal: filepath.Join(t.TempDir(), "journal"),
		Budget: rollout.CountOrPercent{Count: 1}}
	f.fail["a drain"] = errors.New("no")
	if _, err := rollout.Accept(t.Context(), waves, o); !errors.Is(err, rollout.ErrNoRun) {
		t.Errorf("nothing to accept: %v", err)
	}
	if rep, _ := rollout.Run(t.Context(), waves, o); rep.Outcome != rollout.OutcomePartial {
		t.Fatal(rep.Outcome)
	}
	f.fail = map[string]error{"accept b": errors.New("unreachable")}
	if _, err := rollout.Accept(t.Context(), waves, o); !errors.Is(err, rollout.ErrFailed) {
		t.Errorf("error %v", err)
	}
	// What Undo needs may be gone from the first call on.
	for name, call := range map[string]func(context.Context, []rollout.Wave,
		rollout.Options) (*rollout.Report, error){"undo": rollout.Undo, "resume": rollout.Resume} {
		if _, err := call(t.Context(), waves, o); !errors.Is(err, rollout.ErrAccepted) {
			t.Errorf("%s: %v", name, err)
		}
	}
	f.fail = map[string]error{}
	rep, err := rollout.Accept(t.Context(), waves, o)
	if err != nil || rep.Outcome != rollout.OutcomeAccepted {
		t.Errorf("%v, %v", rep.Outcome, err)
	}
	want(t, "forgot", strings.Join(forgot, " "), "b")
	// The next run begins, and the journal of this one is kept.
	if _, err := rollout.Run(t.Context(), []rollout.Wave{f.wave("next", "c")}, o); err != nil {
		t.Error(err)
	}
	kept, err := filepath.Glob(o.Journal + ".2*")
	if err != nil || len(kept) != 1 {
		t.Fatal(kept, err)
	}
	if recs, err := readFile(kept[0]); err != nil ||
		rollout.BuildReport(recs).Outcome != rollout.OutcomeAccepted {
		t.Errorf("%s: %v", kept[0], err)
	}
}

func TestAudit(t *testing.T) {
	t.Parallel()
	f := newFleet()
	w := f.wave("w", "a")
	runner := rollout.Audited(run.Local(run.Options{}))
	w.Targets[0].Steps = append(w.Targets[0].Steps, rollout.Step{Name: "restart",
		Do: func(ctx context.Context) error {
			return errors.Join(runner(ctx, []string{"/bin/echo", "hunter2"}, nil, io.Discard, nil),
				runner(ctx, []string{"cat"}, strings.NewReader("hunter2"), io.Discard, nil))
		}})
	o := rollout.Options{Journal: filepath.Join(t.TempDir(), "journal"), Actor: "jane"}
	if _, err := rollout.Run(t.Context(), []rollout.Wave{w}, o); err != nil {
		t.Fatal(err)
	}
	if err := runner(t.Context(), []string{"true"}, nil, nil, nil); err != nil {
		t.Errorf("outside a step: %v", err)
	}
	data, err := os.ReadFile(o.Journal)
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := rollout.ExportAudit(bytes.NewReader(data), &out, rollout.AuditJSON); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(out.String(), "hunter2") {
		t.Error("an argument is in the audit log")
	}
	commands := map[string]string{}
	var results []string
	for line := range strings.Lines(out.String()) {
		var e struct {
			Actor, Event, Plan, Command, Result string
			CommandSHA256                       string `json:"command_sha256"`
		}
		if err := json.Unmarshal([]byte(line), &e); err != nil || !strings.HasPrefix(e.Actor, "jane") ||
			e.Plan == "" {
			t.Errorf("%s: %v", line, err)
		}
		if e.Event == "command" {
			commands[e.Command] = e.CommandSHA256
		}
		if e.Event == "end" || e.Event == "done" {
			results = append(results, e.Result)
		}
	}
	if len(commands["echo"]) != 64 || len(commands["cat"]) != 64 ||
		commands["echo"] == commands["cat"] {
		t.Errorf("commands %v", commands)
	}
	want(t, "results", strings.Join(results, " "), "done done")
	out.Reset()
	if err := rollout.ExportAudit(bytes.NewReader(data), &out, rollout.AuditSyslog); err != nil ||
		!strings.HasPrefix(out.String(), "<109>1 20") {
		t.Errorf("syslog %.80s, %v", out.String(), err)
	}
	changed := strings.Replace(string(data), `"step":"restart"`, `"step":"nothing"`, 1)
	if err := rollout.ExportAudit(strings.NewReader(changed), io.Discard,
		rollout.AuditJSON); !errors.Is(err, rollout.ErrJournal) {
		t.Errorf("a changed journal: %v", err)
	}
	if err := rollout.ExportAudit(strings.NewReader(""), io.Discard, "xml"); err == nil {
		t.Error("an unknown format was accepted")
	}
}

// Any byte that is changed in a record is found, at the latest by the record after it.
func TestJournalIsChained(t *testing.T) {
	t.Parallel()
	f := newFleet()
	o := rollout.Options{Journal: filepath.Join(t.TempDir(), "journal")}
	waves := []rollout.Wave{f.wave("w", "a")}
	if _, err := rollout.Run(t.Context(), waves, o); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(o.Journal)
	if err != nil {
		t.Fatal(err)
	}
	last := bytes.LastIndexByte(data[:len(data)-1], '\n')
	for i := 0; i < last; i += 7 {
		changed := slices.Clone(data)
		changed[i] ^= 1
		if _, err := rollout.ReadJournal(bytes.NewReader(changed)); !errors.Is(err, rollout.ErrJournal) {
			t.Fatalf("byte %d (%q) was changed: %v", i, data[max(0, i-10):i+10], err)
		}
	}
	for name, more := range map[string]string{
		"a garbage line": "garbage\n", "garbage without an end": "garbage",
		"two records on a line": string(data[last+1:len(data)-1]) + " {}\n", "an empty line": "\n",
	} {
		if err := os.WriteFile(o.Journal, append(slices.Clone(data), more...), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := rollout.Resume(t.Context(), waves, o); !errors.Is(err, rollout.ErrJournal) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, more := range map[string]string{"the beginning of a record": `{"v":2,"se`,
		"zeros": "\x00\x00\x00", "a beginning and zeros": "{\"v\":2\x00\x00"} {
		if err := os.WriteFile(o.Journal, append(slices.Clone(data), more...), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := rollout.Resume(t.Context(), waves, o); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// What a host says does not reach a terminal as control characters, nor from a journal.
func TestControlCharacters(t *testing.T) {
	t.Parallel()
	f := newFleet()
	evil := "\x1b]0;owned\x07\x1b[2J\u202e"
	f.fail["a drain"] = errors.New(evil)
	o := rollout.Options{Journal: filepath.Join(t.TempDir(), "journal")}
	rep, err := rollout.Run(t.Context(), []rollout.Wave{f.wave("w", "a")}, o)
	var text, page bytes.Buffer
	if werr := errors.Join(rep.WriteText(&text), rep.WriteHTML(&page)); werr != nil {
		t.Fatal(werr)
	}
	data, rerr := os.ReadFile(o.Journal)
	if rerr != nil {
		t.Fatal(rerr)
	}
	forged := rollout.BuildReport([]rollout.Record{{Kind: rollout.KindPlan, Names: []string{"a"}},
		{Kind: rollout.KindInfo, Text: evil}, {Kind: rollout.KindHalt, Error: evil}})
	for what, s := range map[string]string{"error": err.Error(), "text": text.String(),
		"page": page.String(), "journal": string(data), "events": fmt.Sprint(forged.Events,
			forged.Halt)} {
		if strings.ContainsAny(s, "\x1b\x07\u202e") || !strings.Contains(s, "owned") {
			t.Errorf("%s: %q", what, s)
		}
	}
}
