package redisdb

import (
	"crypto/tls"
	"errors"
	"net/url"
	"reflect"
	"strings"
	"testing"

	"example.com/tykupgrade/backup"
)

func TestURI(t *testing.T) {
	t.Parallel()
	const awkward = "p@:/?#%w"
	enc := url.QueryEscape(awkward)
	for _, c := range []struct {
		uri  string
		want uriParts
	}{
		{"redis://h", uriParts{hosts: []string{"h:6379"}}},
		{"redis://h:1/3", uriParts{hosts: []string{"h:1"}, path: "3"}},
		{"rediss://u:" + enc + "@h:1/3", uriParts{tls: true, user: "u", pass: awkward,
			hosts: []string{"h:1"}, path: "3"}},
		{"redis://:" + awkward + "@h:1/3", uriParts{pass: awkward, hosts: []string{"h:1"}, path: "3"}},
		{"redis://:a@b@h:1", uriParts{pass: "a@b", hosts: []string{"h:1"}}},
		{"redis://:a/b@h:1", uriParts{pass: "a/b", hosts: []string{"h:1"}}},
		{"redis://:1?2@h:1", uriParts{pass: "1?2", hosts: []string{"h:1"}}},
		{"redis://u:123#2@h:1", uriParts{user: "u", pass: "123#2", hosts: []string{"h:1"}}},
		{"redis://:100%@h:1", uriParts{pass: "100%", hosts: []string{"h:1"}}},
		{"redis://[::1]:7", uriParts{hosts: []string{"[::1]:7"}}},
		{"redis://s:1/2?master_name=m&password=a@b", uriParts{mode: "sentinel", master: "m",
			hosts: []string{"s:1"}, path: "2"}},
		{"redis+sentinel://u:p@s1:1,s2/m/4", uriParts{mode: "sentinel", user: "u", pass: "p", master: "m",
			hosts: []string{"s1:1", "s2:26379"}, path: "4"}},
		{"redis-sentinel://pw@s1:1,s2:2/4#m", uriParts{mode: "sentinel", pass: "pw", master: "m",
			hosts: []string{"s1:1", "s2:2"}, path: "4"}},
		{"rediss+cluster://:p@a:1,b:2", uriParts{mode: "cluster", tls: true, pass: "p",
			hosts: []string{"a:1", "b:2"}}},
		{"redis://a:1?addr=b:2", uriParts{mode: "cluster", hosts: []string{"a:1", "b:2"}}},
	} {
		got, err := parseURI(c.uri)
		got.query = nil
		if err != nil || !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s:\n got %+v %v\nwant %+v", c.uri, got, err, c.want)
		}
	}
}

func TestNewClient(t *testing.T) {
	t.Parallel()
	for uri, want := range map[string]string{
		"redis://u:p@h:1/2":      "Redis<h:1 db:2>",
		"redis+cluster://:p@a:1": "cluster", "redis+sentinel://s:1/m": "Redis<FailoverClient db:0>",
		"unix:///run/r.sock?db=3": "Redis</run/r.sock db:3>",
	} {
		c, err := NewClient(uri, nil)
		if err != nil {
			t.Errorf("%s: %v", uri, err)
			continue
		}
		if s, ok := c.(interface{ String() string }); (ok && s.String() != want) ||
			(!ok && want != "cluster") {
			t.Errorf("%s: %T %v", uri, c, c)
		}
		_ = c.Close()
	}
	for _, uri := range []string{"", "secret", "http://secret@h", "redis://secret@",
		"redis://:secret@h:port", "redis://:secret@h/x", "redis://:secret@h/1/2",
		"redis://:secret@h?pool_sise=3", "redis+sentinel://:secret@s:1", "redis+cluster://:secret@a:1/3",
		"redis://:secret@h:1\n2", "redis://:secret@h:1?x=%zz"} {
		_, err := NewClient(uri, nil)
		var e *backup.Error
		if !errors.As(err, &e) || e.Hint() == "" || strings.Contains(err.Error(), "secret") {
			t.Errorf("%q: %v", uri, err)
		}
	}
	conf := &tls.Config{ServerName: "me"}
	for _, uri := range []string{"redis://h", "redis+cluster://h", "redis+sentinel://h/m",
		"unix:///s"} {
		if _, err := NewClient(uri, conf); err == nil {
			t.Errorf("%s was accepted with TLS", uri)
		}
	}
	for _, uri := range []string{"rediss://h", "rediss+cluster://h", "rediss+sentinel://h/m"} {
		c, err := NewClient(uri, conf)
		if err != nil {
			t.Errorf("%s: %v", uri, err)
			continue
		}
		_ = c.Close()
	}
}

func FuzzURI(f *testing.F) {
	f.Add("redis+sentinel://u:p%40@s1:1,s2/m/4?x=y#z")
	f.Fuzz(func(t *testing.T, s string) {
		p, err := parseURI(s)
		if err != nil {
			return
		}
		if p.mode != "unix" && len(p.hosts) == 0 {
			t.Fatal("no host and no error")
		}
		c, err := p.client(nil)
		if err == nil {
			_ = c.Close()
		}
	})
}

// The slots of the cluster specification.
func TestSlotOf(t *testing.T) {
	t.Parallel()
	for key, want := range map[string]int{"123456789": 12739, "foo": 12182, "{foo}bar": 12182,
		"a{foo}{b}": 12182, "{}foo": slotOf([]byte("{}foo")), "": 0} {
		if got := slotOf([]byte(key)); got != want {
			t.Errorf("%q: %d, want %d", key, got, want)
		}
	}
	if slotOf([]byte("{}foo")) == slotOf([]byte("foo")) {
		t.Error("empty braces were used")
	}
}
