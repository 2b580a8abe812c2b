package installation

import (
	"bytes"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"go.mongodb.org/mongo-driver/bson"

	"example.com/tykupgrade/backup"
	"example.com/tykupgrade/internal/lab"
	"example.com/tykupgrade/internal/lab/mongo"
	"example.com/tykupgrade/internal/lab/postgres"
	"example.com/tykupgrade/internal/lab/redis"
)

// data is a host of this machine with one file, a real Redis and a MongoDB that
// is a stub.
type data struct {
	file, conf string
	env        map[string]string
	redis      *redis.Server
	mongo      *mongo.Server
}

func newData(t *testing.T) *data {
	t.Helper()
	lab.Program(t, "redis-server", "redis-server")
	d := &data{redis: redis.Start(t, "--requirepass", "open+sesame")}
	d.redis.Do("SET", "key", "before")
	var err error
	if d.mongo, err = mongo.Start(mongo.Options{User: "tyk", Password: "s3cret"}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.mongo.Close)
	raw, err := bson.Marshal(bson.D{{Key: "_id", Value: "api"}, {Key: "name", Value: "before"}})
	if err != nil {
		t.Fatal(err)
	}
	d.mongo.Insert("tyk_analytics", "tyk_apis", raw)
	d.env = map[string]string{"MONGO_URI": strings.Replace(d.mongo.URI(), "mongodb://",
		"mongodb://tyk:s3cret@", 1)}
	d.file = write(t, "")
	d.conf = filepath.Join(filepath.Dir(d.file), "tyk.conf")
	d.write(t, d.conf, "before")
	d.write(t, filepath.Join(filepath.Dir(d.file), "uri"), "redis://:open%2Bsesame@"+d.redis.Addr+"\n")
	d.write(t, d.file, fmt.Sprintf(`
versions: {gateway: 5.2.5}
hosts: [{name: g1, address: local, component: gateway, package: tykupgrade-no-such-package}]
backup:
  dir: sets
  paths: [%s]
  redis: {uri_file: uri, proof: true}
  mongo: {uri_env: MONGO_URI}
  keep: 2
`, d.conf))
	return d
}

func (d *data) write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// take runs the backup's part of the upgrade and returns what the journal has.
func (d *data) take(t *testing.T, change func(*Upgrade)) (setNote, error) {
	t.Helper()
	u := prepared(t, d.file, d.env)
	if change != nil {
		change(u)
	}
	rep, err := step(t, u, TargetBackup)
	var note setNote
	if rep != nil {
		if raw := rep.Saved(TargetBackup, "set"); raw != nil {
			if err := json.Unmarshal(raw, &note); err != nil {
				t.Fatal(err)
			}
		}
	}
	return note, err
}

func TestBackup(t *testing.T) {
	t.Parallel()
	d := newData(t)
	if _, err := d.take(t, func(u *Upgrade) { u.Set = "latest" }); err == nil ||
		!strings.Contains(err.Error(), "has no set") || !strings.Contains(err.Error(),
		"or skip the check backup") {
		t.Errorf("error %v", err)
	}
	first, err := d.take(t, nil)
	if err != nil || first.Existing || strings.Join(first.Components, " ") != "config/g1 redis mongo" {
		t.Fatalf("%+v, %v", first, err)
	}
	// A whole set is trusted; the run keeps it, however often it is resumed.
	if again, err := d.take(t, nil); err != nil || again.Dir != first.Dir {
		t.Errorf("%+v, %v", again, err)
	}
	// A damaged one is replaced before the first host, and never after.
	damage(t, first.Dir)
	if _, err := d.take(t, func(u *Upgrade) { u.begun = true }); err == nil ||
		!strings.Contains(err.Error(), "gone or damaged") {
		t.Errorf("error %v", err)
	}
	second, err := d.take(t, nil)
	if err != nil || second.Dir == first.Dir {
		t.Fatalf("%+v, %v", second, err)
	}
	journal, err := os.ReadFile(filepath.Join(filepath.Dir(d.file), TargetBackup+".journal"))
	if err != nil {
		t.Fatal(err)
	}
	for _, word := range []string{"sesame", "s3cret"} {
		if bytes.Contains(journal, []byte(word)) {
			t.Errorf("the journal holds %q", word)
		}
	}
	// A set that exists serves if it is whole, fresh and has everything.
	for name, c := range map[string]struct {
		change func(*Upgrade)
		want   string
	}{
		"latest":    {func(u *Upgrade) { u.Set = "latest" }, ""},
		"directory": {func(u *Upgrade) { u.Set = second.Dir }, ""},
		"old": {func(u *Upgrade) { u.Set, u.Backup.Fresh = "latest", 1 },
			"backup.fresh allows 1ns"},
		"damaged": {func(u *Upgrade) { u.Set = filepath.Base(first.Dir) }, "damaged"},
		"lacking": {func(u *Upgrade) {
			u.Set, u.Hosts = "latest", append(u.Hosts, u.Hosts[0])
			u.Hosts[1].Name, u.Hosts[1].Address = "g2", "elsewhere"
		}, "it has no component \"config/g2\""},
	} {
		if err := os.Remove(filepath.Join(filepath.Dir(d.file), TargetBackup+".journal")); err != nil {
			t.Fatal(err)
		}
		note, err := d.take(t, c.change)
		if c.want == "" && (err != nil || note.Dir != second.Dir || !note.Existing) || c.want != "" &&
			(err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: %+v, %v", name, note, err)
		}
	}
}

