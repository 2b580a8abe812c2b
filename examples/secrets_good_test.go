package examples_test

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io/fs"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"example.com/tykupgrade/bundle/bundletest"
	"example.com/tykupgrade/internal/lab/tyk"
	"example.com/tykupgrade/internal/lab/tykmod"
	"example.com/tykupgrade/pluginbuild"
)

// guarded serves only who brings the password of the secret files.
func guarded(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, password, _ := r.BasicAuth(); password != fileCanary {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		h.ServeHTTP(w, r)
	})
}

func put(t *testing.T, dir string, files map[string]string) {
	t.Helper()
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// Calls that need a secret and succeed keep it as well.
func TestSecretsStayInSuccess(t *testing.T) {
	t.Parallel()
	bin, err := commands()
	if err != nil {
		t.Fatal(err)
	}
	watch(t)
	t.Run("checkhealth", func(t *testing.T) {
		t.Parallel()
		stub := tyk.New(tyk.Options{Kind: tyk.Gateway, Version: "5.2.5", Plugin: tyk.Loaded,
			CheckEvery: 50 * time.Millisecond})
		s := httptest.NewServer(guarded(stub))
		t.Cleanup(s.Close)
		dir := t.TempDir()
		put(t, dir, map[string]string{"auth": secretFiles["auth"], "header": "X-Key: " + fileCanary})
		// The stub's API answers with the headers that reached it.
		for _, format := range []string{"", "-json", "-prom", "-health-json"} {
			for _, args := range []string{
				"-plugin-url " + s.URL + "/my-api/get -header-file header -expect-header Foo:Bar ",
				"-gateway-url " + s.URL + " -wait 1m ",
			} {
				args += "-auth-file auth " + format
				if code, out := search(t, bin, dir, "checkhealth", args); code != 0 {
					t.Errorf("checkhealth %s: exit code %d\n%s", args, code, out)
				}
			}
		}
	})
	t.Run("packbundle", func(t *testing.T) {
		t.Parallel()
		key, err := rsa.GenerateKey(rand.Reader, 2048)
		if err != nil {
			t.Fatal(err)
		}
		private := string(pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY",
			Bytes: x509.MarshalPKCS1PrivateKey(key)}))
		public := string(pem.EncodeToMemory(&pem.Block{Type: "RSA PUBLIC KEY",
			Bytes: x509.MarshalPKCS1PublicKey(&key.PublicKey)}))
		bundle := bundletest.Files{"plugin.so": bundletest.Plugin{Gateway: "5.2.5"}}
		var manifest bytes.Buffer
		if _, err := bundle.Manifest("plugin.so").WriteTo(&manifest); err != nil {
			t.Fatal(err)
		}
		object, err := fs.ReadFile(bundle.FS(), "plugin.so")
		if err != nil {
			t.Fatal(err)
		}
		dir := t.TempDir()
		put(t, dir, map[string]string{"key.pem": private, "pub.pem": public,
			"manifest.json": manifest.String(), "plugin.so": string(object), "served/none": ""})
		line := []byte(strings.Split(private, "\n")[12]) // within the private exponent or the primes
		for _, args := range []string{"build -key key.pem -detached", "build -key key.pem -json",
			"verify -pub pub.pem -json bundle.zip", "verify -pub pub.pem -detached bundle.zip",
			"publish -dir served -pub pub.pem bundle.zip a.zip", "accept -dir served a.zip"} {
			code, out := search(t, bin, dir, "packbundle", args)
			if code != 0 || bytes.Contains(out, line) {
				t.Errorf("packbundle %s: exit code %d\n%s", args, code, out)
			}
		}
		for _, path := range tree(t, dir) {
			if data, _ := os.ReadFile(path); bytes.Contains(data, line) && filepath.Base(
				path) != "key.pem" {
				t.Errorf("the private key is in %s", path)
			}
		}
	})
	t.Run("buildplugin", func(t *testing.T) {
		t.Parallel()
		dir, served := t.TempDir(), t.TempDir()
		v, err := pluginbuild.ParseVersion("5.2.5")
		if err != nil {
			t.Fatal(err)
		}
		r, err := pluginbuild.Lookup(v)
		if err != nil {
			t.Fatal(err)
		}
		g := tykmod.Gateway{Version: r.PseudoVersion(), Commit: r.Commit, Go: r.Go}
		for _, x := range r.Replaces {
			g.Replaces = append(g.Replaces, x.String())
		}
		if _, err := tykmod.Proxy(served, g.Modules()...); err != nil {
			t.Fatal(err)
		}
		s := httptest.NewTLSServer(guarded(http.FileServer(http.Dir(served))))
		t.Cleanup(s.Close)
		ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})
		// Since Go 1.24 the go command looks for host and port.
		files := map[string]string{"ca.pem": string(ca), "netrc": fmt.Sprintf("machine %s login tyk "+
			"password %s\nmachine 127.0.0.1 login tyk password %[2]s\n",
			strings.TrimPrefix(s.URL, "https://"), fileCanary)}
		maps.Copy(files, map[string]string{"plugin/go.mod": "module example.com/p\n\ngo 1.19\n",
			"plugin/plugin.go": "package main\n\nimport (\n\t\"net/http\"\n\n" +
				"\t\"github.com/TykTechnologies/tyk/log\"\n)\n\nfunc Hook(http.ResponseWriter, " +
				"*http.Request) { log.Get().Info(1) }\n\nfunc main() {}\n"})
		put(t, dir, files)
		env := append(tykmod.Env(s.URL, filepath.Join(dir, "modcache")), "NETRC="+filepath.Join(dir,
			"netrc"), "SSL_CERT_FILE="+filepath.Join(dir, "ca.pem"), "GOCACHE="+filepath.Join(dir, "cache"))
		for _, args := range []string{"prepare -release 5.2.5 -dir plugin", "plan -release 5.2.5 -dir " +
			"plugin -json", "prepare -release 5.2.5 -dir plugin -json"} {
			if code, out := search(t, bin, dir, "buildplugin", args, env...); code != 0 {
				t.Errorf("buildplugin %s: exit code %d\n%s", args, code, out)
			}
		}
		sum, err := os.ReadFile(filepath.Join(dir, "plugin", "go.sum"))
		if err != nil || !bytes.Contains(sum, []byte("TykTechnologies/tyk")) {
			t.Errorf("the module did not come from the server: %v\n%s", err, sum)
		}
	})
}
