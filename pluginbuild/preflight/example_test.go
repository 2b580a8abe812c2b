package preflight_test

import (
	"archive/zip"
	"bytes"
	"fmt"
	"log"
	"os"
	"path/filepath"

	"github.com/Masterminds/semver/v3"

	"example.com/tykupgrade/pluginbuild/preflight"
)

// write puts the files of an example into a directory that the caller removes.
func write(files map[string][]byte) string {
	dir, err := os.MkdirTemp("", "preflight-example-")
	check(err)
	for name, data := range files {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			log.Fatal(err)
		}
	}
	return dir
}

// The lines of the README. In production the files are the .so and
// /opt/tyk-gateway/tyk, or /proc/PID/exe of a gateway that runs.
func Example() {
	dir := write(map[string][]byte{"plugin_v5.2.5_linux_amd64.so": forgedPlugin().bytes(),
		"tyk": forgedGateway().bytes()})
	defer os.RemoveAll(dir)

	gateway, err := preflight.Inspect(filepath.Join(dir, "tyk"))
	check(err)
	plugin, err := preflight.Inspect(filepath.Join(dir, "plugin_v5.2.5_linux_amd64.so"))
	check(err)
	report, err := preflight.CompareAll([]*preflight.Binary{plugin}, gateway, preflight.Target{
		Distro:  "debian/11",
		Gateway: semver.MustParse("5.2.5"),
		Symbols: []preflight.Symbol{{File: "plugin.so", Name: "AddFooBarHeader",
			Hook: preflight.HookRequest}},
	})
	check(err)
	fmt.Println(report.Verdict) // loads, fails or unknown
	for _, f := range report.Plugins[0].Findings {
		fmt.Println(f.Subject, "|", f.Detail, "|", f.Remedy)
	}
	// Output:
	// fails
	// github.com/google/uuid | gateway v1.6.0, plugin v1.5.0 | in the plugin's go.mod: require github.com/google/uuid v1.6.0
	// libc.so.6 | debian/11 has glibc 2.31, but plugin_v5.2.5_linux_amd64.so needs 2.34 | compile the plugin on a system with glibc 2.31 or older
	// AddFooBarHeader | its signature is unknown: the file has no debug information | compile without -ldflags=-s -w to check it
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

func ExampleInspect() {
	dir := write(map[string][]byte{"plugin.so": forgedPlugin().bytes()})
	defer os.RemoveAll(dir)

	b, err := preflight.Inspect(filepath.Join(dir, "plugin.so"))
	check(err)
	fmt.Println(b.Arch, b.GoVersion, b.Plugin, b.PluginPath, len(b.Packages))
	for _, f := range b.Exports {
		fmt.Println(f.Name, f.Hook)
	}
	for _, n := range b.Needs {
		fmt.Println(n.Library, n.Glibc)
	}
	// Output:
	// amd64 go1.22.1 true example.com/hooks 4
	// AddFooBarHeader unknown
	// libc.so.6 2.34
	// libm.so.6 2.29
}

func ExampleInspectReaderAt() {
	r, size := forgedGateway().reader()
	b, err := preflight.InspectReaderAt(r, size, "tyk")
	check(err)
	fmt.Println(b.Name, b.GoVersion, b.Main.Path, b.Modules[0].Path, b.Modules[0].Version)
	// Output: tyk go1.22.1 github.com/TykTechnologies/tyk github.com/google/uuid v1.6.0
}

func ExampleCompare() {
	r, size := forgedGateway().reader()
	gateway, err := preflight.InspectReaderAt(r, size, "tyk")
	check(err)
	r, size = forgedPlugin().reader()
	plugin, err := preflight.InspectReaderAt(r, size, "plugin.so")
	check(err)
	result := preflight.Compare(plugin, gateway)
	fmt.Println(result.Verdict, result.Common, result.Mismatched)
	// Output: fails 3 [github.com/google/uuid]
}

func ExampleDistros() {
	fmt.Println(preflight.Distros())
	// Output: [debian/11 debian/12 debian/13 ubuntu/16.04 ubuntu/18.04 ubuntu/20.04 ubuntu/22.04 ubuntu/24.04]
}

func ExampleCompareAll() {
	r, size := forgedGateway().reader()
	gateway, err := preflight.InspectReaderAt(r, size, "tyk")
	check(err)
	var plugins []*preflight.Binary
	for _, name := range []string{"headers.so", "tokens.so"} {
		f := forgedPlugin()
		f.packages["github.com/google/uuid"] = "uuid-1.6"
		f.versions = forgedGateway().versions
		r, size := f.reader()
		p, err := preflight.InspectReaderAt(r, size, name)
		if err != nil {
			log.Fatal(err)
		}
		plugins = append(plugins, p)
	}
	report, err := preflight.CompareAll(plugins, gateway, preflight.Target{})
	check(err)
	for _, p := range report.Plugins {
		fmt.Println(p.Plugin.Name, p.Verdict, p.Findings)
	}
	// Output:
	// headers.so loads []
	// tokens.so fails [example.com/hooks: plugin already loaded: headers.so has the same plugin path; give one of them another module path, or an id when compiling]
}

func ExampleInspectZip() {
	var bundle bytes.Buffer
	z := zip.NewWriter(&bundle)
	w, err := z.Create("plugin.so")
	check(err)
	if _, err := w.Write(forgedPlugin().bytes()); err != nil {
		log.Fatal(err)
	}
	if err := z.Close(); err != nil {
		log.Fatal(err)
	}
	plugins, err := preflight.InspectZip(bytes.NewReader(bundle.Bytes()), int64(bundle.Len()))
	check(err)
	fmt.Println(plugins[0].Name, plugins[0].PluginPath)
	// Output: plugin.so example.com/hooks
}

func ExampleInspectTar() {
	// As docker cp IMAGE:/opt/tyk-gateway/tyk - writes it.
	b, err := preflight.InspectTar(bytes.NewReader(tarOf("tyk", forgedGateway().bytes())), "")
	check(err)
	fmt.Println(b.Name, b.GoVersion)
	// Output: tyk go1.22.1
}

func ExampleInspectDeb() {
	deb := debOf("data.tar.gz", gzipped(tarOf("./opt/tyk-gateway/tyk", forgedGateway().bytes())))
	b, err := preflight.InspectDeb(bytes.NewReader(deb), "/opt/tyk-gateway/tyk")
	check(err)
	fmt.Println(b.Name, b.GoVersion)
	_, err = preflight.InspectDeb(bytes.NewReader(debOf("data.tar.zst", nil)), "/opt/tyk-gateway/tyk")
	fmt.Println(err)
	// Output:
	// ./opt/tyk-gateway/tyk go1.22.1
	// read Debian package: unsupported compression: data.tar.zst; pass the output of dpkg-deb --fsys-tarfile as a tar
}
