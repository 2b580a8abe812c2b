package bundle_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"testing"

	"github.com/Masterminds/semver/v3"

	"example.com/tykupgrade/bundle"
)

// What was parsed is the same after writing and parsing it again, and can be
// validated.
func FuzzParse(f *testing.F) {
	example, err := os.ReadFile(example)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(example)
	f.Add([]byte(`{"custom_middleware":{"post":[{"name":"A","code":1}],"x":null},"FILE_LIST":["a","../b"]}`))
	f.Add([]byte(`{"":1,"a.b":{"c":2}}`))
	f.Add([]byte(`{"custom_middleware":{"id_extractor":{"extractor_config":{"a":1e400}}}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := bundle.Parse(data)
		if err != nil {
			var own *bundle.Error
			if !errors.As(err, &own) {
				t.Fatalf("%T: %v", err, err)
			}
			return
		}
		for _, finding := range m.Validate(nil) {
			if finding.Path == "" || finding.Remedy == "" {
				t.Errorf("finding %+v", finding)
			}
		}
		var written bytes.Buffer
		if _, err := m.WriteTo(&written); err != nil {
			t.Fatal(err)
		}
		again, err := bundle.Parse(written.Bytes())
		if err != nil {
			t.Fatalf("%v in %s", err, &written)
		}
		m.Unknown, again.Unknown = nil, nil
		if !reflect.DeepEqual(m, again) {
			t.Errorf("%+v became %+v", m, again)
		}
	})
}

// Extract leaves nothing where it fails and exactly the bundle where it does
// not, writes nothing next to its directory, and agrees with Verify.
func FuzzVerifyExtract(f *testing.F) {
	f.Add(built(f, bundle.Options{}))
	for _, c := range attacks {
		if len(c.entries[0].data) < 1<<10 {
			f.Add(craft(f, c.entries...))
		}
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		limits := bundle.VerifyOptions{MaxSize: 1 << 20, MaxFiles: 10}
		m, err := verify(data, limits)
		parent := t.TempDir()
		err2 := extract(t.Context(), data, filepath.Join(parent, "new"), limits)
		if (err == nil) != (err2 == nil) && !errors.Is(err2, os.ErrInvalid) {
			var path *os.PathError
			if !errors.As(err2, &path) { // a name that the file system does not take
				t.Fatalf("verify: %v, extract: %v", err, err2)
			}
		}
		if err2 != nil {
			only(t, parent)
			return
		}
		only(t, parent, "new")
		want := append([]string{"manifest.json"}, m.FileList...)
		slices.Sort(want)
		only(t, filepath.Join(parent, "new"), want...)
	})
}

// A file that is found is one of the bundle's and of the names tried.
func FuzzResolve(f *testing.F) {
	f.Add("plugin.so", "5.2.5", "linux", "amd64", "plugin_v5.2.5_linux_amd64.so", false)
	f.Add("../a/./b.so", "4.1.0-rc1+x", "", "arm64", "b_4.1.0_linux_arm64.so", true)
	f.Add("/", "0.0.0", "", "", "", false)
	f.Fuzz(func(t *testing.T, hook, version, goos, goarch, file string, response bool) {
		v, err := semver.NewVersion(version)
		if err != nil {
			return
		}
		r, err := bundle.Resolve(hook, bundle.Loader{Gateway: v, GOOS: goos, GOARCH: goarch,
			Response: response}, []string{file})
		if (err == nil) != (r.File != "") {
			t.Fatalf("%+v, %v", r, err)
		}
		if err == nil && (!slices.Contains(r.Tried, r.File) || filepath.Clean(file) != r.File) {
			t.Errorf("%+v from %q", r, file)
		}
		if _, err := json.Marshal(r); err != nil {
			t.Error(err)
		}
	})
}
