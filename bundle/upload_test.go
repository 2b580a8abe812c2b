package bundle_test

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"example.com/tykupgrade/bundle"
)

// bundleServer is a server that only a team's own tool writes to.
type bundleServer struct {
	url    string
	mu     sync.Mutex
	files  map[string]string
	broken error // what the next uploads answer
	lost   bool  // uploads succeed and change nothing
}

func newBundleServer(t *testing.T) *bundleServer {
	t.Helper()
	s := &bundleServer{files: map[string]string{}}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		defer s.mu.Unlock()
		text, ok := s.files[filepath.Base(r.URL.Path)]
		if !ok {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		_, _ = w.Write([]byte(text))
	}))
	t.Cleanup(srv.Close)
	s.url = srv.URL + "/"
	return s
}

func (s *bundleServer) put(_ context.Context, file, name string) error {
	data, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.broken != nil || s.lost {
		return s.broken
	}
	s.files[name] = string(data)
	return nil
}

func TestUpload(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	s := newBundleServer(t)
	s.files["b.zip"] = "old"
	next := filepath.Join(t.TempDir(), "next.zip")
	if err := os.WriteFile(next, []byte("new"), 0o600); err != nil {
		t.Fatal(err)
	}
	u := bundle.Upload{URL: s.url, Name: "b.zip", Dir: t.TempDir(), Put: s.put}
	is := func(what, served string, kept bool) {
		t.Helper()
		_, err := os.Lstat(u.Kept())
		if s.files["b.zip"] != served || (err == nil) != kept {
			t.Errorf("%s: the server has %q, the old bundle is kept: %v", what, s.files["b.zip"], err == nil)
		}
	}
	fails := func(what string, err, kind error) {
		t.Helper()
		e := (*bundle.Error)(nil)
		if !errors.As(err, &e) || kind != nil && !errors.Is(err, kind) {
			t.Errorf("%s: %v", what, err)
		}
	}

	s.broken = errors.New("no space")
	fails("an upload that fails", u.Publish(ctx, next), s.broken)
	is("after it", "old", true)
	s.broken, s.lost = nil, true
	fails("an upload that changes nothing", u.Publish(ctx, next), bundle.ErrServer)
	is("after it", "old", true)
	s.lost = false
	for range 2 { // as a resumed run does
		if err := u.Publish(ctx, next); err != nil {
			t.Fatal(err)
		}
		is("published", "new", true)
	}

	s.broken = errors.New("no connection")
	fails("a revert that fails", u.Revert(ctx), s.broken)
	is("after it", "new", true)
	// The only copy of the old bundle stays until the server serves it.
	s.broken, s.lost = nil, true
	fails("a revert that changes nothing", u.Revert(ctx), bundle.ErrServer)
	is("after it", "new", true)
	s.lost = false
	for range 2 {
		if err := u.Revert(ctx); err != nil {
			t.Fatal(err)
		}
		is("reverted", "old", false)
	}

	if err := errors.Join(u.Publish(ctx, next), u.Accept(ctx), u.Accept(ctx)); err != nil {
		t.Fatal(err)
	}
	is("accepted", "new", false)
	if err := u.Revert(ctx); err != nil {
		t.Fatal(err)
	}
	is("reverted after that", "new", false)
}

// A server without the bundle has nothing to keep, and a revert puts nothing there.
func TestUploadOfFirstBundle(t *testing.T) {
	t.Parallel()
	s := newBundleServer(t)
	next := filepath.Join(t.TempDir(), "next.zip")
	if err := os.WriteFile(next, []byte("new"), 0o600); err != nil {
		t.Fatal(err)
	}
	u := bundle.Upload{URL: s.url, Name: "b.zip", Dir: t.TempDir(), Put: s.put}
	for range 2 { // the second one must not keep what the first one published
		if err := u.Publish(t.Context(), next); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := os.Lstat(u.Kept()); err == nil {
		t.Error("the new bundle is kept as the old one")
	}
	if err := u.Revert(t.Context()); err != nil {
		t.Fatal(err)
	}
	if left, _ := os.ReadDir(u.Dir); len(left) > 0 || s.files["b.zip"] != "new" {
		t.Errorf("left %v, served %q", left, s.files["b.zip"])
	}
}
