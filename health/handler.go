package health

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"
)

// HandlerOptions limits the work that requests to a [Handler] cause. The zero value is useful.
type HandlerOptions struct {
	MaxAge  time.Duration // how long to serve a report before making a new one; 0: five seconds
	Timeout time.Duration // how long a request waits for a new report; 0: ten seconds
}

// Handler serves the latest report to load balancers, rollouts and Prometheus. It calls
// latest, for example [Once], on a request if the last report is older than MaxAge. It never
// runs latest twice at a time, and ends its context after Timeout. If latest does not return
// in time, the answer is "unknown".
//
// GET and HEAD answer 200 for pass and warn, otherwise 503. The query parameter format
// selects the body:
//
//   - none: application/health+json
//   - json: as [Report.WriteJSON]
//   - table: as [Report.WriteTable]
//   - prometheus: as [Report.WritePrometheus], always with 200
//
// Without the parameter, an Accept header of Prometheus selects prometheus: it begins with
// text/plain or names OpenMetrics.
func Handler(latest func(context.Context) (Report, error), o HandlerOptions) http.Handler {
	if o.MaxAge <= 0 {
		o.MaxAge = 5 * time.Second
	}
	if o.Timeout <= 0 {
		o.Timeout = 10 * time.Second
	}
	return &handler{latest: latest, o: o}
}

type handler struct {
	latest func(context.Context) (Report, error)
	o      HandlerOptions

	mu      sync.Mutex
	report  Report
	err     error
	made    time.Time
	pending chan struct{} // closed when the new report is ready
}

func (h *handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		http.Error(w, http.StatusText(http.StatusMethodNotAllowed), http.StatusMethodNotAllowed)
		return
	}
	format := r.URL.Query().Get("format")
	accept := r.Header.Get("Accept")
	if format == "" && (strings.HasPrefix(accept, "text/plain") || strings.Contains(accept,
		"application/openmetrics-text")) {
		format = "prometheus"
	}
	report, age, err := h.get(r.Context())
	var body bytes.Buffer
	write, media := report.WriteHealth, MediaType
	switch format {
	case "":
	case "json":
		write, media = report.WriteJSON, "application/json"
	case "table":
		write, media = report.WriteTable, "text/plain; charset=utf-8"
	case "prometheus":
		write, media = report.WritePrometheus, PrometheusType
	default:
		http.Error(w, "unknown format (want json, table or prometheus)", http.StatusBadRequest)
		return
	}
	code := http.StatusOK
	// Prometheus drops the samples of any other answer.
	if format != "prometheus" {
		if report.Status != Pass && report.Status != Warn {
			code = http.StatusServiceUnavailable
		}
		if err != nil {
			media = MediaType
			write = func(w io.Writer) error {
				return json.NewEncoder(w).Encode(map[string]string{"status": string(Fail),
					"output": "unknown: " + clean(err.Error())})
			}
		}
	}
	if err := write(&body); err != nil {
		http.Error(w, "write report", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", media)
	w.Header().Set("Cache-Control", fmt.Sprintf("max-age=%d", max(0, int((h.o.MaxAge-age).Seconds()))))
	w.WriteHeader(code)
	if r.Method == http.MethodGet {
		_, _ = w.Write(body.Bytes())
	}
}

// get returns the last report if it is fresh enough, otherwise waits for a new one. No request
// owns the new report: its client may go away.
func (h *handler) get(ctx context.Context) (Report, time.Duration, error) {
	h.mu.Lock()
	if h.pending == nil && !h.made.IsZero() && time.Since(h.made) < h.o.MaxAge {
		defer h.mu.Unlock()
		return h.report, time.Since(h.made), h.err
	}
	if h.pending == nil {
		h.pending = make(chan struct{})
		go h.renew(context.WithoutCancel(ctx), h.pending)
	}
	pending := h.pending
	h.mu.Unlock()
	late := time.NewTimer(h.o.Timeout)
	defer late.Stop()
	select {
	case <-pending:
		h.mu.Lock()
		defer h.mu.Unlock()
		return h.report, time.Since(h.made), h.err
	case <-late.C:
		return Report{Status: Unknown}, h.o.MaxAge, fmt.Errorf("no report within %v", h.o.Timeout)
	case <-ctx.Done():
		return Report{Status: Unknown}, h.o.MaxAge, ctx.Err()
	}
}

func (h *handler) renew(ctx context.Context, pending chan struct{}) {
	ctx, cancel := context.WithTimeout(ctx, h.o.Timeout)
	defer cancel()
	report, err := h.latest(ctx)
	if err != nil && report.Status == "" {
		report.Status = Unknown
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.report, h.err, h.made, h.pending = report, err, time.Now(), nil
	if len(report.Probes) > 0 {
		h.err = nil // the probes say more than the error
	}
	close(pending)
}