func damage(t *testing.T, set string) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(set, "redis", "*.rdb"))
	if err != nil || len(files) != 1 {
		t.Fatal(files, err)
	}
	if err := os.Truncate(files[0], 10); err != nil {
		t.Fatal(err)
	}
}

func TestServersThatAreMissing(t *testing.T) {
	t.Parallel()
	d := newData(t)
	d.env = nil
	if _, err := d.take(t, nil); err == nil || !strings.Contains(err.Error(),
		"the URI of backup.mongo: the variable MONGO_URI is not set; export it; or skip the "+
			"check backup") {
		t.Errorf("error %v", err)
	}
	d.env = map[string]string{
		"MONGO_URI": "mongodb://tyk:s3cret@127.0.0.1:1/?serverSelectionTimeoutMS=200"}
	if _, err := d.take(t, nil); err == nil || strings.Contains(err.Error(), "s3cret") {
		t.Errorf("error %v", err)
	}
	if sets, _ := filepath.Glob(filepath.Join(filepath.Dir(d.file), "sets", "2*")); len(sets) > 0 {
		t.Errorf("a part of a set is left: %v", sets)
	}
	note, err := d.take(t, func(u *Upgrade) { u.Without = append(u.Without, CheckBackup) })
	if err != nil || note.Overridden == "" || note.Dir != "" {
		t.Errorf("%+v, %v", note, err)
	}
}

// A Redis that asks clients for a certificate, and replicates over TLS.
func TestRedisWithCertificates(t *testing.T) {
	t.Parallel()
	s := redis.StartTLS(t)
	s.Do("SET", "key", "before")
	file := write(t, "")
	dir := filepath.Dir(file)
	pair := s.TLS.Certificates[0]
	key, err := x509.MarshalPKCS8PrivateKey(pair.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	d := &data{file: file}
	d.write(t, filepath.Join(dir, "uri"), "rediss://"+s.Addr)
	d.write(t, filepath.Join(dir, "cert.pem"),
		string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: pair.Certificate[0]})))
	d.write(t, filepath.Join(dir, "key.pem"), string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY",
		Bytes: key})))
	d.write(t, file, fmt.Sprintf(`
versions: {gateway: 5.2.5}
hosts: [{name: g1, address: local, component: gateway, package: tykupgrade-no-such-package}]
backup: {dir: sets, paths: [%s], redis: {uri_file: uri, ca: cert.pem, cert: cert.pem, key: key.pem}}
`, file))
	if _, err := d.take(t, func(u *Upgrade) {
		u.Backup.Redis.Cert, u.Backup.Redis.Key = "",
			""
	}); err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("without a certificate: %v", err)
	}
	readable := func(u *Upgrade) error {
		db, err := u.databases(t.Context())
		db.close()
		return err
	}
	if err := readable(prepared(t, file, nil)); err != nil {
		t.Error(err)
	}
	u := prepared(t, file, nil)
	u.Backup.Redis.Key = "no-such-file"
	if err := readable(u); err == nil || !strings.Contains(err.Error(),
		"the certificates for Redis: certificate ") {
		t.Errorf("error %v", err)
	}
	note, err := d.take(t, nil)
	if err != nil {
		t.Fatal(err)
	}
	s.Do("SET", "key", "after")
	u = prepared(t, file, nil)
	if _, err := restore(t, u, note, "redis"); err != nil || s.Do("GET", "key") != "before" {
		t.Errorf("the key is %v, %v", s.Do("GET", "key"), err)
	}
}

