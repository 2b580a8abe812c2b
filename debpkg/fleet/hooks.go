package fleet

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"slices"
	"time"

	"example.com/tykupgrade/debpkg"
	"example.com/tykupgrade/debpkg/rollout"
)

// Hook is a command or a webhook that gets the events of a run. If it fails at a point such as
// before_target, the run stops there.
type Hook struct {
	Name string `yaml:"name"` // in reports
	// before_run, before_wave, before_target, after_target, after_wave, on_failure, after_run
	On    []string `yaml:"on"`
	Waves []string `yaml:"waves"` // names of waves, such as prepare or gateway; empty: all
	// gets the event as JSON on stdin and fails with an exit code other than 0
	Command []string `yaml:"command"`
	// gets the event as JSON in a POST and fails with a status other than 2xx
	URL     string   `yaml:"url"`
	URLEnv  string   `yaml:"url_env"` // variable with the URL, if the URL is a secret
	Timeout Duration `yaml:"timeout"` // 0: 30 s
}

var points = []rollout.Point{rollout.BeforeRun, rollout.BeforeWave, rollout.BeforeTarget,
	rollout.AfterTarget, rollout.AfterWave, rollout.OnFailure, rollout.AfterRun}

func (h Hook) check() error {
	given := 0
	for _, set := range []bool{len(h.Command) > 0, h.URL != "", h.URLEnv != ""} {
		if set {
			given++
		}
	}
	switch {
	case h.Name == "":
		return errors.New("the name is missing")
	case len(h.On) == 0:
		return fmt.Errorf("hook %s: on is missing: want points such as [before_target, after_run]",
			h.Name)
	case given != 1:
		return fmt.Errorf("hook %s: want one of command, url and url_env", h.Name)
	}
	for _, on := range h.On {
		if !slices.Contains(points, rollout.Point(on)) {
			return fmt.Errorf("hook %s: unknown point %q (want one of %v)", h.Name, on, points)
		}
	}
	return nil
}

func (h Hook) hook() rollout.Hook {
	r := rollout.Hook{Name: h.Name, Waves: h.Waves, Timeout: time.Duration(h.Timeout), Call: h.post}
	for _, on := range h.On {
		r.On = append(r.On, rollout.Point(on))
	}
	if len(h.Command) > 0 {
		r.Call = rollout.CommandHook(debpkg.Local(), h.Command...)
	}
	return r
}

// post sends the event. Its errors do not contain the URL, which may be a secret.
func (h Hook) post(ctx context.Context, e rollout.HookEvent) error {
	at := h.URL
	if h.URLEnv != "" {
		if at = os.Getenv(h.URLEnv); at == "" {
			return fmt.Errorf("the variable %s is not set", h.URLEnv)
		}
	}
	data, err := json.Marshal(e)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, at, bytes.NewReader(data))
	if err != nil {
		return errors.New("invalid URL")
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		if u := new(url.Error); errors.As(err, &u) {
			err = u.Err
		}
		return err
	}
	_ = resp.Body.Close()
	if resp.StatusCode/100 != 2 {
		return errors.New("unexpected status " + resp.Status)
	}
	return nil
}

// Prober sets how a run sends the gates' requests all the time, to show whether clients notice it.
type Prober struct {
	Off     bool     `yaml:"off"`     // no prober
	Every   Duration `yaml:"every"`   // 0: 1 s
	Timeout Duration `yaml:"timeout"` // of one round; 0: 5 s
	Allowed int      `yaml:"allowed"` // rounds that may fail before the run pauses or stops
	Stop    bool     `yaml:"stop"`    // stop instead of pausing
}

// prober is nil if there is nothing to send.
func (inv *Inventory) prober() *rollout.Prober {
	p := inv.Prober
	if p.Off || !slices.ContainsFunc(inv.Gates, func(g Gate) bool { return g.Query == "" }) {
		return nil
	}
	return &rollout.Prober{Probe: inv.ProbeGates, Every: time.Duration(p.Every),
		Timeout: time.Duration(p.Timeout), Allowed: p.Allowed, Stop: p.Stop}
}
