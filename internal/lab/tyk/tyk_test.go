package tyk_test

import (
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"example.com/tykupgrade/internal/lab"
	"example.com/tykupgrade/internal/lab/port"
	"example.com/tykupgrade/internal/lab/tyk"
)

func ask(h http.Handler, method, path string) (int, string) {
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(method, path, nil))
	return w.Code, strings.TrimSpace(w.Body.String())
}

func TestGatewayOverTime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := tyk.New(tyk.Options{Kind: tyk.Gateway, Version: "5.2.5"})
		s.SetRedis(errors.New("redis is down"))
		want := func(after time.Duration, code int, parts ...string) {
			t.Helper()
			time.Sleep(after)
			got, body := ask(s, "GET", "/hello")
			if got != code {
				t.Errorf("HTTP %d, want %d", got, code)
			}
			for _, p := range parts {
				part, absent := strings.CutPrefix(p, "!")
				if strings.Contains(body, part) == absent {
					t.Errorf("want %q in %s", p, body)
				}
			}
		}
		want(0, 200, `"status":"pass"`, `"version":"5.2.5"`, "!details")
		want(9*time.Second, 200, `"status":"pass"`, "!details")
		want(2*time.Second, 200, `"status":"fail"`, "redis is down", ":10Z")
		s.SetRedis(nil)
		want(5*time.Second, 200, `"status":"fail"`, ":10Z")
		want(5*time.Second, 200, `"status":"pass"`, `"redis"`, ":20Z")
		s.SetWedged(true)
		want(time.Hour, 200, `"status":"pass"`, ":20Z")
		s.SetWedged(false)
		s.Restart("4.0.8")
		want(0, 200, `"status":"pass"`, `"version":"v4.0.8"`, "!details")
	})
}

func TestGatewayByVersion(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		version      string
		hello, ready int
	}{
		{"5.2.5", 200, 404}, {"5.8.2", 200, 404}, {"5.8.3", 503, 503}, {"5.8.4", 200, 503},
		{"5.8.12", 503, 503}, {"5.9.0", 503, 503}, {"5.14.0", 200, 503},
	} {
		now := time.Now()
		s := tyk.New(tyk.Options{Kind: tyk.Gateway, Version: c.version, Upstream: http.NotFoundHandler(),
			Now: func() time.Time { return now }})
		s.SetRedis(errors.New("down"))
		now = now.Add(11 * time.Second)
		hello, _ := ask(s, "GET", "/hello")
		ready, _ := ask(s, "GET", "/ready")
		if hello != c.hello || ready != c.ready {
			t.Errorf("%s: hello %d, ready %d, want %d, %d", c.version, hello, ready, c.hello, c.ready)
		}
		if code, body := ask(s, "POST", "/hello"); code != 405 || !strings.Contains(body,
			`"status":"error"`) {
			t.Errorf("POST: %d %s", code, body)
		}
	}
}

func TestReadiness(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		version string
		change  func(*tyk.Stub)
		code    int
	}{
		{"5.14.0", func(*tyk.Stub) {}, 200},
		{"5.14.0", func(s *tyk.Stub) { s.SetReloaded(false) }, 503},
		{"5.14.0", func(s *tyk.Stub) { s.SetStopping(true) }, 503},
		{"5.13.0", func(s *tyk.Stub) { s.SetStopping(true) }, 200},
		// before the first check too
		{"5.13.0", func(s *tyk.Stub) { s.SetRedis(errors.New("down")) }, 503},
	} {
		s := tyk.New(tyk.Options{Kind: tyk.Gateway, Version: c.version})
		c.change(s)
		if code, body := ask(s, "GET", "/ready"); code != c.code {
			t.Errorf("%s: %d, want %d: %s", c.version, code, c.code, body)
		}
	}
}

func TestPlugin(t *testing.T) {
	t.Parallel()
	s := tyk.New(tyk.Options{Kind: tyk.Gateway, Version: "5.2.5", Plugin: tyk.Loaded})
	if code, body := ask(s, "GET", "/api"); code != 200 || !strings.Contains(body, `"Foo":["Bar"]`) {
		t.Errorf("loaded: %d %s", code, body)
	}
	s.SetPlugin(tyk.Broken)
	if code, _ := ask(s, "GET", "/api"); code != 500 {
		t.Errorf("broken in 5.2.5: %d", code)
	}
	s.Restart("4.0.8")
	if code, body := ask(s, "GET", "/api"); code != 200 || strings.Contains(body, "Foo") {
		t.Errorf("broken in 4.0.8: %d %s", code, body)
	}
}

