package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"debug/elf"
	"encoding/json"
	"encoding/pem"
	"errors"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const manifest = `{"file_list": ["plugin.so", "plugin_v5.2.5_linux_amd64.so"], "custom_middleware": {
	"driver": "goplugin", "post": [{"name": "AddFooBarHeader", "path": "plugin.so"}]}}`

// setup returns a directory with the manifest, its files and a key pair.
func setup(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	object := append([]byte(elf.ELFMAG+"\x02\x01\x01"), make([]byte, 60)...)
	object[16] = byte(elf.ET_DYN)
	for name, data := range map[string][]byte{
		"manifest.json":                object[:0],
		"plugin.so":                    object,
		"plugin_v5.2.5_linux_amd64.so": append(object, 1),
		"key.pem":                      pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)}),
		"pub.pem":                      pem.EncodeToMemory(&pem.Block{Type: "RSA PUBLIC KEY", Bytes: x509.MarshalPKCS1PublicKey(&key.PublicKey)}),
	} {
		if name == "manifest.json" {
			data = []byte(manifest)
		}
		write(t, filepath.Join(dir, name), data)
	}
	return dir
}

func write(t *testing.T, path string, data []byte) {
	t.Helper()
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

// apiName matches names of package bundle.
var apiName = regexp.MustCompile(`\b(Signer|Options|VerifyOptions|Max(Size|Files|Ratio)|Response|set [A-Z]\w+)\b`)

// call runs the command; DIR/ in the arguments is the directory.
func call(t *testing.T, dir string, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	args = slices.Clone(args)
	for i := range args {
		args[i] = strings.Replace(args[i], "DIR", dir, 1)
	}
	var out, errOut bytes.Buffer
	code = run(t.Context(), args, &out, &errOut)
	if name := apiName.FindString(errOut.String()); name != "" {
		t.Errorf("packbundle %q: %q is a name that the user of the command does not see\n%s", args, name, &errOut)
	}
	return code, out.String(), errOut.String()
}

func TestBuildVerifyWhich(t *testing.T) {
	t.Parallel()
	dir := setup(t)
	code, out, errOut := call(t, dir, "-manifest", "DIR/manifest.json", "-o", "DIR/orders.zip", "-key", "DIR/key.pem")
	if code != 0 || errOut != "" || !strings.Contains(out, "signed") || !strings.Contains(out, "publish it as orders-") {
		t.Fatalf("build: %d %s%s", code, out, errOut)
	}
	for _, c := range []struct {
		args string
		says string
	}{
		{"-verify DIR/orders.zip", "signature: unchecked"},
		{"-verify DIR/orders.zip -pub DIR/pub.pem", "signature: valid"},
		{"-which 4.0.8 DIR/orders.zip", "post[0]  plugin.so  plugin.so  plugin.so\n"},
		{"-which 5.2.5 DIR/orders.zip", "post[0]  plugin.so  plugin_v5.2.5_linux_amd64.so  plugin_v5.2.5_linux_amd64.so, plugin_5.2.5_linux_amd64.so, plugin.so\n"},
		{"-which 5.2.5 -platform linux/arm64 DIR/orders.zip", "post[0]  plugin.so  plugin.so  plugin_v5.2.5_linux_arm64.so"},
	} {
		if code, out, errOut := call(t, dir, strings.Fields(c.args)...); code != 0 || errOut != "" || !strings.Contains(out, c.says) {
			t.Errorf("%s: %d %s%s", c.args, code, out, errOut)
		}
	}
}

func TestJSON(t *testing.T) {
	t.Parallel()
	dir := setup(t)
	get := func(want int, args ...string) map[string]any {
		t.Helper()
		code, out, errOut := call(t, dir, args...)
		var result map[string]any
		if err := json.Unmarshal([]byte(out), &result); err != nil || code != want {
			t.Fatalf("%v: %d %v %s%s", args, code, err, out, errOut)
		}
		return result
	}
	built := get(0, "-json", "-manifest", "DIR/manifest.json", "-o", "DIR/b.zip")
	if !strings.HasPrefix(built["name"].(string), "b-"+built["sha256"].(string)[:12]) || len(built["findings"].([]any)) != 0 {
		t.Errorf("build: %v", built)
	}
	if v := get(0, "-json", "-verify", "DIR/b.zip"); v["signature"] != "none" {
		t.Errorf("verify: %v", v)
	}
	hooks := get(0, "-json", "-which", "5.2.5", "DIR/b.zip")["hooks"].([]any)
	if hook := hooks[0].(map[string]any); hook["file"] != "plugin_v5.2.5_linux_amd64.so" || len(hook["tried"].([]any)) != 3 {
		t.Errorf("which: %v", hooks)
	}
	if v := get(1, "-json", "-verify", "DIR/b.zip", "-pub", "DIR/pub.pem"); v["retryable"] != false || !strings.Contains(v["error"].(string), "not signed") {
		t.Errorf("unsigned: %v", v)
	}
	write(t, filepath.Join(dir, "manifest.json"), []byte(`{"file_list":["gone.so"]}`))
	if v := get(1, "-json", "-manifest", "DIR/manifest.json", "-o", "DIR/b.zip"); len(v["findings"].([]any)) != 3 {
		t.Errorf("bad manifest: %v", v)
	}
}

// Bad content is exit code 1 with a reason, and the earlier bundle stays.
func TestBad(t *testing.T) {
	t.Parallel()
	dir := setup(t)
	write(t, filepath.Join(dir, "earlier.zip"), []byte("earlier"))
	write(t, filepath.Join(dir, "broken.json"), []byte("{"))
	write(t, filepath.Join(dir, "ruby.json"), []byte(strings.Replace(manifest, "goplugin", "ruby", 1)))
	old := strings.NewReplacer("plugin.so\", \"plugin_v5.2.5", "plugin_v5.3.0_linux_amd64.so\", \"plugin_v5.2.5")
	write(t, filepath.Join(dir, "versioned.json"), []byte(old.Replace(manifest)))
	write(t, filepath.Join(dir, "plugin_v5.3.0_linux_amd64.so"), append([]byte(elf.ELFMAG+"\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x03"), make([]byte, 60)...))
	if code, out, errOut := call(t, dir, "-manifest", "DIR/versioned.json", "-o", "DIR/versioned.zip"); code != 0 {
		t.Fatalf("%d %s%s", code, out, errOut)
	}
	for args, says := range map[string]string{
		"-manifest DIR/none.json -o DIR/earlier.zip":                       "no such file",
		"-manifest DIR/broken.json -o DIR/earlier.zip":                     "line 1 column",
		"-manifest DIR/ruby.json -o DIR/earlier.zip":                       "custom_middleware.driver",
		"-manifest DIR/manifest.json -dir DIR/none -o DIR/earlier.zip":     "does not exist",
		"-manifest DIR/manifest.json -o DIR/earlier.zip -key DIR/pub.pem":  "PKCS#8",
		"-manifest DIR/manifest.json -o DIR/earlier.zip -key DIR/none.pem": "no such file",
		"-verify DIR/earlier.zip":                                          "not a well-formed bundle",
		"-verify DIR/none.zip":                                             "no such file",
		"-verify DIR/versioned.zip -pub DIR/pub.pem":                       "not signed",
		"-verify DIR/versioned.zip -pub DIR/key.pem":                       "PKIX",
		"-which 5.1.0 DIR/versioned.zip":                                   "finds no file to load: tried plugin_v5.1.0_linux_amd64.so",
		"-which 5.1.0 DIR/earlier.zip":                                     "not a well-formed bundle",
	} {
		code, out, errOut := call(t, dir, strings.Fields(args)...)
		if code != 1 || !strings.Contains(errOut, says) || strings.Contains(errOut, "usage") {
			t.Errorf("%s: %d %s%s", args, code, out, errOut)
		}
	}
	if got, err := os.ReadFile(filepath.Join(dir, "earlier.zip")); string(got) != "earlier" {
		t.Errorf("the earlier bundle is %q, %v", got, err)
	}
}

func TestInterrupted(t *testing.T) {
	t.Parallel()
	dir := setup(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var out, errOut bytes.Buffer
	code := run(ctx, []string{"-manifest", dir + "/manifest.json", "-o", dir + "/b.zip"}, &out, &errOut)
	if _, err := os.Stat(dir + "/b.zip"); code != 1 || err == nil || !strings.Contains(errOut.String(), "canceled") {
		t.Errorf("%d %s %v", code, &errOut, err)
	}
	if code, out, errOut := call(t, dir, "-manifest", "DIR/manifest.json", "-o", "DIR/b.zip"); code != 0 {
		t.Fatalf("%d %s%s", code, out, errOut)
	}
	errOut.Reset()
	if code := run(ctx, []string{"-verify", dir + "/b.zip"}, &out, &errOut); code != 1 || !strings.Contains(errOut.String(), "canceled") {
		t.Errorf("-verify: %d %s", code, &errOut)
	}
}

// An answer that could not be printed is no success.
func TestFullOutput(t *testing.T) {
	t.Parallel()
	dir := setup(t)
	for _, args := range []string{"-manifest DIR/manifest.json -o DIR/b.zip", "-verify DIR/b.zip", "-which 5.2.5 DIR/b.zip", "-verify DIR/b.zip -json"} {
		r, w := io.Pipe()
		_ = r.CloseWithError(errors.New("disk full"))
		var errOut bytes.Buffer
		code := run(t.Context(), strings.Fields(strings.ReplaceAll(args, "DIR", dir)), w, &errOut)
		if code != 1 || !strings.Contains(errOut.String(), "disk full") {
			t.Errorf("%s: %d %s", args, code, &errOut)
		}
	}
}

func TestUsage(t *testing.T) {
	t.Parallel()
	for _, args := range []string{"-x", "extra", "-verify a extra", "-verify a -o b", "-verify a -which 5.2.5 b", "-which 5.2.5",
		"-which five b", "-which 5.2 b", "-which 5.2.5 -platform linux b", "-which 5.2.5 -key k b", "-pub p", "-o"} {
		if code, out, errOut := call(t, "", strings.Fields(args)...); code != 2 || out != "" || errOut == "" {
			t.Errorf("%s: %d %s%s", args, code, out, errOut)
		}
	}
	if code, _, errOut := call(t, "", "-h"); code != 0 || !strings.Contains(errOut, "exit codes:") {
		t.Errorf("-h: %d %s", code, errOut)
	}
}
