package bundle_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"path/filepath"

	"github.com/Masterminds/semver/v3"

	"example.com/tykupgrade/bundle"
)

// From the builds for two gateway versions to a published bundle: fifteen lines
// that an upgrade tool needs.
func Example() {
	dir := builds("plugin.so", "plugin_v5.2.5_linux_amd64.so")
	defer os.RemoveAll(dir)

	manifest, err := bundle.Parse([]byte(`{"file_list": ["plugin.so"], "custom_middleware": {
		"driver": "goplugin", "post": [{"name": "AddFooBarHeader", "path": "plugin.so"}]}}`))
	check(err)
	plan, err := bundle.ForUpgrade(bundle.Upgrade{
		From: semver.MustParse("4.0.8"), To: semver.MustParse("5.2.5"),
		Plugins: []bundle.Plugin{{Current: "plugin.so", Target: "plugin_v5.2.5_linux_amd64.so"}},
	})
	check(err)
	manifest, err = plan.Manifest(manifest)
	check(err)
	path := filepath.Join(dir, "bundle.zip")
	result, err := bundle.WriteFile(context.Background(), path, plan.FS(os.DirFS(dir)), manifest,
		bundle.Options{})
	check(err)

	fmt.Println(result.Manifest.FileList)
	fmt.Println("4.0.8 loads", plan.Plugins[0].Current.File)
	fmt.Println("5.2.5 loads", plan.Plugins[0].Target.File)
	// Output:
	// [plugin.so plugin_v5.2.5_linux_amd64.so]
	// 4.0.8 loads plugin.so
	// 5.2.5 loads plugin_v5.2.5_linux_amd64.so
}

func ExampleParse() {
	m, err := bundle.Parse([]byte(`{"custom_middleware": {"driver": "grpc", "colour": "red"}}`))
	check(err)
	fmt.Println(m.Middleware.Driver)
	for at, value := range m.Unknown {
		fmt.Println("unknown:", at, string(value))
	}
	// Output:
	// grpc
	// unknown: custom_middleware.colour "red"
}

func ExampleManifest_Validate() {
	m, err := bundle.Parse(
		[]byte(`{"file_list": ["../plugin.so"], "custom_middleware": {"driver": "ruby", "pre": [{"name": "Auth"}]}}`))
	check(err)
	for _, f := range m.Validate(nil) {
		fmt.Printf("%s: %s: %s; %s\n", f.Severity, f.Path, f.Problem, f.Remedy)
	}
	// Output:
	// refused: file_list[0]: "../plugin.so" leaves the bundle's directory; put the file next to the manifest and list its bare name
	// refused: custom_middleware.driver: no gateway up to 5.14 has the driver "ruby"; use one of otto, python, lua, grpc, goplugin
}

func ExampleManifest_WriteTo() {
	m := &bundle.Manifest{FileList: []string{"plugin.so"}}
	_, err := m.WriteTo(os.Stdout)
	check(err)
	// Output:
	// {"file_list":["plugin.so"],"custom_middleware":{"pre":null,"post":null,"post_key_auth":null,"auth_check":{"disabled":false,"name":"","path":"","require_session":false,"raw_body_only":false},"response":null,"driver":"","id_extractor":{"disabled":false,"extract_from":"","extract_with":"","extractor_config":null}},"checksum":"","signature":""}
}

func ExampleWrite() {
	m := goManifest("plugin.so") // driver goplugin, one post hook
	result, err := bundle.Write(io.Discard, files("plugin.so"), m, bundle.Options{})
	check(err)
	fmt.Println(result.Manifest.Checksum)
	// Output: 77fa695e232b23c9275af0a6ab2684a1
}

func ExampleWriteFile() {
	dir := builds("plugin.so")
	defer os.RemoveAll(dir)
	_, err := bundle.WriteFile(context.Background(), filepath.Join(dir, "bundle.zip"), os.DirFS(dir),
		goManifest("gone.so"), bundle.Options{})
	var refused *bundle.Error
	if errors.As(err, &refused) {
		fmt.Println(refused.Findings[0].Path, refused.Findings[0].Problem)
	}
	// Output: file_list[0] "gone.so" does not exist
}

func ExampleResult_Name() {
	r := bundle.Result{SHA256: "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"}
	fmt.Println(r.Name("orders"))
	// Output: orders-9f86d081884c.zip
}

