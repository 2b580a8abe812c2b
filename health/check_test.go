package health_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"example.com/tykupgrade/health"
	"example.com/tykupgrade/internal/lab/port"
	"example.com/tykupgrade/internal/lab/tyk"
)

func listen(t *testing.T) net.Listener {
	t.Helper()
	l, err := port.Listen()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

// raw is a server that does to each connection what f does, once the request's
// head was read.
func raw(t *testing.T, f func(net.Conn)) string {
	t.Helper()
	l := listen(t)
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				_, _ = conn.Read(make([]byte, 4096))
				f(conn)
			}()
		}
	}()
	return l.Addr().String()
}

// flood writes s until the reader goes away.
func flood(w io.Writer, s string) {
	chunk := bytes.Repeat([]byte(s), 1+(64<<10)/len(s))
	for {
		if _, err := w.Write(chunk); err != nil {
			return
		}
	}
}

// Whatever a server sends, a try ends within its limit and keeps little.
func TestHostileAnswers(t *testing.T) {
	const head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
	for _, c := range []struct {
		name string
		f    func(net.Conn)
		is   error
		text string
	}{
		{"endless body", func(c net.Conn) {
			_, _ = io.WriteString(c, head+"\r\n{\"status\":\"")
			flood(c,
				"x")
		}, health.ErrMalformed, "longer than"},
		{"endless header", func(c net.Conn) { _, _ = io.WriteString(c, head+"X: "); flood(c, "x") }, nil,
			"header"},
		{"endless headers", func(c net.Conn) { _, _ = io.WriteString(c, head); flood(c, "X: y\r\n") },
			nil, "header"},
		{"endless interim answers", func(c net.Conn) {
			flood(c,
				"HTTP/1.1 103 Early Hints\r\nX: y\r\n\r\n")
		}, nil, ""},
		{"slow drip of a body", func(c net.Conn) {
			_, _ = io.WriteString(c, head+"\r\n")
			for {
				if _, err := io.WriteString(c, " "); err != nil {
					return
				}
				time.Sleep(10 * time.Millisecond)
			}
		}, health.ErrNoAnswer, "no complete answer within 300ms"},
		{"slow drip of a head", func(c net.Conn) {
			for {
				if _, err := io.WriteString(c, "H"); err != nil {
					return
				}
				time.Sleep(100 * time.Millisecond)
			}
		}, nil, ""},
		{"silence", func(c net.Conn) { _, _ = io.Copy(io.Discard, c) }, health.ErrNoAnswer,
			"no complete answer within 300ms"},
		{"closed at once", func(net.Conn) {}, nil, "EOF"},
		{"body cut short", func(c net.Conn) {
			_, _ = io.WriteString(c,
				head+"Content-Length: 100\r\n\r\n{\"status\":")
		}, nil, "unexpected EOF"},
		{"not HTTP", func(c net.Conn) { _, _ = io.WriteString(c, "-ERR unknown command 'GET'\r\n") }, nil,
			"malformed"},
		{"invalid UTF-8", func(c net.Conn) {
			_, _ = io.WriteString(c,
				head+"\r\n{\"status\":\"\xff\xfe\"}")
		}, health.ErrMalformed, "unknown status"},
		{"deep JSON", func(c net.Conn) {
			_, _ = io.WriteString(c, head+"\r\n"+strings.Repeat("[",
				200<<10))
		}, health.ErrMalformed, "depth"},
		{"deep JSON inside", func(c net.Conn) {
			_, _ = io.WriteString(c, head+"\r\n{\"status\":\"pass\",\"details\":"+strings.Repeat(`{"a":`,
				11000)+"1"+strings.Repeat("}", 11001))
		}, health.ErrMalformed, "depth"},
		{"gzip bomb", func(c net.Conn) {
			_, _ = io.WriteString(c,
				head+"Content-Encoding: gzip\r\n\r\n\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff")
			flood(c, "\x00\x00\x00\xff\xff") // empty stored blocks, for ever
		}, nil, ""},
		{"terminal escapes", func(c net.Conn) {
			_, _ = io.WriteString(c,
				head+"\r\n{\"status\":\"fail\",\"output\":\"\\u001b[2J\\u0007\\n\\u202egone"+strings.Repeat("x",
					5000)+"\"}")
		}, health.ErrUnhealthy, "gone"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := health.Gateway(raw(t, c.f), nil)
			p.Timeout = time.Minute
			if c.is == health.ErrNoAnswer || c.text == "" { // else it ends by itself
				p.Timeout = 300 * time.Millisecond
			}
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			r := p.Check(t.Context(), nil)
			runtime.ReadMemStats(&after)
			if r.Status != health.Fail || c.is != nil && !errors.Is(r.Err, c.is) ||
				!strings.Contains(r.Error, c.text) {
				t.Errorf("%s: %v", r.Status, r.Err)
			}
			if len(r.Error) > 1000 || strings.ContainsAny(r.Error, "\x1b\x07\n\u202e") {
				t.Errorf("error is long or holds control characters: %q", r.Error)
			}
			// The server's writes are in it too; a missing limit shows as gigabytes.
			if n := after.TotalAlloc - before.TotalAlloc; n > 64<<20 {
				t.Errorf("%d MiB were allocated", n>>20)
			}
		})
	}
}

