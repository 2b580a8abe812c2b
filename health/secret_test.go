package health_test

import (
	"net/http"
	"reflect"
	"strings"
	"testing"

	"example.com/tykupgrade/health"
)

func TestParseHeader(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]http.Header{
		"":                                 {},
		"x-api-key: sesame\n":              {"X-Api-Key": {"sesame"}},
		"A: 1\r\n\n  \nA : 2\nB: http://h": {"A": {"1", "2"}, "B": {"http://h"}},
		"A:":                               {"A": {""}},
	} {
		if got, err := health.ParseHeader([]byte(text)); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%q: %v, %v", text, got, err)
		}
	}
	for text, want := range map[string]string{
		"A: 1\nsesame\n":                         "line 2: want",
		"A: sesame" + strings.Repeat("x", 1<<17): "too long",
	} {
		if _, err := health.ParseHeader([]byte(text)); err == nil || !strings.Contains(err.Error(),
			want) || strings.Contains(err.Error(), "sesame") {
			t.Errorf("%.20q: %v", text, err)
		}
	}
}

func TestParseUser(t *testing.T) {
	t.Parallel()
	u, err := health.ParseUser([]byte("admin:a:b c\r\n"))
	if password, _ := u.Password(); err != nil || u.Username() != "admin" || password != "a:b c" {
		t.Error(u, err)
	}
	if _, err := health.ParseUser([]byte("sesame\n")); err == nil || strings.Contains(err.Error(),
		"sesame") {
		t.Error(err)
	}
}

func TestNewExpect(t *testing.T) {
	t.Parallel()
	e, err := health.NewExpect(418, []string{"Foo: Bar: 1", "Any", "Empty:"}, "a.b")
	want := map[string]string{"Foo": "Bar: 1", "Any": "", "Empty": ""}
	if err != nil || e.Status != 418 || !reflect.DeepEqual(e.Header, want) ||
		!e.Body.MatchString("axb") {
		t.Errorf("%+v, %v", e, err)
	}
	if e, err := health.NewExpect(0, nil, ""); err != nil || e.Header != nil || e.Body != nil {
		t.Errorf("%+v, %v", e, err)
	}
	if _, err := health.NewExpect(0, []string{" : x"}, ""); err == nil ||
		!strings.HasPrefix(err.Error(), `header " : x": want`) {
		t.Error(err)
	}
	if _, err := health.NewExpect(0, nil, "("); err == nil || !strings.HasPrefix(err.Error(),
		"body: ") {
		t.Error(err)
	}
}
