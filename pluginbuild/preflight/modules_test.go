package preflight

import "testing"

func TestFileModule(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]Module{
		"github.com/google/uuid@v1.6.0/uuid.go": {
			Path: "github.com/google/uuid", Version: "v1.6.0"},
		"/go/pkg/mod/github.com/!tyk!technologies/tyk-pump@v1.8.0-rc1/a.go": {
			Path: "github.com/TykTechnologies/tyk-pump", Version: "v1.8.0-rc1"},
		"github.com/a/b/v2@v2.0.0-20231218094207-cbda400a37ee/c.go": {Path: "github.com/a/b/v2",
			Version: "v2.0.0-20231218094207-cbda400a37ee"},
		"github.com/docker/docker@v28.5.2+incompatible/client/client.go": {
			Path: "github.com/docker/docker", Version: "v28.5.2+incompatible"},
		"/home/me/src/x@v1.6.0/uuid.go":  {},
		"mail me@very.soon/":             {},
		"@v1.0.0/":                       {},
		"example.org/dep@v1/":            {},
		"/usr/local/go/src/fmt/print.go": {},
	} {
		p := []byte("\x00" + name + "\x00")
		var got Module
		for i := range p {
			if p[i] == '@' {
				got, _ = fileModule(p, i)
			}
		}
		if got != want {
			t.Errorf("%s: %+v, not %+v", name, got, want)
		}
	}
}

func FuzzFileModule(f *testing.F) {
	f.Add([]byte("\x00/go/pkg/mod/github.com/!a/b@v1.6.0/c.go\x00"), 25)
	f.Fuzz(func(t *testing.T, p []byte, i int) {
		if i < 0 || i >= len(p) || p[i] != '@' {
			return
		}
		if m, ok := fileModule(p, i); ok != (m != Module{}) {
			t.Errorf("%+v, %v", m, ok)
		}
	})
}
