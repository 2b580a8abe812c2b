package health

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
)

// Report is the result of [Once] or [Wait]. Its JSON is stable: new releases add members, but
// never rename them.
type Report struct {
	Status   Status        `json:"status"` // the worst of the probes; never Pass if Error is set
	Started  time.Time     `json:"started"`
	Duration time.Duration `json:"duration_ns"`
	Error    string        `json:"error,omitempty"` // why a wait failed
	Probes   []ProbeReport `json:"probes"`          // in the order of the arguments
}

// ProbeReport is the last result of one probe.
type ProbeReport struct {
	Result
	Tries     int    `json:"tries"`
	Passes    int    `json:"passes"`               // counted in a row
	LastError string `json:"last_error,omitempty"` // of this or an earlier try
}

func (w *waiter) report() Report {
	r := Report{Status: Pass, Started: w.start, Duration: time.Since(w.start)}
	for _, t := range w.probes {
		if t.tries == 0 {
			t.last = Result{Probe: t.probe.name(), Kind: t.probe.Kind, Status: Unknown, Time: w.start}
			if u, err := t.probe.target(); err == nil {
				t.last.URL = shown(u)
			}
			t.last.fail(Unknown, fmt.Errorf("%w: the time ended before its first try", ErrNotYetKnown),
				"allow more time or concurrency")
		}
		r.Status = worst(r.Status, t.last.Status)
		r.Probes = append(r.Probes, ProbeReport{Result: t.last, Tries: t.tries, Passes: t.passes,
			LastError: t.lastErr})
	}
	return r
}

// WriteJSON writes the complete report as JSON.
func (r Report) WriteJSON(w io.Writer) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	return e.Encode(r)
}

// WriteHealth writes the report as application/health+json of
// draft-inadarei-api-health-check-06, with one check per probe. The draft has no status
// unknown, so it becomes fail with an output that begins with "unknown".
func (r Report) WriteHealth(w io.Writer) error {
	type check struct {
		ComponentType string   `json:"componentType"`
		ObservedValue float64  `json:"observedValue"`
		ObservedUnit  string   `json:"observedUnit"`
		Status        Status   `json:"status"`
		Time          string   `json:"time"`
		Output        string   `json:"output,omitempty"`
		Version       string   `json:"version,omitempty"`
		NotCovered    []string `json:"notCovered,omitempty"`
	}
	doc := struct {
		Status      Status             `json:"status"`
		Description string             `json:"description"`
		Checks      map[string][]check `json:"checks"`
		Notes       []string           `json:"notes,omitempty"`
	}{Status: known(r.Status), Description: "Tyk stack as seen by tykupgrade",
		Checks: map[string][]check{}}
	for _, p := range r.Probes {
		c := check{ComponentType: "component", ObservedValue: float64(p.Latency.Microseconds()) / 1000,
			ObservedUnit: "ms",
			Status:       known(p.Status), Time: p.Time.UTC().Format(time.RFC3339), Version: p.Version,
			NotCovered: p.NotCovered}
		if p.Status != Pass {
			c.Output = string(p.Status) + ": " + p.Error
		}
		key := strings.ReplaceAll(p.Probe, ":", "_") + ":responseTime"
		doc.Checks[key] = append(doc.Checks[key], c)
	}
	if r.Status == Unknown {
		doc.Notes = []string{"not yet known; reported as fail"}
	}
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	return e.Encode(doc)
}

func known(s Status) Status {
	if s == Unknown || s == "" {
		return Fail
	}
	return s
}

// Rows returns the cells of a table of the report. The first row is the heading.
func (r Report) Rows() [][]string {
	rows := [][]string{{"PROBE", "STATUS", "VERSION", "LATENCY", "TRIES", "REMARK"}}
	for _, p := range r.Probes {
		rows = append(rows, []string{p.Probe, string(p.Status), dash(p.Version),
			p.Latency.Round(100 * time.Microsecond).String(),
			strconv.Itoa(p.Tries), p.remark()})
	}
	return rows
}

// remark returns why a probe did not pass, or what a pass does not cover.
func (p ProbeReport) remark() string {
	if p.Err != nil {
		if e, ok := p.Err.(*Error); ok {
			return printable(e.Err.Error() + after("; ", e.Next))
		}
	}
	if p.Error != "" {
		return p.Error
	}
	if len(p.NotCovered) > 0 {
		return "not covered: " + strings.Join(p.NotCovered, "; ")
	}
	return ""
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// WriteTable writes the report as a table for people.
func (r Report) WriteTable(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, row := range r.Rows() {
		if _, err := fmt.Fprintln(t, strings.Join(row, "\t")); err != nil {
			return err
		}
	}
	return t.Flush()
}

// PrometheusType is the media type of [Report.WritePrometheus].
const PrometheusType = "text/plain; version=0.0.4; charset=utf-8"

// WritePrometheus writes the report in Prometheus' text exposition format.
func (r Report) WritePrometheus(w io.Writer) error {
	var b strings.Builder
	family := func(name, help string, each func(p ProbeReport, sample func(labels []string,
		value float64))) {
		fmt.Fprintf(&b, "# HELP %s %s\n# TYPE %s gauge\n", name, help, name)
		for _, p := range r.Probes {
			each(p, func(labels []string, value float64) {
				labels = append([]string{"probe", p.Probe, "kind", string(p.Kind)}, labels...)
				fmt.Fprintf(&b, "%s{", name)
				for i := 0; i < len(labels); i += 2 {
					if i > 0 {
						b.WriteByte(',')
					}
					fmt.Fprintf(&b, `%s="%s"`, labels[i], labelEscape.Replace(labels[i+1]))
				}
				fmt.Fprintf(&b, "} %s\n", strconv.FormatFloat(value, 'g', -1, 64))
			})
		}
	}
	type sample = func([]string, float64)
	truth := func(v bool) float64 {
		if v {
			return 1
		}
		return 0
	}
	family("tyk_probe_success", "Whether the probe passed.", func(p ProbeReport, s sample) {
		s(nil,
			truth(p.Status == Pass))
	})
	family("tyk_probe_status", "1 for the current state of the probe.", func(p ProbeReport, s sample) {
		for _, state := range []Status{Pass, Warn, Unknown, Fail} {
			s([]string{"status", string(state)}, truth(p.Status == state))
		}
	})
	family("tyk_probe_component_up", "Whether the program reaches this dependency.",
		func(p ProbeReport, s sample) {
			seen := map[string]float64{}
			var names []string
			for _, c := range p.Components {
				if _, ok := seen[c.Name]; !ok {
					names = append(names, c.Name)
					seen[c.Name] = 1
				}
				seen[c.Name] = min(seen[c.Name], truth(c.Status == Pass))
			}
			slices.Sort(names)
			for _, n := range names {
				s([]string{"component", n}, seen[n])
			}
		})
	family("tyk_probe_version_info", "The reported version, as a label.", func(p ProbeReport,
		s sample) {
		if p.Version != "" {
			s([]string{"version", p.Version}, 1)
		}
	})
	family("tyk_probe_latency_seconds", "Duration of the last try.", func(p ProbeReport,
		s sample) {
		s(nil, p.Latency.Seconds())
	})
	family("tyk_probe_tries", "Tries made for the report.", func(p ProbeReport, s sample) {
		s(nil,
			float64(p.Tries))
	})
	family("tyk_probe_time_seconds", "Start of the last try, Unix time.", func(p ProbeReport,
		s sample) {
		s(nil, float64(p.Time.UnixMilli())/1000)
	})
	_, err := io.WriteString(w, b.String())
	return err
}

var labelEscape = strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`)
