package health

import (
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"time"
)

// Policy sets how probes are repeated. The zero value waits at most two minutes
// for two passes in a row of each probe.
type Policy struct {
	// SuccessThreshold is how many passes in a row each probe needs; 0: two. A gateway checks
	// itself every ten seconds. Its pass counts only if its own check is newer than at the last
	// pass. So the second pass shows that the checks still run.
	SuccessThreshold int
	// For is the least time between the first and the last of those passes.
	For time.Duration
	// AcceptWarn makes a warning count as a pass.
	AcceptWarn bool
	// FailureThreshold is how many failures in a row end the wait; 0: only the deadline ends
	// it. An unknown result is neither pass nor failure.
	FailureThreshold int
	// Startup is the time from the beginning during which failures do not count and do not end
	// the wait. An ingress that starts may show another certificate for a while.
	Startup time.Duration
	// Deadline limits the whole wait; 0: two minutes.
	Deadline time.Duration
	// Interval is the longest pause between two tries of a probe; 0: one second. It doubles
	// after each miss in a row, up to MaxInterval; 0: ten seconds. Each pause is a random part
	// of it (full jitter).
	Interval, MaxInterval time.Duration
	// TryTimeout limits one try of a probe that has no Timeout; 0: DefaultTimeout.
	TryTimeout time.Duration
	// Concurrency is how many tries run at a time; 0: 256.
	Concurrency int

	Client *http.Client // nil: a client of NewClient
	Event  func(Event)  // called after each try, one call at a time; may be nil
	Log    *slog.Logger // nil: silent
}

// Event describes one try within a [Wait].
type Event struct {
	Index    int // of the probe, in the order of the arguments
	Result   Result
	Try      int           // of this probe, from 1
	Counted  bool          // the try added to Passes
	Passes   int           // in a row, including this try
	Failures int           // in a row, including this try
	Needed   int           // passes in a row that the probe needs
	Next     time.Duration // until the next try
	Done     int           // probes with all passes that they need
	Of       int           // number of probes
}

func (p Policy) withDefaults() (Policy, error) {
	if p.SuccessThreshold < 0 || p.FailureThreshold < 0 || p.Concurrency < 0 || p.For < 0 ||
		p.Startup < 0 || p.Deadline < 0 ||
		p.Interval < 0 || p.MaxInterval < 0 || p.TryTimeout < 0 {
		return p, errors.New("check policy: a number or duration is negative")
	}
	orDuration := func(d *time.Duration, def time.Duration) {
		if *d == 0 {
			*d = def
		}
	}
	orDuration(&p.Deadline, 2*time.Minute)
	orDuration(&p.Interval, time.Second)
	orDuration(&p.MaxInterval, max(10*time.Second, p.Interval))
	orDuration(&p.TryTimeout, DefaultTimeout)
	if p.SuccessThreshold == 0 {
		p.SuccessThreshold = 2
	}
	if p.Concurrency == 0 {
		p.Concurrency = 256
	}
	switch {
	case p.MaxInterval < p.Interval:
		return p, fmt.Errorf("check policy: MaxInterval %v is shorter than Interval %v", p.MaxInterval,
			p.Interval)
	case p.For >= p.Deadline:
		return p, fmt.Errorf("check policy: passes over %v do not fit into a deadline of %v", p.For,
			p.Deadline)
	}
	if p.Log == nil {
		p.Log = slog.New(slog.DiscardHandler)
	}
	return p, nil
}