func ExampleVerify() {
	var zipped bytes.Buffer
	_, err := bundle.Write(&zipped, files("plugin.so"), goManifest("plugin.so"), bundle.Options{})
	check(err)
	key, err := bundle.ParsePublicKey(publicPEM)
	check(err)
	_, err = bundle.Verify(bytes.NewReader(zipped.Bytes()), int64(zipped.Len()), bundle.VerifyOptions{
		Key: key})
	fmt.Println(errors.Is(err, bundle.ErrUnsigned))
	fmt.Println(err)
	// Output:
	// true
	// verify bundle: bundle is not signed; build it with the private key, or leave the key out to check the rest
}

func ExampleExtract() {
	var zipped bytes.Buffer
	_, err := bundle.Write(&zipped, files("plugin.so"), goManifest("plugin.so"), bundle.Options{})
	check(err)
	dir, err := os.MkdirTemp("", "extract")
	check(err)
	defer os.RemoveAll(dir)
	_, err = bundle.Extract(context.Background(), bytes.NewReader(zipped.Bytes()), int64(zipped.Len()),
		dir, bundle.VerifyOptions{})
	check(err)
	entries, err := os.ReadDir(dir)
	check(err)
	for _, e := range entries {
		fmt.Println(e.Name())
	}
	// Output:
	// manifest.json
	// plugin.so
}

func ExampleParsePrivateKey() {
	key, err := bundle.ParsePrivateKey(privatePEM)
	check(err)
	m := goManifest("plugin.so")
	result, err := bundle.Write(io.Discard, files("plugin.so"), m, bundle.Options{Signer: key})
	check(err)
	fmt.Println("signed:", result.Manifest.Signature != "")
	// Output: signed: true
}

func ExampleParsePublicKey() {
	_, err := bundle.ParsePublicKey([]byte("-----BEGIN CERTIFICATE-----\nAAAA\n-----END " +
		"CERTIFICATE-----\n"))
	fmt.Println(err)
	// Output: read public key: key cannot be used: it is a certificate; take its key with: openssl x509 -pubkey -noout -in CERT; an RSA public key in PEM is accepted, PKIX (BEGIN PUBLIC KEY) or PKCS#1 (BEGIN RSA PUBLIC KEY)
}

func ExampleResolve() {
	files := []string{"plugin.so", "plugin_v5.2.5_linux_amd64.so"}
	for _, version := range []string{"4.0.8", "4.2.4", "5.2.5"} {
		r, err := bundle.Resolve("plugin.so", bundle.Loader{Gateway: semver.MustParse(version),
			GOOS: "linux", GOARCH: "amd64"}, files)
		check(err)
		fmt.Println(version, "tries", r.Tried, "and loads", r.File)
	}
	// Output:
	// 4.0.8 tries [plugin.so] and loads plugin.so
	// 4.2.4 tries [plugin.so plugin_4.2.4_linux_amd64.so] and loads plugin.so
	// 5.2.5 tries [plugin_v5.2.5_linux_amd64.so plugin_5.2.5_linux_amd64.so plugin.so] and loads plugin_v5.2.5_linux_amd64.so
}

func ExampleResolve_response() {
	r, err := bundle.Resolve("plugin.so", bundle.Loader{Gateway: semver.MustParse("4.2.4"),
		Response: true}, []string{"plugin_4.2.4_linux_amd64.so"})
	fmt.Println(r.Tried, errors.Is(err, bundle.ErrNotFound))
	// Output: [plugin.so] true
}

func ExampleManifest_Resolve() {
	m := goManifest("plugin.so", "plugin_v5.2.5_linux_amd64.so")
	all, err := m.Resolve(semver.MustParse("5.2.5"), "linux", "amd64")
	check(err)
	for _, r := range all {
		fmt.Println(r.Hook, "loads", r.File)
	}
	// Output: custom_middleware.post[0] loads plugin_v5.2.5_linux_amd64.so
}

// Gateways from 4.1.0 to 4.3.1 take the exact name first, so the plan has copies
// under other names.
func ExampleForUpgrade() {
	plan, err := bundle.ForUpgrade(bundle.Upgrade{
		From: semver.MustParse("4.1.0"), To: semver.MustParse("4.2.4"),
		Plugins: []bundle.Plugin{{Current: "plugin.so", Target: "plugin_v4.2.4_linux_amd64.so"}},
	})
	check(err)
	for _, name := range plan.FileList {
		fmt.Println(name, "from", plan.Sources[name])
	}

	_, err = bundle.ForUpgrade(bundle.Upgrade{
		From: semver.MustParse("4.0.8"), To: semver.MustParse("4.2.4"),
		Plugins: []bundle.Plugin{{Current: "plugin.so", Target: "plugin_v4.2.4_linux_amd64.so"}},
	})
	fmt.Println(errors.Is(err, bundle.ErrNoUpgrade))
	// Output:
	// plugin_4.1.0_linux_amd64.so from plugin.so
	// plugin_4.2.4_linux_amd64.so from plugin_v4.2.4_linux_amd64.so
	// true
}

