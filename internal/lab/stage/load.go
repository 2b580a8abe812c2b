package stage

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Load sends requests until it is stopped, without keep-alive: Go's client repeats what fails on
// a kept connection, and so hides failures.
type Load struct {
	total, failed atomic.Int64
	first         atomic.Value
	headers       []string
	stop          func()
}

// enough is how many requests a test may ask for. The load slows down after them.
const enough = 5000

// StartLoad sends requests to addr from some clients, each about ten a second until 5,000 are
// sent, then one a second: short and long ones, with and without a body. The rate is bounded, so
// that the load measures the upgrade and not the machine. An answer without one of the headers
// has failed.
func StartLoad(addr string, clients int, headers ...string) *Load {
	l := &Load{headers: headers}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: time.Minute}
	done := make(chan struct{})
	var wg sync.WaitGroup
	for worker := range clients {
		rnd := rand.New(rand.NewPCG(uint64(worker), 7))
		wg.Go(func() {
			for {
				select {
				case <-done:
					return
				case <-time.After(l.pause(20*time.Millisecond + time.Duration(rnd.IntN(60))*time.Millisecond)):
				}
				path := "/fast"
				switch n := rnd.IntN(100); {
				case n < 1:
					path = "/delay/2.5s/x"
				case n < 10:
					path = "/delay/150ms/x"
				}
				method := http.MethodGet
				if rnd.IntN(4) == 0 {
					method = http.MethodPost
				}
				l.request(client, method, "http://"+addr+path)
			}
		})
	}
	l.stop = sync.OnceFunc(func() { close(done); wg.Wait() })
	return l
}

func (l *Load) pause(d time.Duration) time.Duration {
	if l.total.Load() >= enough {
		return 10 * d
	}
	return d
}

func (l *Load) request(client *http.Client, method, url string) {
	req, err := http.NewRequest(method, url, strings.NewReader("body"))
	if err != nil {
		panic(err)
	}
	l.total.Add(1)
	resp, err := client.Do(req)
	if err == nil {
		_, err = io.Copy(io.Discard, resp.Body)
		_ = resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			err = errors.New(resp.Status)
		}
		for _, h := range l.headers {
			if err == nil && resp.Header.Get(h) == "" {
				err = fmt.Errorf("the answer has no header %s", h)
			}
		}
	}
	if err != nil {
		l.failed.Add(1)
		l.first.CompareAndSwap(nil, fmt.Sprintf("%s %s at %s: %v", method, url,
			time.Now().Format("15:04:05.000"), err))
	}
}

// Stop ends the load once every request has its answer. It may be called twice.
func (l *Load) Stop() { l.stop() }

// Sent is how many requests were sent so far, and how many of them failed.
func (l *Load) Sent() (total, failed int64) { return l.total.Load(), l.failed.Load() }

// First is the first failure; empty: there was none.
func (l *Load) First() string {
	text, _ := l.first.Load().(string)
	return text
}
