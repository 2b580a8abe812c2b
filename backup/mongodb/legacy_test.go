package mongodb_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.mongodb.org/mongo-driver/bson"

	"example.com/tykupgrade/backup"
	"example.com/tykupgrade/backup/mongodb"
	mongolab "example.com/tykupgrade/internal/lab/mongo"
)

// oldDump writes a dump of one collection with the given metadata.
func oldDump(t *testing.T, metadata string) *mongodb.Dump {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "dump")
	if err := os.MkdirAll(filepath.Join(dir, "tyk_analytics"), 0o700); err != nil {
		t.Fatal(err)
	}
	for name, data := range map[string][]byte{
		"old.metadata.json": []byte(metadata),
		"old.bson":          doc(t, bson.D{{Key: "_id", Value: 1}, {Key: "a", Value: 1}}),
	} {
		if err := os.WriteFile(filepath.Join(dir, "tyk_analytics", name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	d, err := mongodb.OpenDump(t.Context(), dir, mongodb.DumpOptions{NoPrelude: true})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// Metadata of servers and drivers of the 2.x and 3.x times is restored as mongorestore
// does it.
func TestLegacyMetadata(t *testing.T) {
	t.Parallel()
	for name, metadata := range map[string]string{
		"no _id index": `{"options":{"autoIndexId":false,"flags":1,"temp":true,"create":"old"},"indexes":[]}`,
		"newer _id":    `{"indexes":[{"v":99,"key":{"_id":1},"name":"_id_","ns":"tyk_analytics.old"}]}`,
		"drivers":      `{"indexes":[{"v":1,"key":{"a":1},"name":"a_1","ns":"tyk_analytics.old","safe":null,"background":true,"dropDups":true,"w":1,"sparse":null,"unique":1}]}`,
		"directions":   `{"indexes":[{"key":{"a":0,"b":"","c":true,"d":-0.0000000000001},"name":"odd"}]}`,
		"2dsphere":     `{"indexes":[{"key":{"g":"2dsphere"},"name":"g_2dsphere"}]}`,
		"text":         `{"indexes":[{"key":{"_fts":"text","_ftsx":1},"name":"t_text","weights":{"t":1},"default_language":"english","language_override":"language"}]}`,
		"null options": `{"options":{"capped":null,"validator":null},"indexes":[]}`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := mongoServer(t, mongolab.Options{})
			report, err := oldDump(t, metadata).Restore(t.Context(), backup.RestoreOptions{},
				&mongodb.Restore{Server: uri(s)})
			if err != nil || report.State != backup.StateVerified {
				t.Fatalf("%v %+v", err, report)
			}
			def := definition(t, mongoClient(t, s), "tyk_analytics", "old")
			if name == "2dsphere" && !strings.Contains(def, `"2dsphereIndexVersion": {"$numberInt":"1"}`) {
				t.Errorf("an unversioned index has version 1: %s", def)
			}
			if name == "drivers" && (!strings.Contains(def, `"unique"`) || strings.Contains(def, "safe")) {
				t.Errorf("indexes %s", def)
			}
		})
	}
}

// What a server refuses is named with what to do, and can be left out.
func TestRefusedDefinitions(t *testing.T) {
	t.Parallel()
	const index = `{"indexes":[{"key":{"a":1},"name":"good"},{"key":{"a":-1},"name":"bad one","columnstoreProjection":{"a":1}}]}`
	const option = `{"options":{"futureOption":1},"indexes":[]}`
	for _, c := range []struct {
		metadata string
		want     []string
		without  mongodb.Restore
	}{
		{index, []string{`"bad one"`, "columnstoreProjection", "NoIndexes"},
			mongodb.Restore{NoIndexes: true}},
		{option, []string{"futureOption", "NoOptions", "tyk_analytics.old"},
			mongodb.Restore{NoOptions: true}},
	} {
		s := mongoServer(t, mongolab.Options{})
		_, err := oldDump(t, c.metadata).Restore(t.Context(), backup.RestoreOptions{}, &mongodb.Restore{
			Server: uri(s)})
		for _, w := range c.want {
			if err == nil || !strings.Contains(err.Error(), w) {
				t.Errorf("error %v does not say %q", err, w)
			}
		}
		if got := s.Collections("tyk_analytics"); len(got) > 0 {
			t.Errorf("left over: %q", got)
		}
		c.without.Server = uri(s)
		if report, err := oldDump(t, c.metadata).Restore(t.Context(), backup.RestoreOptions{},
			&c.without); err != nil || report.State != backup.StateVerified {
			t.Errorf("%v %+v", err, report)
		}
	}
}
