package health_test

import (
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"example.com/tykupgrade/health"
)

func TestParseBothDrafts(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 11, 23, 6, 0, 0, 0, time.UTC)
	for _, c := range []struct {
		body string
		want health.Document
	}{
		{`{"status":"pass","version":"v4.0.8","description":"Tyk GW","details":{"redis":{"status":"pass","componentType":"datastore","time":"2026-11-23T07:00:00+01:00"}}}`,
			health.Document{Status: health.Pass, Version: "v4.0.8", Description: "Tyk GW",
				Components: []health.Component{{Name: "redis", Status: health.Pass, Type: "datastore",
					Time: at}}}},
		{"\ufeff" + `{"status":"WARN","releaseId":"1.2.2","version":1,"notes":[""],"checks":{"redis:responseTime":[{"status":"up","observedValue":250,"time":"2026-11-23T06:00:00Z"},{"status":"down","output":"b\u0000a\nd"}],"cpu":[{"observedValue":3}]}}`,
			health.Document{Status: health.Warn, Version: "1.2.2", Components: []health.Component{
				{Name: "cpu", Status: health.Unknown},
				{Name: "redis:responseTime", Status: health.Pass, Time: at}, {Name: "redis:responseTime",
					Status: health.Fail, Output: "b�a d"}}}},
		{`{"status": "ok"}`, health.Document{Status: health.Pass}},
		{`{"status":"error","message":"Method Not Allowed","details":null}`,
			health.Document{Status: health.Fail, Output: "Method Not Allowed"}},
	} {
		d, err := health.Parse([]byte(c.body))
		if err != nil || !reflect.DeepEqual(d, c.want) {
			t.Errorf("%s:\n got %+v, %v\nwant %+v", c.body, d, err, c.want)
		}
	}
	for _, body := range []string{"", " ", "null", "[]", `"pass"`, `{"status":1}`, `{"status":null}`,
		`{"status":"pass"}{}`, `{"status":"pass","details":[]}`,
		`{"status":"pass","details":{"redis":"pass"}}`,
		`{"status":"pass","details":{"redis":{"status":[]}}}`, "<html>"} {
		if d, err := health.Parse([]byte(body)); !errors.Is(err, health.ErrMalformed) {
			t.Errorf("%q: %+v, %v", body, d, err)
		}
	}
}

// What Parse returns can be shown and written, and an accepted body is JSON
// with a status.
func FuzzParse(f *testing.F) {
	for _, s := range []string{
		`{"status":"pass","version":"5.2.5","description":"Tyk GW","details":{"redis":{"status":"pass","componentType":"datastore","time":"2026-11-23T06:00:00Z"}}}`,
		`{"status":"warn","checks":{"a:b":[{"status":"up"},{"output":"\u001b[31m"}],"c":[]}}`,
		`{"status":"error","message":"Method Not Allowed"}`, `{"status": "ok"}`, "<html>", "\xff\xfe",
		`{"status":"pass","details":{"":null}}`, "{", "null",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		d, err := health.Parse(body)
		if err != nil {
			if !errors.Is(err, health.ErrMalformed) {
				t.Errorf("error %v is not ErrMalformed", err)
			}
			return
		}
		if d.Status != health.Pass && d.Status != health.Warn && d.Status != health.Fail {
			t.Errorf("status %q", d.Status)
		}
		texts := []string{d.Version, d.Description, d.Output}
		for _, c := range d.Components {
			texts = append(texts, c.Name, c.Output, c.Type)
			if _, err := json.Marshal(c); err != nil {
				t.Error(err)
			}
		}
		for _, s := range texts {
			if !utf8.ValidString(s) || len(s) > 1000 || strings.ContainsAny(s,
				"\x00\x07\x1b\n\r\u202e\u2028") {
				t.Errorf("unfit to be shown: %q", s)
			}
		}
	})
}