func TestStubOverRealConnections(t *testing.T) {
	t.Parallel()
	stub := tyk.New(tyk.Options{Kind: tyk.Gateway, Version: "5.2.5", CheckEvery: time.Millisecond})
	server := &httptest.Server{Listener: listen(t), Config: &http.Server{Handler: stub}}
	server.Start()
	t.Cleanup(server.Close)
	p := health.Gateway(server.URL, nil)
	p.Timeout = 10 * time.Second
	time.Sleep(2 * time.Millisecond) // the stub's clock: its first check is due
	check := func(c *http.Client) health.Result { return p.Check(t.Context(), c) }
	if r := check(nil); r.Status != health.Pass {
		t.Fatalf("normal: %v", r.Err)
	}
	stub.SetMode(tyk.Reset)
	for range 3 { // every try has a connection of its own
		if r := check(nil); r.Status != health.Pass {
			t.Errorf("reset of kept connections: %v", r.Err)
		}
	}
	stub.SetMode(tyk.ResetAll)
	if r := check(nil); r.Status != health.Fail || !strings.Contains(r.Error, "reset") {
		t.Errorf("reset: %v", r.Err)
	}
	stub.SetMode(tyk.HalfOpen)
	p.Timeout = 50 * time.Millisecond
	if r := check(nil); r.Status != health.Fail || !errors.Is(r.Err, health.ErrNoAnswer) {
		t.Errorf("half-open: %v", r.Err)
	}
	stub.SetMode(tyk.Normal)
	stub.SetSlow(time.Minute)
	if r := check(nil); r.Status != health.Fail || !errors.Is(r.Err, health.ErrNoAnswer) {
		t.Errorf("slow: %v", r.Err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errors.New("operator pressed ^C"))
	r := p.Check(ctx, nil)
	if r.Status != health.Unknown || !errors.Is(r.Err, context.Canceled) || !errors.Is(r.Err,
		context.Cause(ctx)) {
		t.Errorf("cancelled: %s, %v", r.Status, r.Err)
	}
	server.Close()
	p.Timeout = 10 * time.Second
	if r := check(nil); r.Status != health.Fail || !strings.Contains(r.Error, "connection refused") {
		t.Errorf("refused: %v", r.Err)
	}
	var own *health.Error
	if !errors.As(check(nil).Err, &own) || !own.Retryable() {
		t.Error("a refused connection is worth another try")
	}
}

func TestControlPort(t *testing.T) {
	t.Parallel()
	now := time.Now()
	stub := tyk.New(tyk.Options{Kind: tyk.Gateway, Version: "5.8.4", Control: true,
		HelloPath: "/alive", ReadyPath: "/set",
		Upstream: http.NotFoundHandler(), Now: func() time.Time { return now }})
	now = now.Add(11 * time.Second)
	p := health.Gateway("gw:9696/alive", version(t, "5.8.4"))
	p.Ready = "/set"
	if r := p.Check(t.Context(), client(stub.Control())); r.Status != health.Pass ||
		r.Readiness != health.Ready {
		t.Errorf("control port: %s, %s, %v", r.Status, r.Readiness, r.Err)
	}
	if r := p.Check(t.Context(), client(stub)); r.Status != health.Fail || !strings.Contains(r.Error,
		"control_api_port") {
		t.Errorf("main port: %s, %v", r.Status, r.Err)
	}
}

func TestTCP(t *testing.T) {
	t.Parallel()
	l := listen(t)
	r := health.TCP(l.Addr().String()).Check(t.Context(), nil)
	if r.Status != health.Pass || !slices.Equal(r.NotCovered,
		[]string{"more than that the port accepts connections"}) {
		t.Errorf("open port: %v, not covered %q", r.Err, r.NotCovered)
	}
	_ = l.Close()
	if r := health.TCP(l.Addr().String()).Check(t.Context(), nil); r.Status != health.Fail ||
		!strings.Contains(r.Error, "refused") {
		t.Errorf("closed port: %v", r.Err)
	}
}

// authority signs certificates for tests.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  []byte
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{}
	a.pem, _, a.cert, a.key = a.issue(t, "test CA", true)
	return a
}

