package healthtest

import (
	"io"
	"net/http"
	"net/http/httptest"
	"time"
)

// Client returns a client that sends every request to this program, to any host. It opens no
// connection, so time may be virtual (testing/synctest).
func (s *Program) Client() *http.Client { return Client(s) }

// Client returns a client that sends every request to h, without a network. For several
// programs use an http.ServeMux with patterns such as "gw1:8080/".
func Client(h http.Handler) *http.Client { return &http.Client{Transport: transport{h}} }

type transport struct{ http.Handler }

func (t transport) RoundTrip(r *http.Request) (*http.Response, error) {
	type served struct {
		res *http.Response
		err error
	}
	done := make(chan served, 1)
	go func() {
		defer func() {
			if recover() != nil { // http.ErrAbortHandler, as a server treats it
				done <- served{err: io.ErrUnexpectedEOF}
			}
		}()
		w := httptest.NewRecorder()
		w.Header().Set("Date", time.Now().UTC().Format(http.TimeFormat))
		t.ServeHTTP(w, r)
		done <- served{res: w.Result()}
	}()
	select {
	case s := <-done:
		return s.res, s.err
	case <-r.Context().Done():
		return nil, r.Context().Err()
	}
}
