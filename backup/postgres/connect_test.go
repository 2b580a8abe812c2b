package postgres_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"example.com/tykupgrade/backup"
	"example.com/tykupgrade/backup/postgres"
	lab "example.com/tykupgrade/internal/lab/postgres"
	"example.com/tykupgrade/internal/run"
)

// Every way to name a server and to give the password works, and no argument of a program
// holds the password.
func TestConnections(t *testing.T) {
	t.Parallel()
	const secret = "canary: 'pass\\word"
	s := small(t)
	role := unique("dash")
	s.SQL(t, "postgres", "CREATE ROLE "+role+" LOGIN PASSWORD E'canary: ''pass\\\\word'; GRANT "+
		"pg_read_all_data TO "+role)
	login(t, s.Server, role)
	dir := t.TempDir()
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	escaped := strings.NewReplacer(`\`, `\\`, `:`, `\:`).Replace(secret)
	pass := file("pass", "127.0.0.1:"+s.Port+":*:"+role+":"+escaped+"\n")
	service := file("service", fmt.Sprintf("[tyk]\nhost=127.0.0.1\nport=%s\nuser=%s\n", s.Port, role))
	uri := "postgresql://" + role + "@127.0.0.1:" + s.Port + "/" + s.DB
	for name, c := range map[string]struct {
		server postgres.Server
		env    []string
	}{
		"URI": {server: postgres.Server{URI: strings.Replace(uri, "@",
			":canary%3A%20'pass%5Cword@", 1)}},
		"URI, parameter": {server: postgres.Server{URI: uri + "?password=canary%3A%20'pass%5Cword"}},
		"Password":       {server: postgres.Server{URI: uri, Password: secret}},
		"PassFile":       {server: postgres.Server{URI: uri, PassFile: pass}},
		"PGPASSFILE":     {postgres.Server{URI: uri}, []string{"PGPASSFILE=" + pass}},
		"Service": {postgres.Server{Service: "tyk", Password: secret},
			[]string{"PGSERVICEFILE=" + service}},
		"environment": {env: []string{"PGHOST=127.0.0.1", "PGPORT=" + s.Port, "PGUSER=" + role,
			"PGPASSWORD=" + secret}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			local := run.Local(run.Options{})
			c.server.Runner = func(ctx context.Context, argv []string, in io.Reader,
				out, errs io.Writer) error {
				if strings.Contains(strings.Join(argv, "\n"), "canary") {
					t.Errorf("the password is in %q", argv)
				}
				return local(ctx, append(append([]string{"env"}, c.env...), argv...), in, out, errs)
			}
			_, err := (&postgres.Source{Server: c.server, Databases: []string{s.DB}}).Plan(t.Context())
			if err != nil {
				t.Error(err)
			}
		})
	}
}

// certificate writes one for 127.0.0.1 that signs itself, and its key.
func certificate(t *testing.T, dir string) (cert, key string) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "tyk"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true,
		BasicConstraintsValid: true, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, k.Public(), k)
	if err != nil {
		t.Fatal(err)
	}
	kder, err := x509.MarshalPKCS8PrivateKey(k)
	cert, key = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	if err = errors.Join(err,
		os.WriteFile(cert, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600),
		os.WriteFile(key, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: kder}), 0o600),
		os.Chmod(dir, 0o755)); err != nil {
		t.Fatal(err)
	}
	return cert, key
}

// With sslmode=verify-full a server with a valid certificate is dumped. Another one gets no
// password.
func TestTLS(t *testing.T) {
	t.Parallel()
	s := alone(t)
	cert, key := certificate(t, t.TempDir())
	other, _ := certificate(t, t.TempDir())
	for from, to := range map[string]string{cert: "server.crt", key: "server.key"} {
		data, err := os.ReadFile(from)
		if err == nil {
			// In the data directory, whose owner the server is.
			err = os.WriteFile(filepath.Join(s.Dir, to), data, 0o600)
		}
		if err == nil && os.Geteuid() == 0 {
			err = os.Chown(filepath.Join(s.Dir, to), lab.User, lab.User)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	s.SQL(t, "postgres", "ALTER SYSTEM SET ssl = on")
	s.SQL(t, "postgres", "SELECT pg_reload_conf()")
	for s.SQL(t, "postgres", "SHOW ssl") != "on" {
		time.Sleep(10 * time.Millisecond)
	}
	source := func(parameters string) *postgres.Source {
		return &postgres.Source{Server: postgres.Server{URI: s.Database(s.DB) + "?" + parameters}}
	}
	if _, err := backup.Take(t.Context(), t.TempDir(), backup.Options{},
		source("sslmode=verify-full&sslrootcert="+cert)); err != nil {
		t.Error(err)
	}
	for _, parameters := range []string{"sslmode=verify-full&sslrootcert=" + other,
		"sslmode=verify-ca&sslrootcert=/nothing/there"} {
		_, err := source(parameters).Plan(t.Context())
		var e *backup.Error
		if !errors.Is(err, postgres.ErrConnection) || !errors.As(err, &e) ||
			!strings.Contains(e.Hint(), "sslrootcert") {
			t.Errorf("%s: %v", parameters, err)
		}
	}
}
