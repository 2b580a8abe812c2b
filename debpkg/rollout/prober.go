package rollout

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"
)

// Prober sends requests through the load balancer during a run, to show whether clients notice it.
// A failed probe is recorded with its time and the targets that were being changed.
type Prober struct {
	// Probe makes one request. It must end with its context.
	Probe func(context.Context) error

	Every   time.Duration // between the starts of probes, one at a time; 0: 1 s
	Timeout time.Duration // of one probe; 0: 5 s

	// Allowed is how many probes may fail. After one more failure the run pauses before the
	// next target, as with Control.Pause. Control.Continue allows the same number again.
	// Without a Control, or with Stop, the run ends with [ErrProbes] instead and can be
	// resumed.
	Allowed int
	Stop    bool
}

// ProbeCount counts the probes of a run.
type ProbeCount struct {
	Sent   int `json:"sent"`
	Failed int `json:"failed"`
}

func (c ProbeCount) String() string {
	return fmt.Sprintf("%d of %d probes failed", c.Failed,
		c.Sent)
}

func (p *Prober) validate() error {
	if p != nil && (p.Probe == nil || p.Every < 0 || p.Timeout < 0 || p.Allowed < 0) {
		return fmt.Errorf("invalid prober: want a Probe, and no negative times or counts")
	}
	return nil
}

// The journal has a count of probes at intervals, and a bounded number of failures. A load balancer
// that is down for an hour must not fill it.
const (
	countProbesEvery = 60
	maxProbeFailures = 1000
)

// probe runs until the returned function is called, which waits for its end.
func (r *runner) probe(ctx context.Context) (stop func()) {
	p := r.o.Prober
	if p == nil {
		return func() {}
	}
	every, timeout := p.Every, p.Timeout
	if every == 0 {
		every = time.Second
	}
	if timeout == 0 {
		timeout = 5 * time.Second
	}
	// It continues while targets are undone after ctx has ended.
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	var wg sync.WaitGroup
	wg.Go(func() {
		count, reported, over := ProbeCount{}, ProbeCount{}, p.Allowed
		report := func() {
			if count != reported {
				_ = r.j.add(Record{Kind: KindProbe, OK: true, Probes: &ProbeCount{
					Sent: count.Sent - reported.Sent, Failed: count.Failed - reported.Failed}})
				reported = count
			}
		}
		defer report()
		for {
			next := time.After(every)
			during, end := context.WithTimeoutCause(ctx, timeout, ErrDeadline)
			err := guard(func() error { return p.Probe(during) })
			end()
			if ctx.Err() != nil {
				return // cut short by the end of the run
			}
			count.Sent++
			if err != nil {
				count.Failed++
				if count.Failed <= maxProbeFailures {
					_ = r.j.add(Record{Kind: KindProbe, Error: err.Error(), Names: r.inHand()})
				}
				if r.o.Control.isPaused() {
					over = count.Failed + p.Allowed // counted from the end of the pause on
				} else if count.Failed > over {
					over = count.Failed + p.Allowed
					report()
					r.tooMany(count)
				}
			}
			if count.Sent%countProbesEvery == 0 {
				report()
			}
			select {
			case <-next:
			case <-ctx.Done():
				return
			}
		}
	})
	return func() {
		cancel()
		wg.Wait()
	}
}

// tooMany keeps further targets from starting.
func (r *runner) tooMany(count ProbeCount) {
	if r.o.Control == nil || r.o.Prober.Stop {
		r.halt(fmt.Errorf("%w: %s", ErrProbes, count))
		return
	}
	_ = r.j.add(Record{Kind: KindInfo, Text: "pausing before the next target: " + count.String()})
	r.o.Control.Pause()
}

// inHand returns the targets that are being changed.
func (r *runner) inHand() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Sorted(func(yield func(string) bool) {
		for name := range r.working {
			if !yield(name) {
				return
			}
		}
	})
}

// work notes that a target is worked on until the returned function is called.
func (r *runner) work(name string) (end func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.working[name]++
	return func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		if r.working[name]--; r.working[name] == 0 {
			delete(r.working, name)
		}
	}
}
