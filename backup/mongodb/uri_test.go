package mongodb

import (
	"strings"
	"testing"
)

// No part of a password is shown, whatever characters it holds and wherever they cut the
// URI.
func FuzzURI(f *testing.F) {
	for _, s := range []string{"?", "/", "@", ":", "%", "#", ",", "[", "]", "%2F", "?x=", "/?a=b&c=",
		"@h/?x=", ":1/", ":27017?", "\n", "=", "&", "%40", ""} {
		f.Add(s, "tls=true")
		f.Add(s, "authMechanism=NONSENSE&tlsCAFile=/nonexistent")
		f.Add(s, "authMechanismProperties=AWS_SESSION_TOKEN:FIRSTpart")
	}
	f.Fuzz(func(t *testing.T, between, query string) {
		if strings.Contains(between+query, "FIRST") && !strings.Contains(query,
			"authMechanismProperties=") {
			return
		}
		const first, second = "FIRSTpart", "SECONDpart"
		uri := "mongodb://user:" + first + between + second + "@host.example:27017/?" + query
		for _, s := range []Server{{URI: uri}, {URI: strings.Replace(uri, ":"+first, "", 1),
			Password: first + between + second}} {
			c := &conn{}
			_, err := s.options(c)
			text := c.at
			if err != nil {
				text += err.Error()
			}
			if strings.Contains(text, first) || s.Password == "" && strings.Contains(text, second) {
				t.Errorf("%q shows %q", s.URI, text)
			}
		}
	})
}

func TestURI(t *testing.T) {
	t.Parallel()
	for uri, want := range map[string]string{
		"mongodb://user:pass@a:1,b.example/?tls=true":      "mongodb://a:1,b.example",
		"mongodb://user:p%40%3Ass@[::1]:27017/db?a=b&c=d":  "mongodb://[::1]:27017",
		"mongodb://%2Ftmp%2Fmongodb-27017.sock/?appName=x": "mongodb://%2Ftmp%2Fmongodb-27017.sock",
		"mongodb+srv://cluster.example/?retryWrites=true":  "mongodb+srv://cluster.example",
		"mongodb://u:ge?heim@host":                         "",
		"mongodb://u:12?heim@host":                         "",
		"mongodb://u:12/heim@host":                         "",
		"mongodb://u:ge@heim@host":                         "",
		"mongodb://u:ge:heim@host":                         "",
		"mongodb://u:ge%heim@host":                         "",
		"mongodb://u:geheim":                               "",
		"mongodb://u:123456":                               "",
		"mongodb://":                                       "",
		"mongodb://user@":                                  "",
		"mongodb://host/db?geheim":                         "",
		"http://host":                                      "",
	} {
		show, _, err := splitURI(uri)
		if show != want || (err == nil) != (want != "") {
			t.Errorf("%q: %q %v", uri, show, err)
		}
		if err != nil && (strings.Contains(err.Error(), "ge") && strings.Contains(err.Error(), "heim") ||
			strings.Contains(err.Error(), "12")) {
			t.Errorf("%q: %v", uri, err)
		}
	}
}

// Data in clear beyond this machine is worth a warning.
func TestWarnsWithoutTLS(t *testing.T) {
	t.Parallel()
	for uri, warns := range map[string]bool{
		"mongodb://10.0.0.7/": true, "mongodb://localhost,db.example/": true,
		"mongodb://10.0.0.7/?tls=true": false,
		"mongodb://127.0.0.1:27017":    false, "mongodb://[::1]/": false, "mongodb://localhost": false,
		"mongodb://%2Ftmp%2Fmongodb-27017.sock": false,
	} {
		c := &conn{}
		if _, err := (Server{URI: uri}).options(c); err != nil || (c.exposed != "") != warns {
			t.Errorf("%s: %q %v", uri, c.exposed, err)
		}
	}
}
