package health

import (
	"errors"
	"fmt"
	"slices"
	"time"
)

// tracked is a probe with the state of its tries.
type tracked struct {
	probe    Probe
	index    int
	last     Result
	lastErr  string
	tries    int
	passes   int
	failures int
	misses   int       // tries in a row that did not pass, for the interval
	first    time.Time // end of the first pass in a row
	evidence time.Time // of the last counted pass
	instance string
	repeated int       // passes in a row whose own check was already counted
	restarts int       // times the gateway's own check was older than the one before
	newest   time.Time // time of the newest own check, counted or not
	advanced time.Time // when newest last changed
	done     bool
	next     time.Time
}

// queue is a heap of probes. The first is due next.
type queue []*tracked

func (q queue) Len() int { return len(q) }
func (q queue) Less(i, j int) bool {
	if c := q[i].next.Compare(q[j].next); c != 0 {
		return c < 0
	}
	return q[i].index < q[j].index
}
func (q queue) Swap(i, j int) { q[i], q[j] = q[j], q[i] }
func (q *queue) Push(x any)   { *q = append(*q, x.(*tracked)) }
func (q *queue) Pop() any {
	last := len(*q) - 1
	t := (*q)[last]
	(*q)[last], *q = nil, (*q)[:last]
	return t
}

func (t *tracked) note(r Result) {
	t.last = r
	if r.Err != nil {
		t.lastErr = r.Error
	}
}

// seen corrects a stale result if the gateway's own check got newer within MaxAge. The check
// then runs, and the Date of the answer is from another clock.
func (t *tracked) seen(r Result) Result {
	if r.Evidence.After(t.newest) {
		if !t.newest.IsZero() {
			t.advanced = time.Now()
		}
		t.newest = r.Evidence
	}
	limit := t.probe.MaxAge
	if limit == 0 {
		limit = defaultMaxAge
	}
	if r.fresh == nil || !errors.Is(r.Err, ErrStale) || t.advanced.IsZero() ||
		time.Since(t.advanced) > limit {
		return r
	}
	r.Status, r.Err, r.Error = r.fresh.Status, r.fresh.Err, r.fresh.Error
	r.NotCovered = append(slices.Clip(r.NotCovered), "the age of the gateway's own check: the Date "+
		"of the answer is from another clock")
	return r
}

// lack returns why the probe has not passed: its last failure, or too few passes.
func (t *tracked) lack(p Policy) error {
	if t.last.Err != nil {
		return t.last.Err
	}
	if t.tries == 0 {
		return newError(t.probe.name(), "", fmt.Errorf("%w: no try finished before the wait ended",
			ErrNotYetKnown), "allow more time or concurrency", true)
	}
	err := fmt.Errorf("%d of %d passes in a row", min(t.passes, p.SuccessThreshold),
		p.SuccessThreshold)
	next := "allow more time"
	switch {
	case t.restarts > 0:
		err = fmt.Errorf("%w; the gateway's own check went back in time %d times", err, t.restarts)
		next = "if a load balancer is in front, probe each gateway by its own address; otherwise find " +
			"out why it restarts"
	case t.repeated > 0:
		err = fmt.Errorf("%w; the gateway's own check did not get newer in %d tries", err, t.repeated)
		next = "allow more time than liveness_check.check_duration (ten seconds by default) for each pass"
	case t.passes >= p.SuccessThreshold:
		err = fmt.Errorf("%w; they do not span %v yet", err, p.For)
	}
	return newError(t.probe.name(), t.last.URL, err, next, true)
}

// count updates the passes in a row and reports whether r added one.
func (t *tracked) count(p Policy, r Result) bool {
	if r.Status != Pass && !(p.AcceptWarn && r.Status == Warn) {
		t.passes = 0
		t.misses++
		return false
	}
	t.misses = 0
	if r.Evidence.Before(t.evidence) {
		t.restarts++
	}
	switch {
	case t.passes == 0, r.instance != t.instance, r.Evidence.Before(t.evidence):
		t.passes, t.first = 0, time.Now()
	case r.Kind == KindGateway && r.Evidence.Equal(t.evidence):
		t.repeated++
		return false
	}
	t.repeated = 0
	t.passes++
	t.evidence, t.instance = r.Evidence, r.instance
	return true
}
