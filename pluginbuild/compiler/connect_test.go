package compiler_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"maps"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/docker/docker/api/types/volume"

	"example.com/tykupgrade/internal/lab"
	"example.com/tykupgrade/internal/run"
	"example.com/tykupgrade/pluginbuild/compiler"
)

// These tests set environment variables, as a user's shell does, so they are
// not parallel.

// writeContext writes a docker context as `docker context create` does.
func writeContext(t *testing.T, config, name, endpoint string, pems map[string][]byte) {
	t.Helper()
	sum := sha256.Sum256([]byte(name))
	id := hex.EncodeToString(sum[:])
	files := map[string][]byte{
		filepath.Join("contexts/meta", id, "meta.json"): fmt.Appendf(nil,
			`{"Name":%q,"Metadata":{},"Endpoints":{"docker":%s}}`, name, endpoint),
	}
	for file, data := range pems {
		files[filepath.Join("contexts/tls", id, "docker", file)] = data
	}
	for path, data := range files {
		path = filepath.Join(config, path)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, data,
			0o600)); err != nil {
			t.Fatal(err)
		}
	}
}

func cleanDockerEnv(t *testing.T) (config string) {
	t.Helper()
	for _, v := range []string{"DOCKER_HOST", "DOCKER_CONTEXT", "DOCKER_TLS_VERIFY",
		"DOCKER_CERT_PATH", "DOCKER_API_VERSION"} {
		t.Setenv(v, "")
	}
	config = t.TempDir()
	t.Setenv("DOCKER_CONFIG", config)
	return config
}

