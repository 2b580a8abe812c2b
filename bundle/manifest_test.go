package bundle_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"strings"
	"testing"

	"example.com/tykupgrade/bundle"
)

// example is the manifest of Tyk's procedure for 4.0.8 to 5.2.5, as printed there.
const example = "testdata/procedure.json"

func parseFile(t *testing.T, name string) *bundle.Manifest {
	t.Helper()
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	m, err := bundle.Parse(data)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// What "tyk bundle build" of a gateway built from v5.14.0 wrote for the same
// manifests.
func TestManifestAsTykWritesIt(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ in, want string }{
		"procedure": {
			`{"file_list":["plugin.so","plugin_v5.2.5_linux_amd64.so"],"custom_middleware":{"post":[{"name":"AddFooBarHeader","path":"plugin.so","require_session":false,"raw_body_only":false}],"driver":"goplugin","id_extractor":{"extract_from":"","extract_with":"","extractor_config":{}}},"checksum":"905466f1d76481700579e74c717683d3","signature":""}`,
			`{"file_list":["plugin.so","plugin_v5.2.5_linux_amd64.so"],"custom_middleware":{"pre":null,"post":[{"disabled":false,"name":"AddFooBarHeader","path":"plugin.so","require_session":false,"raw_body_only":false}],"post_key_auth":null,"auth_check":{"disabled":false,"name":"","path":"","require_session":false,"raw_body_only":false},"response":null,"driver":"goplugin","id_extractor":{"disabled":false,"extract_from":"","extract_with":"","extractor_config":{}}},"checksum":"905466f1d76481700579e74c717683d3","signature":""}`,
		},
		"empty lists stay, HTML is escaped, numbers are floats, unknown fields go": {
			`{"file_list":[],"custom_middleware":{"pre":[],"auth_check":{"name":"a<b","path":""},"driver":"grpc","id_extractor":{"extractor_config":{"z":1e21,"a":[1,"é"]}}},"checksum":"d41d8cd98f00b204e9800998ecf8427e","foo":1}`,
			`{"file_list":[],"custom_middleware":{"pre":[],"post":null,"post_key_auth":null,"auth_check":{"disabled":false,"name":"a\u003cb","path":"","require_session":false,"raw_body_only":false},"response":null,"driver":"grpc","id_extractor":{"disabled":false,"extract_from":"","extract_with":"","extractor_config":{"a":[1,"é"],"z":1e+21}}},"checksum":"d41d8cd98f00b204e9800998ecf8427e","signature":""}`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m, err := bundle.Parse([]byte(c.in))
			if err != nil {
				t.Fatal(err)
			}
			var got bytes.Buffer
			if _, err := m.WriteTo(&got); err != nil {
				t.Fatal(err)
			}
			if got.String() != c.want {
				t.Errorf("got  %s\nwant %s", &got, c.want)
			}
		})
	}
}

func TestParseKeepsUnknownFields(t *testing.T) {
	t.Parallel()
	m, err := bundle.Parse([]byte(`{"File_List":["a"],"author":{"x":[1]},"a.b":2,"custom_middleware":{"traffic_logs":{"name":"T","new":1},
		"post":[{"name":"A"},{"name":"B","code":"c"}],"id_extractor":{"extractor_config":{"anything":1},"extra":null}}}`))
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{
		`["a.b"]`:                              `2`,
		"author":                               `{"x":[1]}`,
		"custom_middleware.traffic_logs.new":   `1`,
		"custom_middleware.post[1].code":       `"c"`,
		"custom_middleware.id_extractor.extra": `null`,
	}
	if len(m.Unknown) != len(want) || len(m.FileList) != 1 {
		t.Errorf("unknown %v, file_list %v", m.Unknown, m.FileList)
	}
	for at, value := range want {
		if string(m.Unknown[at]) != value {
			t.Errorf("%s is %s, want %s", at, m.Unknown[at], value)
		}
	}
	if m.Middleware.TrafficLogs == nil {
		t.Error("traffic_logs was not read")
	}
	reported := 0
	for _, f := range m.Validate(nil) {
		if _, ok := want[f.Path]; ok && f.Severity == bundle.Accepted {
			reported++
		}
	}
	if reported != len(want) {
		t.Errorf("%d of %d unknown fields reported", reported, len(want))
	}
}

func TestParseRefuses(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"":                         "parse manifest",
		"{\n  \"file_list\": [,]}": "line 2 column 17",
		`{"file_list":"a"}`:        "file_list",
		`{} {}`:                    "line 1 column 4",
		`null`:                     "not a JSON object",
		`[]`:                       "parse manifest",
	} {
		_, err := bundle.Parse([]byte(in))
		var own *bundle.Error
		if !errors.As(err, &own) || !strings.Contains(err.Error(), want) || own.Hint() == "" ||
			own.Retryable() {
			t.Errorf("Parse(%q): %v", in, err)
		}
	}
}

func TestWriteToFailsOnWhatJSONCannotHold(t *testing.T) {
	t.Parallel()
	m := goManifest("plugin.so")
	m.Middleware.IDExtractor.ExtractorConfig = map[string]any{"f": func() {}}
	var kind *json.UnsupportedTypeError
	if _, err := m.WriteTo(&bytes.Buffer{}); !errors.As(err, &kind) {
		t.Errorf("error %v", err)
	}
}