func (a *authority) issue(t *testing.T, name string,
	ca bool) (certPEM, keyPEM []byte, cert *x509.Certificate, key *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{
		CommonName: name}, DNSNames: []string{name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: ca,
		BasicConstraintsValid: true,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}}
	parent, signer := template, key
	if a.cert != nil {
		parent, signer = a.cert, a.key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
	if err != nil {
		t.Fatal(err)
	}
	cert, err = x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}), cert, key
}

func TestTLS(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t)
	serverCert, serverKey, _, _ := ca.issue(t, "gw.internal", false)
	clientCert, clientKey, _, _ := ca.issue(t, "probe", false)
	pair, err := tls.X509KeyPair(serverCert, serverKey)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(ca.pem)
	sni := make(chan string, 10)
	server := httptest.NewUnstartedServer(tyk.New(tyk.Options{Kind: tyk.Pump}))
	server.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, 0)
	server.TLS = &tls.Config{Certificates: []tls.Certificate{pair},
		ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: pool,
		GetConfigForClient: func(h *tls.ClientHelloInfo) (*tls.Config,
			error) {
			sni <- h.ServerName
			return nil, nil
		}}
	server.StartTLS()
	t.Cleanup(server.Close)
	good := health.ClientOptions{CA: ca.pem, Cert: clientCert, Key: clientKey,
		ServerName: "gw.internal"}
	for _, c := range []struct {
		name      string
		change    func(*health.ClientOptions)
		status    health.Status
		text      string
		retryable bool
	}{
		{"good", func(*health.ClientOptions) {}, health.Pass, "", true},
		{"other name", func(o *health.ClientOptions) { o.ServerName = "other.internal" }, health.Fail,
			"not other.internal", false},
		{"by address", func(o *health.ClientOptions) { o.ServerName = "" }, health.Fail, "127.0.0.1",
			false},
		{"unknown CA", func(o *health.ClientOptions) { o.CA = newAuthority(t).pem }, health.Fail,
			"unknown authority", false},
		{"no client certificate", func(o *health.ClientOptions) { o.Cert, o.Key = nil, nil }, health.Fail,
			"check the client certificate", false},
	} {
		o := good
		c.change(&o)
		client, err := health.NewClient(o)
		if err != nil {
			t.Fatal(err)
		}
		p := health.Pump(server.URL)
		p.Timeout = 10 * time.Second
		r := p.Check(t.Context(), client)
		var own *health.Error
		if r.Status != c.status || !strings.Contains(r.Error, c.text) {
			t.Errorf("%s: %s, %v", c.name, r.Status, r.Err)
		}
		if errors.As(r.Err, &own) && own.Retryable() != c.retryable {
			t.Errorf("%s: retryable %v: %v", c.name, own.Retryable(), r.Err)
		}
		if got := <-sni; got != o.ServerName {
			t.Errorf("%s: SNI %q, want %q", c.name, got, o.ServerName)
		}
	}
	if _, err := health.NewClient(health.ClientOptions{CA: []byte("no PEM")}); err == nil {
		t.Error("a CA without a certificate was taken")
	}
	if _, err := health.NewClient(health.ClientOptions{Cert: clientCert}); err == nil {
		t.Error("a certificate without a key was taken")
	}
	plain := httptest.NewServer(tyk.New(tyk.Options{Kind: tyk.Pump}))
	t.Cleanup(plain.Close)
	r := health.Pump(strings.Replace(plain.URL, "http:", "https:", 1)).Check(t.Context(), nil)
	var own *health.Error
	if !errors.As(r.Err, &own) || own.Retryable() || own.Hint() != "use http:// for this port" {
		t.Errorf("https to http: %v", r.Err)
	}
}

