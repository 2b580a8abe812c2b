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

	"example.com/tykupgrade/examples/internal/cli"
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
		"key.pem": pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY",
			Bytes: x509.MarshalPKCS1PrivateKey(key)}),
		"pub.pem": pem.EncodeToMemory(&pem.Block{Type: "RSA PUBLIC KEY",
			Bytes: x509.MarshalPKCS1PublicKey(&key.PublicKey)}),
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
var apiName = regexp.MustCompile(
	`\b(Signer|Options|VerifyOptions|Max(Size|Files|Ratio)|Response|set [A-Z]\w+)\b`)

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
		t.Errorf("packbundle %q: %q is a name that the user of the command does not see\n%s", args, name,
			&errOut)
	}
	return code, out.String(), errOut.String()
}

func TestBuildVerifyWhich(t *testing.T) {
	t.Parallel()
	dir := setup(t)
	code, out, errOut := call(t, dir, "build", "-manifest", "DIR/manifest.json", "-o",
		"DIR/orders.zip", "-key", "DIR/key.pem")
	if code != 0 || errOut != "" || !strings.Contains(out, "signed") || !strings.Contains(out,
		"SHA-256 ") {
		t.Fatalf("build: %d %s%s", code, out, errOut)
	}
	for _, c := range []struct {
		args string
		says string
	}{
		{"verify DIR/orders.zip", "signature: unchecked"},
		{"verify DIR/orders.zip -pub DIR/pub.pem", "signature: valid"},
		{"which -release 4.0.8 DIR/orders.zip", "post[0]  plugin.so  plugin.so  plugin.so\n"},
		{"which -release 5.2.5 DIR/orders.zip", "post[0]  plugin.so  plugin_v5.2.5_linux_amd64.so  " +
			"plugin_v5.2.5_linux_amd64.so, plugin_5.2.5_linux_amd64.so, plugin.so\n"},
		{"which -release 5.2.5 -platform linux/arm64 DIR/orders.zip",
			"post[0]  plugin.so  plugin.so  plugin_v5.2.5_linux_arm64.so"},
	} {
		if code, out, errOut := call(t, dir, strings.Fields(c.args)...); code != 0 || errOut != "" ||
			!strings.Contains(out, c.says) {
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
	built := get(0, "build", "-json", "-manifest", "DIR/manifest.json", "-o", "DIR/b.zip")
	if !strings.HasPrefix(built["name"].(string), "b-"+built["sha256"].(string)[:12]) ||
		len(built["findings"].([]any)) != 0 {
		t.Errorf("build: %v", built)
	}
	if v := get(0, "verify", "-json", "DIR/b.zip"); v["signature"] != "none" {
		t.Errorf("verify: %v", v)
	}
	hooks := get(0, "which", "-json", "-release", "5.2.5", "DIR/b.zip")["hooks"].([]any)
	if hook := hooks[0].(map[string]any); hook["file"] != "plugin_v5.2.5_linux_amd64.so" ||
		len(hook["tried"].([]any)) != 3 {
		t.Errorf("which: %v", hooks)
	}
	if v := get(1, "verify", "-json", "DIR/b.zip", "-pub", "DIR/pub.pem"); v["retryable"] != false ||
		!strings.Contains(v["error"].(string), "not signed") {
		t.Errorf("unsigned: %v", v)
	}
	write(t, filepath.Join(dir, "manifest.json"), []byte(`{"file_list":["gone.so"]}`))
	if v := get(1, "build", "-json", "-manifest", "DIR/manifest.json", "-o",
		"DIR/b.zip"); len(v["findings"].([]any)) != 3 {
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
	old := strings.NewReplacer("plugin.so\", \"plugin_v5.2.5",
		"plugin_v5.3.0_linux_amd64.so\", \"plugin_v5.2.5")
	write(t, filepath.Join(dir, "versioned.json"), []byte(old.Replace(manifest)))
	write(t, filepath.Join(dir, "plugin_v5.3.0_linux_amd64.so"),
		append([]byte(elf.ELFMAG+"\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x03"), make([]byte,
			60)...))
	if code, out, errOut := call(t, dir, "build", "-manifest", "DIR/versioned.json", "-o",
		"DIR/versioned.zip"); code != 0 {
		t.Fatalf("%d %s%s", code, out, errOut)
	}
	for args, says := range map[string]string{
		"build -manifest DIR/none.json -o DIR/earlier.zip":                       "no such file",
		"build -manifest DIR/broken.json -o DIR/earlier.zip":                     "line 1 column",
		"build -manifest DIR/ruby.json -o DIR/earlier.zip":                       "custom_middleware.driver",
		"build -manifest DIR/manifest.json -dir DIR/none -o DIR/earlier.zip":     "does not exist",
		"build -manifest DIR/manifest.json -o DIR/earlier.zip -key DIR/pub.pem":  "PKCS#8",
		"build -manifest DIR/manifest.json -o DIR/earlier.zip -key DIR/none.pem": "no such file",
		"verify DIR/earlier.zip":                                                 "not a well-formed bundle",
		"verify DIR/none.zip":                                                    "no such file",
		"verify DIR/versioned.zip -pub DIR/pub.pem":                              "not signed",
		"verify DIR/versioned.zip -pub DIR/key.pem":                              "PKIX",
		"which -release 5.1.0 DIR/versioned.zip": "finds no file to " +
			"load: tried plugin_v5.1.0_linux_amd64.so",
		"which -release 5.1.0 DIR/earlier.zip": "not a well-formed bundle",
	} {
		want := cli.No
		for _, file := range []string{"none.json", "broken.json", "-key", "-pub DIR/key.pem"} {
			if strings.Contains(args, file) { // the file of a flag
				want = cli.Usage
			}
		}
		code, out, errOut := call(t, dir, strings.Fields(args)...)
		if code != want || !strings.Contains(errOut, says) || strings.Contains(errOut, "usage") {
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
	code := run(ctx, []string{"build", "-manifest", dir + "/manifest.json", "-o", dir + "/b.zip"},
		&out, &errOut)
	if _, err := os.Stat(dir + "/b.zip"); code != cli.Interrupted || err == nil ||
		!strings.Contains(errOut.String(), "canceled") {
		t.Errorf("%d %s %v", code, &errOut, err)
	}
	if code, out, errOut := call(t, dir, "build", "-manifest", "DIR/manifest.json", "-o",
		"DIR/b.zip"); code != 0 {
		t.Fatalf("%d %s%s", code, out, errOut)
	}
	errOut.Reset()
	if code := run(ctx, []string{"verify", dir + "/b.zip"}, &out, &errOut); code != cli.Interrupted ||
		!strings.Contains(errOut.String(), "canceled") {
		t.Errorf("-verify: %d %s", code, &errOut)
	}
}

// An answer that could not be printed is not a success.
func TestFullOutput(t *testing.T) {
	t.Parallel()
	dir := setup(t)
	for _, args := range []string{"build -manifest DIR/manifest.json -o DIR/b.zip", "verify DIR/b.zip",
		"which -release 5.2.5 DIR/b.zip", "verify DIR/b.zip -json"} {
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
	for _, args := range []string{"", "x", "build extra", "build -x", "verify", "verify a extra",
		"verify a -o b", "which a", "which -release five b",
		"which -release 5.2 b", "which -release 5.2.5 -platform linux b", "which -release 5.2.5 -key k b",
		"publish a b", "publish -dir d a", "build -o"} {
		if code, out, errOut := call(t, "", strings.Fields(args)...); code != 2 || out != "" ||
			strings.Count(errOut, "\n") > 2 {
			t.Errorf("%s: %d %s%s", args, code, out, errOut)
		}
	}
	if code, out, _ := call(t, "", "-h"); code != 0 || !strings.Contains(out, "Exit codes:") {
		t.Errorf("-h: %d %s", code, out)
	}
}

func TestPublish(t *testing.T) {
	t.Parallel()
	dir := setup(t)
	served := t.TempDir()
	write(t, filepath.Join(served, "a.zip"), []byte("old"))
	now := func() string {
		data, err := os.ReadFile(filepath.Join(served, "a.zip"))
		if err != nil {
			t.Fatal(err)
		}
		return string(data)
	}
	for _, c := range []struct {
		args string
		code int
		old  bool
	}{
		{"revert -dir SERVED a.zip", 0, true}, {"publish -dir SERVED DIR/plugin.so a.zip", 0, false},
		{"publish -dir SERVED DIR/plugin.so a.zip", 0, false},
		{"publish -dir SERVED -run other DIR/plugin.so a.zip", 5, false},
		{"revert -dir SERVED a.zip -json", 0, true},
		{"publish -dir SERVED/none DIR/plugin.so a.zip", 2, true}, {"publish -dir SERVED DIR/none a.zip",
			1, true},
		{"publish -dir SERVED DIR/plugin.so a.zip", 0, false}, {"accept -dir SERVED a.zip", 0, false},
		{"revert -dir SERVED a.zip", 0, false},
	} {
		code, out, errOut := call(t, dir, strings.Fields(strings.ReplaceAll(c.args, "SERVED", served))...)
		if code != c.code || (now() == "old") != c.old || (code == 0) != (errOut == "") {
			t.Errorf("%s: %d %s%s", c.args, code, out, errOut)
		}
	}
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	return program().Run(ctx, args, cli.Streams{Out: stdout, Err: stderr})
}