// Which engine is used: option, DOCKER_HOST, DOCKER_CONTEXT, config.json, the
// default, in this order.
func TestConnectFinds(t *testing.T) {
	config := cleanDockerEnv(t)
	writeContext(t, config, "current", `{"Host":"tcp://current:1"}`, nil)
	writeContext(t, config, "other", `{"Host":"tcp://other:1"}`, nil)
	host := func(want string, o compiler.ConnectOptions) {
		t.Helper()
		c, err := compiler.Connect(o)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if got := c.DaemonHost(); got != want {
			t.Errorf("host %s, want %s", got, want)
		}
	}
	const local = "unix:///var/run/docker.sock"
	host(local, compiler.ConnectOptions{})
	if err := os.WriteFile(filepath.Join(config, "config.json"),
		[]byte(`{"currentContext":"current"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	host("tcp://current:1", compiler.ConnectOptions{})
	host(local, compiler.ConnectOptions{ConfigDir: t.TempDir()})
	t.Setenv("DOCKER_CONTEXT", "other")
	host("tcp://other:1", compiler.ConnectOptions{})
	t.Setenv("DOCKER_HOST", "tcp://env:1")
	host("tcp://env:1", compiler.ConnectOptions{})
	host("tcp://current:1", compiler.ConnectOptions{Context: "current"})
	host("tcp://option:1", compiler.ConnectOptions{Host: "tcp://option:1"})
	host("tcp://env:1", compiler.ConnectOptions{Context: "default"})
	// As the docker command reads them.
	for given, want := range map[string]string{
		"unix://": local, "build": "tcp://build:2375", "build:1": "tcp://build:1",
		"tcp://build": "tcp://build:2375", "tcp://[::1]": "tcp://[::1]:2375",
		"tcp://build/base": "tcp://build:2375/base", " tcp://build:1 ": "tcp://build:1",
		"unix:///run/x.sock": "unix:///run/x.sock",
	} {
		t.Setenv("DOCKER_HOST", given)
		host(want, compiler.ConnectOptions{})
		host(want, compiler.ConnectOptions{Host: given})
	}
	t.Setenv("DOCKER_HOST", "")
	host(local, compiler.ConnectOptions{Context: "default"}) // not that of DOCKER_CONTEXT
	t.Setenv("DOCKER_CONTEXT", "default")
	host(local, compiler.ConnectOptions{})

	writeContext(t, config, "empty", `{}`, nil)
	writeContext(t, config, "bad-tls", `{"Host":"tcp://x:1"}`, map[string][]byte{
		"ca.pem": []byte("no")})
	for want, o := range map[string]compiler.ConnectOptions{
		`docker context "missing"`: {Context: "missing"},
		"names no Docker engine":   {Context: "empty"},
		"no certificate":           {Context: "bad-tls"},
		"choose one":               {Context: "current", Host: "tcp://x:1"},
		"unable to parse":          {Host: "fd://"},
		"ssh":                      {Host: "ssh://host/path?x=y"},
	} {
		var e *compiler.Error
		if _, err := compiler.Connect(o); !errors.As(err, &e) || e.Op != compiler.StageConnect ||
			e.Retryable() || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v, want %q", o, err, want)
		}
	}
	t.Setenv("DOCKER_CONTEXT", "")
	if err := os.WriteFile(filepath.Join(config, "config.json"), []byte(`{`), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := compiler.Connect(compiler.ConnectOptions{}); err == nil ||
		!strings.Contains(err.Error(), "config.json") {
		t.Errorf("broken config.json: %v", err)
	}
}

// A certificate authority with one certificate for both sides.
func newTLS(t *testing.T) (pems map[string][]byte, server *tls.Config) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "lab"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true,
		KeyUsage:    x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	cert := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	pems = map[string][]byte{"ca.pem": cert, "cert.pem": cert,
		"key.pem": pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})}
	pair, err := tls.X509KeyPair(pems["cert.pem"], pems["key.pem"])
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(cert)
	return pems, &tls.Config{Certificates: []tls.Certificate{pair}, ClientCAs: pool,
		ClientAuth: tls.RequireAndVerifyClientCert, MinVersion: tls.VersionTLS12}
}

// An engine behind mutual TLS, through a context and through the environment;
// and that it is refused without the certificates.
func TestConnectTLS(t *testing.T) {
	config := cleanDockerEnv(t)
	pems, serverTLS := newTLS(t)
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("API-Version", "1.41")
		switch r.URL.Path {
		case "/_ping":
		case "/v1.41/volumes": // the version that both sides know
			_, _ = io.WriteString(w, `{"Volumes":[]}`)
		default:
			t.Errorf("requested %s", r.URL.Path)
			http.NotFound(w, r)
		}
	}))
	s.TLS = serverTLS
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.StartTLS()
	t.Cleanup(s.Close)
	host := "tcp://" + s.Listener.Addr().String()
	ping := func(o compiler.ConnectOptions) error {
		t.Helper()
		c, err := compiler.Connect(o)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		_, err = c.VolumeList(t.Context(), volume.ListOptions{})
		return err
	}
	writeContext(t, config, "tls", fmt.Sprintf(`{"Host":%q}`, host), pems)
	if err := ping(compiler.ConnectOptions{Context: "tls"}); err != nil {
		t.Errorf("context: %v", err)
	}
	writeContext(t, config, "no-client", fmt.Sprintf(`{"Host":%q}`, host), map[string][]byte{
		"ca.pem": pems["ca.pem"]})
	if err := ping(compiler.ConnectOptions{Context: "no-client"}); err == nil {
		t.Error("a context without client certificate")
	}
	// An engine's certificate that no authority signed, and one that asks for none
	// of the client.
	client := map[string][]byte{"cert.pem": pems["cert.pem"], "key.pem": pems["key.pem"]}
	open := httptest.NewUnstartedServer(s.Config.Handler)
	open.TLS = &tls.Config{Certificates: serverTLS.Certificates, MinVersion: tls.VersionTLS12}
	open.Config.ErrorLog = s.Config.ErrorLog
	open.StartTLS()
	t.Cleanup(open.Close)
	for _, skip := range []bool{true, false} {
		writeContext(t, config, "unsigned", fmt.Sprintf(`{"Host":%q,"SkipTLSVerify":%v}`, host, skip),
			client)
		writeContext(t, config, "open", fmt.Sprintf(`{"Host":"tcp://%s","SkipTLSVerify":%v}`,
			open.Listener.Addr(), skip), nil)
		for _, name := range []string{"unsigned", "open"} {
			if err := ping(compiler.ConnectOptions{Context: name}); (err == nil) != skip {
				t.Errorf("context %s, verification skipped: %v: %v", name, skip, err)
			}
		}
	}
	certs := t.TempDir()
	for name, data := range pems {
		if err := os.WriteFile(filepath.Join(certs, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("DOCKER_HOST", host)
	if err := ping(compiler.ConnectOptions{}); err == nil {
		t.Error("environment without certificates")
	}
	t.Setenv("DOCKER_TLS_VERIFY", "1")
	if _, err := compiler.Connect(compiler.ConnectOptions{}); err == nil ||
		!strings.Contains(err.Error(), "ca.pem") {
		t.Errorf("requested TLS, without certificates: %v", err)
	}
	if err := ping(compiler.ConnectOptions{ConfigDir: certs}); err != nil {
		t.Errorf("certificates next to config.json: %v", err)
	}
	t.Setenv("DOCKER_CERT_PATH", certs)
	if err := ping(compiler.ConnectOptions{}); err != nil {
		t.Errorf("environment: %v", err)
	}
}

// A build through mutual TLS: the attached output comes over a connection of its
// own, which needs the certificates as well.
func TestBuildOverTLS(t *testing.T) {
	b := newBench(t)
	socket, ok := strings.CutPrefix(b.docker.DaemonHost(), "unix://")
	if !ok {
		t.Skip("the engine is not behind a socket of this machine")
	}
	config := cleanDockerEnv(t)
	pems, serverTLS := newTLS(t)
	l, err := tls.Listen("tcp", "127.0.0.1:0", serverTLS)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			front, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer front.Close()
				back, err := net.Dial("unix", socket)
				if err != nil {
					return
				}
				defer back.Close()
				go func() { _, _ = io.Copy(back, front) }()
				_, _ = io.Copy(front, back)
			}()
		}
	}()
	writeContext(t, config, "tls", fmt.Sprintf(`{"Host":"tcp://%s"}`, l.Addr()), pems)
	certs := t.TempDir()
	for name, data := range pems {
		if err := os.WriteFile(filepath.Join(certs, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("DOCKER_CERT_PATH", certs)
	t.Setenv("DOCKER_TLS_VERIFY", "1")
	img, dir := b.script(t, "out 3 over-tls", "exit 6"), plugin(t, tiny)
	for _, from := range []compiler.ConnectOptions{{Context: "tls"},
		{Host: "tcp://" + l.Addr().String()}} {
		c, err := compiler.Connect(from)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		o := b.options()
		o.Caches = "none"
		var stdout buffer
		_, err = compiler.New(c, o).Build(t.Context(), compiler.Request{Release: release(t, "5.2.5"),
			Dir: dir, Image: img, Stdout: &stdout})
		var e *compiler.Error
		if !errors.As(err, &e) || e.ExitCode != 6 ||
			stdout.String() != "over-tls 0\nover-tls 1\nover-tls 2\n" {
			t.Errorf("%+v: %v\n%s", from, err, stdout.String())
		}
	}
}

// ssh:// hosts go through the ssh command and the docker command of the other
// side. Here ssh is a script that stays on this machine.
func TestConnectSSH(t *testing.T) {
	b := newBench(t)
	lab.Program(t, "docker", "docker.io")
	host := b.docker.DaemonHost()
	cleanDockerEnv(t)
	bin := t.TempDir()
	script := "#!/bin/sh\n" + `echo "$@" >>"` + bin + `/log"
for command; do :; done
exec env DOCKER_HOST=` + host + ` sh -c "$command"
`
	if err := run.WriteProgram(filepath.Join(bin, "ssh"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	path := os.Getenv("PATH")
	t.Setenv("PATH", bin+":"+path)
	c, err := compiler.Connect(compiler.ConnectOptions{Host: "ssh://me@build.example.org:2222"})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	o := b.options()
	o.Caches = "none"
	var stdout buffer
	img := b.script(t, "out 3 over-ssh", "exit 6")
	_, err = compiler.New(c, o).Build(t.Context(), compiler.Request{Release: release(t, "5.2.5"),
		Dir: plugin(t, tiny), Image: img, Stdout: &stdout})
	var e *compiler.Error
	if !errors.As(err, &e) || e.ExitCode != 6 ||
		stdout.String() != "over-ssh 0\nover-ssh 1\nover-ssh 2\n" {
		t.Errorf("%v\n%s", err, stdout.String())
	}
	log, err := os.ReadFile(bin + "/log")
	if err != nil || !strings.Contains(string(log), "-l me -p 2222") || !strings.Contains(string(log),
		"-- build.example.org docker system dial-stdio") {
		t.Errorf("%s %v", log, err)
	}

	// What ssh says reaches the error.
	if err := os.WriteFile(filepath.Join(bin, "ssh"),
		[]byte("#!/bin/sh\nread request\necho 'Permission denied (publickey).' >&2\nexit 255\n"),
		0o755); err != nil {
		t.Fatal(err)
	}
	c2, err := compiler.Connect(compiler.ConnectOptions{Host: "ssh://me@build.example.org"})
	if err != nil {
		t.Fatal(err)
	}
	defer c2.Close()
	_, err = compiler.New(c2, o).Build(t.Context(), compiler.Request{Release: release(t, "5.2.5"),
		Dir: plugin(t, tiny), Image: img})
	if !errors.As(err, &e) || e.Op != compiler.StageConnect || !strings.Contains(err.Error(),
		"Permission denied (publickey).; the engine") || !strings.Contains(e.Hint(),
		"ssh HOST docker version") {
		t.Errorf("%v", err)
	}
}

// Credentials come from config.json: plain, from a helper of one registry, from
// the store, and none.
func TestConfigAuth(t *testing.T) {
	config := cleanDockerEnv(t)
	bin := t.TempDir()
	helper := `#!/bin/sh
read host
case "$1 $host" in
"get helped.example.org") echo '{"ServerURL":"helped.example.org","Username":"u","Secret":"from-helper"}' ;;
"get token.example.org") echo '{"ServerURL":"token.example.org","Username":"<token>","Secret":"identity"}' ;;
"get asks.example.org") read answer <"$DOCKER_CONFIG/person" ;;
"get broken.example.org") echo "the keyring is locked"; exit 1 ;;
*) echo "credentials not found in native keychain"; exit 1 ;;
esac
`
	if err := os.WriteFile(filepath.Join(bin, "docker-credential-lab"), []byte(helper),
		0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	if _, err := exec.LookPath("docker-credential-lab"); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(config, "config.json"), []byte(`{
		"auths": {"plain.example.org": {"auth": "dTpwYXNz"}, "https://index.docker.io/v1/": {"auth": "aHViOnBhc3M="}},
		"credHelpers": {"helped.example.org": "lab", "token.example.org": "lab", "broken.example.org": "lab", "asks.example.org": "lab", "gone.example.org": "not-installed"}}`), 0o600); err != nil {
		t.Fatal(err)
	}
	for host, want := range map[string][3]string{
		"plain.example.org":           {"u", "pass", ""},
		"https://index.docker.io/v1/": {"hub", "pass", ""},
		"helped.example.org":          {"u", "from-helper", ""},
		"token.example.org":           {"", "", "identity"},
		"unknown.example.org":         {},
	} {
		a, err := compiler.ConfigAuth("")(t.Context(), host)
		if err != nil || [3]string{a.Username, a.Password, a.IdentityToken} != want {
			t.Errorf("%s: %+v, %v", host, a, err)
		}
	}
	for host, want := range map[string]string{"broken.example.org": "the keyring is locked",
		"gone.example.org": "docker-credential-not-installed"} {
		if _, err := compiler.ConfigAuth("")(t.Context(), host); err == nil ||
			!strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", host, err)
		}
	}
	// A helper that waits for a person does not hold up a caller who has given up.
	person := filepath.Join(config, "person")
	if err := syscall.Mkfifo(person, 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("Ctrl-C")
	go func() {
		f, err := os.OpenFile(person, os.O_WRONLY, 0) // once the helper reads
		cancel(why)
		if err == nil {
			t.Cleanup(func() { _ = f.Close() }) // ends the helper
		}
	}()
	if _, err := compiler.ConfigAuth("")(ctx, "asks.example.org"); !errors.Is(err, context.Canceled) ||
		!errors.Is(err, why) {
		t.Errorf("a helper that waits: %v", err)
	}
	if a, err := compiler.ConfigAuth(t.TempDir())(t.Context(), "plain.example.org"); err != nil ||
		a.Username != "" {
		t.Errorf("no config.json: %+v, %v", a, err)
	}
}

// The proxies of one engine go before those of all.
func TestWithProxies(t *testing.T) {
	dir := cleanDockerEnv(t)
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, "config.json"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(`{"proxies": {"default": {"httpProxy": "http://all"}, "tcp://build:2376": {"httpsProxy": "http://one"}}}`)
	for host, want := range map[string]map[string]string{
		"unix:///run/docker.sock": {"HTTP_PROXY": "http://all", "http_proxy": "http://all",
			"GOPROXY": "off"},
		"tcp://build:2376": {"HTTPS_PROXY": "http://one", "https_proxy": "http://one",
			"GOPROXY": "off"},
	} {
		given := map[string]string{"GOPROXY": "off"}
		if env, err := compiler.WithProxies(given, "", host); err != nil || !maps.Equal(env, want) ||
			len(given) != 1 {
			t.Errorf("%s: %v, %v", host, env, err)
		}
	}
	if env, err := compiler.WithProxies(nil, t.TempDir(), ""); err != nil || len(env) != 0 {
		t.Errorf("no config.json: %v, %v", env, err)
	}
	write("{")
	var e *compiler.Error
	if _, err := compiler.WithProxies(nil, "", ""); !errors.As(err, &e) ||
		e.Op != compiler.StageConnect || !strings.Contains(err.Error(), dir) ||
		!strings.Contains(err.Error(), "fix that file") {
		t.Errorf("broken config.json: %v", err)
	}
}