// The transport refuses such a header each time; its value is not shown.
func TestBadHeaderIsPermanent(t *testing.T) {
	t.Parallel()
	for _, h := range []http.Header{{"X Key": {"topsecret"}}, {"X-Key": {"topsecret\n"}}} {
		p := health.HTTP("http://127.0.0.1:1/", health.Expect{})
		p.Header = h
		r := p.Check(t.Context(), nil)
		var own *health.Error
		if !errors.As(r.Err, &own) || own.Retryable() ||
			own.Hint() != "correct the probe's headers" || strings.Contains(r.Error, "topsecret") {
			t.Errorf("%v", r.Err)
		}
	}
}

func TestSecretsAreSentAndNeverShown(t *testing.T) {
	t.Parallel()
	var got *http.Request
	echo := client(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		got = r
		// An API that echoes what it was sent, as some do in errors.
		_ = r.Header.WriteSubset(w, nil)
	}))
	p := health.HTTP("https://user:topsecret1@api.example/x?api_key=topsecret2",
		health.Expect{Status: 201})
	p.Header = http.Header{"x-tyk-authorization": {"topsecret3"}, "Host": {"api.tenant"}}
	p.Body, p.Method = []byte("topsecret4"), http.MethodPost
	shown := func(what, s string) {
		t.Helper()
		if strings.Contains(s, "topsecret") {
			t.Errorf("%s shows a secret: %s", what, s)
		}
	}
	r := p.Check(t.Context(), echo)
	if user, password, _ := got.BasicAuth(); user != "user" || password != "topsecret1" ||
		got.Header.Get("X-Tyk-Authorization") != "topsecret3" || got.Host != "api.tenant" {
		t.Errorf("sent %q %q %v %s", user, password, got.Header, got.Host)
	}
	p.User, p.Password = "admin", "topsecret5"
	report, err := health.Once(t.Context(), health.Policy{Client: echo}, p)
	if err != nil {
		t.Fatal(err)
	}
	if user, password, _ := got.BasicAuth(); user != "admin" || password != "topsecret5" {
		t.Errorf("sent %q %q", user, password)
	}
	var out bytes.Buffer
	for _, write := range []func(io.Writer) error{report.WriteJSON, report.WriteHealth,
		report.WriteTable, report.WritePrometheus} {
		if err := write(&out); err != nil {
			t.Fatal(err)
		}
	}
	shown("a report", out.String())
	shown("an error", r.Error)
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%d"} {
		shown(verb, fmt.Sprintf(verb, p))
		shown(verb, fmt.Sprintf(verb, &p))
	}
	data, err := json.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	shown("JSON", string(data))
	var log bytes.Buffer
	slog.New(slog.NewTextHandler(&log, nil)).Info("x", "probe", p)
	slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "probe", p)
	shown("a log", log.String())
	refused := health.HTTP("http://user:topsecret1@127.0.0.1:1/x?api_key=topsecret2",
		health.Expect{}).Check(t.Context(), nil)
	shown("a transport error", fmt.Sprintf("%v %+v %#v", refused.Err, refused, refused.Err))
}