func TestRestore(t *testing.T) {
	t.Parallel()
	d := newData(t)
	note, err := d.take(t, nil)
	if err != nil {
		t.Fatal(err)
	}
	d.write(t, d.conf, "after")
	d.redis.Do("SET", "key", "after")
	d.redis.Do("SET", "new", "after")
	raw, err := bson.Marshal(bson.D{{Key: "_id", Value: "other"}})
	if err != nil {
		t.Fatal(err)
	}
	d.mongo.Insert("tyk_analytics", "tyk_apis", raw)
	d.mongo.Insert("tyk_analytics", "tyk_of_after", raw)
	u := prepared(t, d.file, d.env)
	report, err := restore(t, u, note, "config", "redis", "mongo")
	if err != nil {
		t.Fatalf("%v\n%+v", err, report)
	}
	if text, err := os.ReadFile(d.conf); err != nil || string(text) != "before" {
		t.Errorf("%s, %v", text, err)
	}
	if v := d.redis.Do("GET", "key"); v != "before" {
		t.Errorf("the key is %v", v)
	}
	if n := d.redis.Do("EXISTS", "new"); n != int64(0) {
		t.Error("a key of after is there")
	}
	if docs := d.mongo.Documents("tyk_analytics", "tyk_apis"); len(docs) != 1 {
		t.Errorf("%d documents", len(docs))
	}
	// A collection that the set does not have stays unless it is to go.
	if docs := d.mongo.Documents("tyk_analytics", "tyk_of_after"); len(docs) != 1 {
		t.Errorf("%d documents in the collection of after", len(docs))
	}
	u.DropExtra = true
	if report, err = restore(t, u, note, "mongo"); err != nil {
		t.Fatalf("%v\n%+v", err, report)
	}
	if all := d.mongo.Collections("tyk_analytics"); slices.Contains(all, "tyk_of_after") {
		t.Errorf("collections %v", all)
	}
}

// restore brings parts of a set back.
func restore(t *testing.T, u *Upgrade, note setNote, parts ...string) (backup.Report, error) {
	t.Helper()
	set, err := backup.Open(note.Dir)
	if err != nil {
		t.Fatal(err)
	}
	return u.Restore(t.Context(), set, parts)
}