func ExampleUpgradePlan_Manifest() {
	plan, err := bundle.ForUpgrade(bundle.Upgrade{
		From: semver.MustParse("5.0.3"), To: semver.MustParse("5.2.5"),
		Plugins: []bundle.Plugin{{Current: "plugin_v5.0.3_linux_amd64.so",
			Target: "plugin_v5.2.5_linux_amd64.so"}},
	})
	check(err)
	m := goManifest("plugin_v5.0.3_linux_amd64.so")
	m.Middleware.Post[0].Path = "plugin.so"
	m, err = plan.Manifest(m)
	check(err)
	fmt.Println(m.FileList, m.Middleware.Post[0].Path)
	// Output: [plugin_v5.0.3_linux_amd64.so plugin_v5.2.5_linux_amd64.so] plugin.so
}

func ExampleUpgradePlan_FS() {
	plan, err := bundle.ForUpgrade(bundle.Upgrade{
		From: semver.MustParse("4.0.8"), To: semver.MustParse("5.2.5"),
		Plugins: []bundle.Plugin{{Current: "old/plugin.so", Target: "new/plugin.so"}},
	})
	check(err)
	f, err := plan.FS(files("old/plugin.so", "new/plugin.so")).Open("plugin_v5.2.5_linux_amd64.so")
	check(err)
	info, err := f.Stat()
	check(err)
	fmt.Println(info.Name())
	// Output: plugin.so
}

// builds returns a directory with the files.
func builds(names ...string) string {
	dir, err := os.MkdirTemp("", "builds")
	check(err)
	for _, name := range names {
		check(os.WriteFile(filepath.Join(dir, name), sharedObject(name), 0o600))
	}
	return dir
}

var privatePEM, publicPEM = func() ([]byte, []byte) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	check(err)
	return pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY",
			Bytes: x509.MarshalPKCS1PrivateKey(key)}),
		pem.EncodeToMemory(&pem.Block{Type: "RSA PUBLIC KEY",
			Bytes: x509.MarshalPKCS1PublicKey(&key.PublicKey)})
}()

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

// The bundle takes the name that the APIs have; a revert serves the old one.
func ExamplePublication() {
	served := builds("orders.zip")
	defer os.RemoveAll(served)
	next := filepath.Join(served, "built.zip")
	check(os.WriteFile(next, []byte("new bundle"), 0o600))
	p := bundle.Publication{Dir: served, Name: "orders.zip", Run: "upgrade-5.14"}
	_, err := p.Publish(context.Background(), next)
	check(err)
	state, _, err := p.State()
	check(err)
	fmt.Println(state)
	check(p.Revert(context.Background()))
	state, _, err = p.State()
	check(err)
	fmt.Println(state)
	// Output:
	// published
	// none
}

func ExampleCacheDir() {
	for _, version := range []string{"3.2.2", "5.14.0"} {
		dirs, err := bundle.CacheDir(semver.MustParse(version), "", "orders-api", "orders.zip")
		check(err)
		fmt.Println(dirs[0].Dir)
	}
	// Output:
	// /opt/tyk-gateway/middleware/bundles/orders-api_ab765cb60b79099d11d1928386acd700
	// /opt/tyk-gateway/middleware/bundles/ab765cb60b79099d11d1928386acd700
}

// Running gateways refuse a new name with the same plugin.
func ExampleForUpgrade_runningGateways() {
	_, err := bundle.ForUpgrade(bundle.Upgrade{
		From: semver.MustParse("5.2.5"), To: semver.MustParse("5.14.0"),
		Plugins:    []bundle.Plugin{{Current: "old/auth.so", Target: "new/auth.so"}},
		PluginPath: func(string) (string, error) { return "corp.example/auth", nil },
		Switch: bundle.Switch{Mode: bundle.NewName, Name: "auth.zip", New: "auth-2.zip",
			Running: []bundle.Open{{Bundle: "auth.zip", File: "auth.so", PluginPath: "corp.example/auth"}}},
	})
	fmt.Println(errors.Is(err, bundle.ErrOutage))
	// Output: true
}
