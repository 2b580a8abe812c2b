package redisdb_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"example.com/tykupgrade/backup/redisdb"
)

func TestReadTLS(t *testing.T) {
	t.Parallel()
	if conf, err := redisdb.ReadTLS("", "", ""); conf != nil || err != nil {
		t.Errorf("%v, %v", conf, err)
	}
	text := filepath.Join(t.TempDir(), "text")
	if err := os.WriteFile(text, []byte("no certificate"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ ca, cert, key, want string }{
		{text, "", "", text + " has no certificate in PEM form"},
		{text + ".none", "", "", "no such file"},
		{"", text, "", "want both a certificate"},
		{"", "", text, "want both a certificate"},
		{"", text, text, "certificate " + text + " with key " + text},
	} {
		if _, err := redisdb.ReadTLS(c.ca, c.cert, c.key); err == nil ||
			!strings.Contains(err.Error(), c.want) {
			t.Errorf("%v: %v", c, err)
		}
	}
}