// PostgreSQL is taken, restored and refused as the others are.
func TestPostgres(t *testing.T) {
	t.Parallel()
	s := postgres.Start(t)
	s.SQL(t, "postgres", "CREATE DATABASE tyk_analytics")
	s.SQL(t, "tyk_analytics", "CREATE TABLE apis (id int PRIMARY KEY, doc jsonb); INSERT INTO apis "+
		"VALUES (1, '{\"a\": 1}'), (2, NULL)")
	file := write(t, "")
	dir := filepath.Dir(file)
	d := &data{file: file, conf: filepath.Join(dir, "tyk_analytics.conf"), env: map[string]string{
		"PG_URI": s.Database("tyk_analytics")}}
	d.write(t, d.conf, "before")
	d.write(t, file, fmt.Sprintf(`
versions: {dashboard: 5.2.5}
hosts: [{name: d1, address: local, component: dashboard, package: tykupgrade-no-such-package}]
backup: {dir: sets, paths: [%s], postgres: {uri_env: PG_URI, bin: %q}}
`, d.conf, s.Bin))
	note, err := d.take(t, nil)
	if err != nil || strings.Join(note.Components, " ") != "config/d1 postgres" {
		t.Fatalf("%+v, %v", note, err)
	}
	d.write(t, d.conf, "after")
	s.SQL(t, "tyk_analytics", "UPDATE apis SET doc = '{}'; INSERT INTO apis VALUES (3, NULL); "+
		"CREATE TABLE later (x int)")
	u := prepared(t, file, d.env)
	// Files alone leave the database as it is, and need no URI.
	if report, err := restore(t, prepared(t, file, nil), note, "config"); err != nil ||
		len(report.Components) != 1 {
		t.Fatalf("%+v, %v", report, err)
	}
	if text, err := os.ReadFile(d.conf); err != nil || string(text) != "before" ||
		s.SQL(t, "tyk_analytics", "SELECT count(*) FROM apis") != "3" {
		t.Errorf("%s, %v", text, err)
	}
	if _, err := restore(t, prepared(t, file, nil), note, "postgres"); !errors.Is(err, ErrSecret) {
		t.Errorf("without a URI: %v", err)
	}
	report, err := restore(t, u, note, "postgres")
	if err != nil || len(report.Components) != 1 ||
		report.Components[0].State != backup.StateVerified {
		t.Fatalf("%+v, %v", report, err)
	}
	if got := s.SQL(t, "tyk_analytics", "SELECT string_agg(id || coalesce(doc::text, '-'), ' ' "+
		"ORDER BY id) FROM apis"); got != `1{"a": 1} 2-` {
		t.Errorf("rows %q", got)
	}
	if got := s.SQL(t, "tyk_analytics",
		"SELECT count(*) FROM pg_tables WHERE tablename = 'later'"); got != "0" {
		t.Error("a table of after is there")
	}
	// What was replaced goes once the restore is verified.
	if got := s.SQL(t, "postgres", "SELECT string_agg(datname, ' ') FROM pg_database WHERE datname "+
		"LIKE '%tykupgrade%'"); got != "" {
		t.Errorf("databases %s are left", got)
	}
	damaged, _ := filepath.Glob(filepath.Join(note.Dir, "postgres", "*"))
	for _, path := range damaged {
		if err := os.Truncate(path, 10); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := restore(t, u, note, "postgres"); !errors.Is(err, backup.ErrDamaged) ||
		s.SQL(t, "tyk_analytics", "SELECT count(*) FROM apis") != "2" {
		t.Errorf("a damaged set: %v", err)
	}
}

// A secret comes from one place, and no error holds it.
func TestSecrets(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	d := &data{}
	d.write(t, filepath.Join(dir, "full"), " s3cret \n")
	d.write(t, filepath.Join(dir, "empty"), "\n")
	env := func(name string) string { return map[string]string{"A": "s3cret"}[name] }
	for name, c := range map[string]struct {
		s    Secret
		want string
	}{
		"variable":    {Secret{Env: "A"}, ""},
		"file":        {Secret{File: filepath.Join(dir, "full")}, ""},
		"command":     {Secret{Command: []string{"printf", "s3cret\n"}}, ""},
		"no variable": {Secret{Env: "B"}, "the variable B is not set"},
		"no file":     {Secret{File: filepath.Join(dir, "none")}, "no such file"},
		"empty file":  {Secret{File: filepath.Join(dir, "empty")}, "it is empty"},
		"failing command": {Secret{Command: []string{"sh", "-c", "cat \"$0\"; cat \"$0\" >&2; exit 3",
			filepath.Join(dir, "full")}}, "sh: exit code 3"},
		"no command": {Secret{Command: []string{"tykupgrade-no-such-program"}},
			"tykupgrade-no-such-program"},
	} {
		got, err := c.s.read(t.Context(), "the key", env)
		if c.want == "" && (err != nil || got != "s3cret") {
			t.Errorf("%s: %q, %v", name, got, err)
		}
		if c.want != "" && (!errors.Is(err, ErrSecret) || !strings.Contains(err.Error(), c.want) ||
			strings.Contains(err.Error(), "s3cret")) {
			t.Errorf("%s: %v", name, err)
		}
	}
	got := strings.Join(words("redis://tyk:op%2Ben@h:6379"), "|")
	if got != "redis://tyk:op%2Ben@h:6379|op+en|op%2Ben|op+en" ||
		words("https://modules.example.com") != nil || len(words("plain")) != 1 {
		t.Errorf("words %q", got)
	}
}