// The process: version file, configuration, a real Redis that goes and comes
// back, and death at SIGTERM.
func TestProcess(t *testing.T) {
	t.Parallel()
	redis := lab.Program(t, "redis-server", "redis-server")
	dir := t.TempDir()
	built, err := tyk.Build(t.Context(), dir, "")
	if err != nil {
		t.Fatal(err)
	}
	exe := filepath.Join(dir, "tyk")
	if err := os.Rename(built, exe); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(exe+".version", []byte("5.2.5\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(exe); err != nil || info.Size() > 10<<20 {
		t.Fatalf("tykd is %d bytes, %v", info.Size(), err)
	}
	redisPort, port := freePort(t), freePort(t)
	conf := filepath.Join(dir, "tyk.conf")
	text := `{"listen_address":"127.0.0.1","listen_port":` + port + `,"health_check_endpoint_name":"alive",
		"storage":{"host":"127.0.0.1","port":` + redisPort + `},"liveness_check":{"check_duration":0.05},"tykd":{"plugin":"loaded"}}`
	if err := os.WriteFile(conf, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(exe, "-conf", conf, "version").Output(); err != nil ||
		string(out) != "5.2.5\n" {
		t.Fatalf("version: %q, %v", out, err)
	}
	start := func(argv ...string) *exec.Cmd {
		cmd := exec.Command(argv[0], argv[1:]...)
		cmd.Dir, cmd.Stderr = dir, t.Output()
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
		return cmd
	}
	server := start(redis, "--port", redisPort, "--bind", "127.0.0.1", "--save", "")
	gateway := start(exe, "-conf", conf)
	wait := func(want string) {
		t.Helper()
		var last string
		for end := time.Now().Add(3 * time.Minute); time.Now().Before(end); time.Sleep(
			20 * time.Millisecond) {
			res, err := http.Get("http://127.0.0.1:" + port + "/alive")
			if err != nil {
				last = err.Error()
				continue
			}
			body, _ := io.ReadAll(res.Body)
			_ = res.Body.Close()
			var a struct {
				Status, Version string
				Details         map[string]struct{ Status string }
			}
			if err := json.Unmarshal(body, &a); err != nil {
				t.Fatalf("%s: %v", body, err)
			}
			if last = a.Version + " " + a.Status + " " + a.Details["redis"].Status; last == want {
				return
			}
		}
		t.Fatalf("never %q, at last %q", want, last)
	}
	wait("5.2.5 pass pass")
	_ = server.Process.Kill()
	_ = server.Wait()
	wait("5.2.5 fail fail")
	start(redis, "--port", redisPort, "--bind", "127.0.0.1", "--save", "")
	wait("5.2.5 pass pass")

	// inFlight begins a request that ends when the pipe is closed. It returns
	// once the handler reads the body, which 100-continue tells.
	inFlight := func() (*io.PipeWriter, chan error) {
		ended := make(chan error, 1)
		pr, pw := io.Pipe()
		req, err := http.NewRequest(http.MethodPost, "http://127.0.0.1:"+port+"/api", pr)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Expect", "100-continue")
		go func() {
			res, err := (&http.Transport{ExpectContinueTimeout: time.Minute, DisableKeepAlives: true}).
				RoundTrip(req)
			if err == nil {
				_ = res.Body.Close()
			}
			ended <- err
		}()
		if _, err := pw.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
		return pw, ended
	}
	pipe, ended := inFlight()
	if err := gateway.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	_ = gateway.Wait()
	if ws := gateway.ProcessState.Sys().(syscall.WaitStatus); ws.Signal() != syscall.SIGTERM {
		t.Errorf("ended with %v", gateway.ProcessState)
	}
	_ = pipe.Close()
	if err := <-ended; err == nil {
		t.Error("the request in flight outlived SIGTERM")
	}

	gateway = start(exe, "-conf", conf, "-drain", "1m")
	wait("5.2.5 pass pass")
	pipe, ended = inFlight()
	if err := gateway.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	for { // until it no longer listens
		conn, err := net.Dial("tcp", "127.0.0.1:"+port)
		if err != nil {
			break
		}
		_ = conn.Close()
		time.Sleep(10 * time.Millisecond)
	}
	_ = pipe.Close()
	if err := <-ended; err != nil {
		t.Errorf("the request in flight was not waited for: %v", err)
	}
	if err := gateway.Wait(); err != nil {
		t.Errorf("ended with %v", err)
	}
}

func freePort(t *testing.T) string {
	t.Helper()
	n, err := port.Free()
	if err != nil {
		t.Fatal(err)
	}
	return n
}
