package bundle_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"example.com/tykupgrade/bundle"
)

func TestServedAndFetch(t *testing.T) {
	t.Parallel()
	sum := sha256.Sum256([]byte("bundle"))
	want := bundle.Digest{Size: 6, SHA256: hex.EncodeToString(sum[:])}
	stop := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/good.zip":
			if r.Header.Get("X-Key") == "k" {
				_, _ = w.Write([]byte("bundle"))
				return
			}
			_, _ = w.Write([]byte("bundle"))
		case "/other.zip":
			_, _ = w.Write([]byte("bundlX"))
		case "/endless.zip":
			for r.Context().Err() == nil {
				if _, err := w.Write(make([]byte, 4096)); err != nil {
					return
				}
			}
		case "/moved.zip":
			http.Redirect(w, r, "/good.zip", http.StatusFound)
		case "/slow.zip":
			<-stop
		case "/broken.zip":
			w.WriteHeader(http.StatusBadGateway)
		default:
			http.NotFound(w, r)
		}
	}))
	t.Cleanup(server.Close)
	t.Cleanup(func() { close(stop) })
	for _, c := range []struct {
		path  string
		kind  error
		says  string
		retry bool
	}{
		{"/good.zip", nil, "", false},
		{"/other.zip", bundle.ErrServer, "want 6 bytes", false},
		{"/endless.zip", bundle.ErrServer, "more than 6 bytes", false},
		{"/moved.zip", bundle.ErrServer, "redirects", false},
		{"/none.zip", fs.ErrNotExist, "404", false},
		{"/broken.zip", bundle.ErrServer, "502", true},
		{"/slow.zip", context.DeadlineExceeded, "deadline", true},
	} {
		addr := strings.Replace(server.URL, "http://", "http://user:geheim@", 1) + c.path + "?key=geheim"
		timeout := 20 * time.Second
		if c.path == "/slow.zip" {
			timeout = 50 * time.Millisecond
		}
		file := filepath.Join(t.TempDir(), "a.zip")
		err := bundle.Served(t.Context(), addr, want, bundle.FetchOptions{Timeout: timeout})
		_, fetched := bundle.Fetch(t.Context(), addr, file, bundle.FetchOptions{Timeout: timeout,
			MaxSize: 6})
		if c.path == "/other.zip" {
			fetched = err // a digest was not requested
		}
		for _, err := range []error{err, fetched} {
			if c.kind == nil {
				if err != nil {
					t.Errorf("%s: %v", c.path, err)
				}
				continue
			}
			own := new(bundle.Error)
			if !errors.As(err, &own) || !errors.Is(err, c.kind) || !strings.Contains(err.Error(), c.says) ||
				own.Retry != c.retry || strings.Contains(err.Error(), "geheim") {
				t.Errorf("%s: %v, retry %v", c.path, err, own.Retry)
			}
		}
		if entries, _ := os.ReadDir(filepath.Dir(file)); (len(entries) == 1) != (c.kind == nil ||
			c.path == "/other.zip") {
			t.Errorf("%s left %v", c.path, entries)
		}
	}
	for _, addr := range []string{"", "ftp://x/a.zip", "http://", "http://u:geheim@h\x7f/"} {
		if err := bundle.Served(t.Context(), addr, want, bundle.FetchOptions{}); err == nil ||
			strings.Contains(err.Error(), "geheim") {
			t.Errorf("%q: %v", addr, err)
		}
	}
}
