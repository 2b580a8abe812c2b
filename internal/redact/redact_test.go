package redact_test

import (
	"encoding/json"
	"fmt"
	"net/url"
	"strings"
	"testing"
	"unicode"

	"example.com/tykupgrade/internal/redact"
)

func TestText(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"":                                    "",
		"https://proxy.example.org/x/@v/list": "https://proxy.example.org/x/@v/list",
		"https://proxy.example.org:8080/x@v1.2.3: not found":           "https://proxy.example.org:8080/x@v1.2.3: not found",
		"https://p.example.org/x@v1.9.2-0.20231218094207-cbda400a37ee": "https://p.example.org/x@v1.9.2-0.20231218094207-cbda400a37ee",
		"https://p.example.org/x/@latest":                              "https://p.example.org/x/@latest",
		"https://p.example.org/x@master is a branch":                   "https://p.example.org/x@master is a branch",
		"go: x@v1: git ls-remote https://me:hunter2@git.example.org/x": "go: x@v1: git ls-remote " +
			"https://xxxxx@git.example.org/x",
		"access 'https://gh_token@github.com/x/': no":               "access 'https://xxxxx@github.com/x/': no",
		"ssh://git@git.example.org/x":                               "ssh://git@git.example.org/x",
		"ssh://git:pw@git.example.org/x":                            "ssh://git:xxxxx@git.example.org/x",
		"https://me:a@b@git.example.org/x":                          "https://xxxxx@git.example.org/x",
		"https://me:a/b@git.example.org/x":                          "https://xxxxx@git.example.org/x",
		"https://me:a/b?c#d@e@localhost:3000/x":                     "https://xxxxx@localhost:3000/x",
		"https://me:%zz@git.example.org/x":                          "https://xxxxx@git.example.org/x",
		"https://tok/en@git.example.org/x":                          "https://xxxxx@git.example.org/x",
		"https://me:12/3@git.example.org/x":                         "https://xxxxx@git.example.org/x",
		"https://me:s3cret/v1@v2.example.org/x":                     "https://xxxxx@v2.example.org/x",
		"https://TOKEN:@packagecloud.io/tyk/x":                      "https://xxxxx@packagecloud.io/tyk/x",
		"https://TOKEN:x-oauth-basic@github.com/x":                  "https://xxxxx@github.com/x",
		"tor+https://TOKEN@packagecloud.io/tyk/x":                   "tor+https://xxxxx@packagecloud.io/tyk/x",
		"mongodb://me:pw@h1,h2/?replicaSet=a":                       "mongodb://me:xxxxx@h1,h2/?replicaSet=a",
		"redis://:pw@127.0.0.1:6379/0":                              "redis://:xxxxx@127.0.0.1:6379/0",
		"https://git.example.org/x?access_token=abc&depth=1 failed": "https://git.example.org/x?access_token=xxxxx&depth=1 failed",
		"https://git.example.org/x?ref=main&Private-Token=abc":      "https://git.example.org/x?ref=main&Private-Token=xxxxx",
		"https://a:p@h.example.org,https://b:q@i.example.org":       "https://xxxxx@i.example.org",
		"a://b://c:d@e":                      "a://b:xxxxx@e",
		"two: https://a:p@h/ https://b:q@i/": "two: https://xxxxx@h/ https://xxxxx@i/",
	} {
		if got := redact.Text(in); got != want {
			t.Errorf("%q gives %q, want %q", in, got, want)
		}
	}
}

// A secret does not survive in any of its forms.
func TestSecrets(t *testing.T) {
	t.Parallel()
	const secret = "p w/ä\"<\x01"
	for _, text := range []string{secret, url.QueryEscape(secret), url.PathEscape(secret),
		url.UserPassword("u", secret).String(), fmt.Sprintf("%q", secret), jsonOf(t, secret),
		"a" + secret + secret} {
		if got := redact.Secrets("login with "+text+" failed", "", secret); strings.Contains(got,
			"w/") || strings.Contains(got, "w%2F") || !strings.Contains(got, redact.Redacted) {
			t.Errorf("%q gives %q", text, got)
		}
	}
	if got := redact.Secrets("as it was", "", "other"); got != "as it was" {
		t.Error(got)
	}
}

func jsonOf(t *testing.T, v any) string {
	t.Helper()
	data, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func TestURL(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"https://me:pw@h.example.org:8080/a/b?key=1#f": "https://h.example.org:8080/a/b?…",
		"http://h/": "http://h/",
	} {
		u, err := url.Parse(in)
		if err != nil {
			t.Fatal(err)
		}
		if got := redact.URL(u); got != want {
			t.Errorf("%s gives %s", in, got)
		}
	}
}

func TestHasPassword(t *testing.T) {
	t.Parallel()
	for url, want := range map[string]bool{
		"https://git.example.org/x": false, "https://me@git.example.org/x": false,
		"ssh://git@h:22/x":    false,
		"git@h.example.org:x": false, "/srv/repo": false, "https://h:8080/x": false,
		"https://me:pw@h/x": true, "https://me:%zz@h/x": true, "https://me:a/b@h.example.org/x": true,
		"https://h/x?access_token=1": true, "http://me:p w@h/x": true,
	} {
		if got := redact.HasPassword(url); got != want {
			t.Errorf("%s: %v", url, got)
		}
	}
}

// A password never survives, whatever surrounds it.
func FuzzText(f *testing.F) {
	for _, s := range [][3]string{
		{"go: https://", "me:", "@git.example.org/x: no"}, {"'ssh://", "git:a@/",
			"?x@h.example.org:22/y'"},
		{"a://b@c https://", "u:@:/", "#@localhost"}, {"", "", ""}, {"http://", "1:2/",
			"@v1.example.org/@v/list"},
	} {
		f.Add(s[0], s[1], s[2])
	}
	const canary = "hunter2canary"
	f.Fuzz(func(t *testing.T, before, user, after string) {
		if strings.Contains(before+user+after, "canary") || strings.ContainsFunc(user, unicode.IsSpace) {
			return
		}
		// The password is what stands between a colon and the last "@" of a URL.
		url := "https://me:" + user + canary + "@git.example.org/x"
		for _, text := range []string{before + " " + url + " " + after, url} {
			if got := redact.Text(text); strings.Contains(got, canary) {
				t.Errorf("%q keeps the password: %q", text, got)
			}
		}
		if !redact.HasPassword(url) {
			t.Errorf("%q has a password", url)
		}
		query := "https://git.example.org/x?a=b&access_token=" + canary
		if got := redact.Text(before + " " + query + " " + after); strings.Contains(got, canary) {
			t.Errorf("%q keeps the token", got)
		}
	})
}
