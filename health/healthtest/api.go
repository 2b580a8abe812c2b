package healthtest

import (
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"
)

// serveAPI is the gateway's only API. It listens on every other path.
func (s *Program) serveAPI(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	plugin, version := s.plugin, s.version
	s.mu.Unlock()
	switch {
	case plugin == Loaded:
		r = r.Clone(r.Context())
		r.Header.Add("Foo", "Bar")
		w.Header().Add("Foo", "Bar")
	case plugin == Broken && !passesWithoutPlugin(version):
		writeJSON(w, http.StatusInternalServerError, map[string]string{
			"error": http.StatusText(http.StatusInternalServerError)})
		return
	}
	s.o.Upstream.ServeHTTP(w, r)
}

// Echo is an upstream that answers with the request as JSON. It waits first if the path begins
// with a duration, as in /delay/150ms/.
func Echo(w http.ResponseWriter, r *http.Request) {
	if rest, ok := strings.CutPrefix(r.URL.Path, "/delay/"); ok {
		text, _, _ := strings.Cut(rest, "/")
		d, err := time.ParseDuration(text)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		select {
		case <-time.After(d):
		case <-r.Context().Done():
			return
		}
	}
	n, err := io.Copy(io.Discard, r.Body)
	if err != nil {
		return
	}
	writeJSON(w, http.StatusOK, map[string]any{"method": r.Method, "path": r.URL.Path,
		"headers": r.Header, "body_bytes": n})
}

// The rules below are those of the gateway's tags 3.0.0 to 5.14.0.

func (s *Program) reported() string {
	if older(s.version, 4, 1, 0) {
		return "v" + s.version
	}
	return s.version
}

func fails503(version string) bool {
	return slices.Contains([]string{"5.8.3", "5.8.6", "5.8.7", "5.8.8", "5.8.9", "5.8.10", "5.8.11",
		"5.8.12", "5.9.0"}, version)
}

func hasReady(version string) bool { return !older(version, 5, 8, 3) }

func passesWithoutPlugin(version string) bool {
	return older(version, 4, 0, 13) || !older(version, 4, 1, 0) && older(version, 5, 0, 1)
}

func older(version string, major, minor, patch int) bool {
	var v [3]int
	_, _ = fmt.Sscanf(version, "%d.%d.%d", &v[0], &v[1], &v[2])
	return slices.Compare(v[:], []int{major, minor, patch}) < 0
}
