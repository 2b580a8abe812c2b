package mongodb_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"math/big"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.mongodb.org/mongo-driver/bson"
	"go.mongodb.org/mongo-driver/mongo/readpref"

	"example.com/tykupgrade/backup"
	"example.com/tykupgrade/backup/mongodb"
	mongolab "example.com/tykupgrade/internal/lab/mongo"
)

func details(t testing.TB, set *backup.Set) (d mongodb.Details) {
	t.Helper()
	if err := set.Components[0].DecodeDetails(&d); err != nil {
		t.Fatal(err)
	}
	return d
}

// once returns a hook that does f at the n-th command of a name.
func once(name string, n int32, f mongolab.Fault) func(mongolab.Command) mongolab.Fault {
	var seen atomic.Int32
	return func(c mongolab.Command) mongolab.Fault {
		if c.Name == name && seen.Add(1) == n {
			return f
		}
		return mongolab.Fault{}
	}
}

// What passes by is tried again, and the dump holds everything once.
func TestReadsAgain(t *testing.T) {
	t.Parallel()
	for name, hook := range map[string]func(mongolab.Command) mongolab.Fault{
		"connection cut": once("getMore", 2, mongolab.Fault{Cut: true}),
		"answer lost":    once("find", 4, mongolab.Fault{Lose: true}),
		"cursor gone":    once("getMore", 1, mongolab.Fault{Kill: true}),
		"primary stepped down": once("getMore", 1, mongolab.Fault{Code: 10107, Name: "NotWritablePrimary",
			Msg: "not primary"}),
		"listing cut": once("listCollections", 2, mongolab.Fault{Cut: true}),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := smallMongo(t, mongolab.Options{})
			s.Hook(hook)
			set, err := backup.Take(t.Context(), t.TempDir(), backup.Options{},
				&mongodb.Source{Server: uri(s)})
			if err != nil {
				t.Fatal(err)
			}
			if n := set.Components[0].Items; n != 514 {
				t.Errorf("%d documents", n)
			}
		})
	}
	t.Run("for ever", func(t *testing.T) {
		t.Parallel()
		s := smallMongo(t, mongolab.Options{})
		s.Hook(func(c mongolab.Command) mongolab.Fault {
			return mongolab.Fault{
				Cut: c.Name == "getMore"}
		})
		_, err := backup.Take(t.Context(), t.TempDir(), backup.Options{}, &mongodb.Source{Server: uri(s)})
		var r interface{ Retryable() bool }
		if !errors.As(err, &r) || !r.Retryable() || !strings.Contains(err.Error(), "tyk_analytics.keys") {
			t.Errorf("error %v", err)
		}
	})
}

// With a snapshot all collections are of one moment, whatever is written
// meanwhile; without, the manifest says so.
func TestConsistency(t *testing.T) {
	t.Parallel()
	// writes adds a document to both collections once the first cursor is open.
	writes := func(s *mongolab.Server) func(mongolab.Command) mongolab.Fault {
		var once sync.Once
		return func(c mongolab.Command) mongolab.Fault {
			if c.Name == "getMore" {
				once.Do(func() {
					for _, n := range []string{"apis", "keys"} {
						s.Insert("tyk_analytics", n, doc(t, bson.D{{Key: "_id", Value: "later"}}))
					}
				})
			}
			return mongolab.Fault{}
		}
	}
	tooOld := func(c mongolab.Command) mongolab.Fault {
		if _, err := c.Body.LookupErr("readConcern"); c.Name == "getMore" || err == nil &&
			c.Target == "keys" && c.Body.Lookup("limit").IsZero() {
			return mongolab.Fault{Code: 239, Name: "SnapshotTooOld",
				Msg: "Read timestamp is older than the oldest available timestamp."}
		}
		return mongolab.Fault{}
	}
	for _, c := range []struct {
		name     string
		server   mongolab.Options
		mode     mongodb.SnapshotMode
		hook     func(*mongolab.Server) func(mongolab.Command) mongolab.Fault
		want     backup.Consistency
		items    int64
		fails    string
		warnings string
	}{
		{name: "snapshot", hook: writes, want: backup.ConsistencySnapshot, items: 514},
		{name: "sharded", server: mongolab.Options{Mongos: true}, hook: writes,
			want: backup.ConsistencySnapshot, items: 514},
		{name: "standalone", server: mongolab.Options{Standalone: true}, want: backup.ConsistencyNone,
			items: 514, warnings: "different moments"},
		{name: "ignored", server: mongolab.Options{IgnoreSnapshot: true}, want: backup.ConsistencyNone,
			items: 514, warnings: "does not support snapshots"},
		{name: "old server", server: mongolab.Options{Version: "4.4.29"}, want: backup.ConsistencyNone,
			items: 514, warnings: "does not support snapshots"},
		{name: "never", mode: mongodb.SnapshotNever, want: backup.ConsistencyNone, items: 514},
		{name: "never, with writes", mode: mongodb.SnapshotNever, hook: writes,
			want: backup.ConsistencyNone, items: 515}, // the other was read before
		{name: "required and ignored", server: mongolab.Options{IgnoreSnapshot: true},
			mode: mongodb.SnapshotRequired, fails: "does not return the cluster time"},
		{name: "required of a standalone", server: mongolab.Options{Standalone: true},
			mode: mongodb.SnapshotRequired, fails: "a standalone of version 7.0.14 has none"},
		{name: "too old", hook: func(*mongolab.Server) func(mongolab.Command) mongolab.Fault {
			return func(c mongolab.Command) mongolab.Fault {
				if _, err := c.Body.LookupErr("readConcern"); err == nil {
					return tooOld(c)
				}
				return mongolab.Fault{}
			}
		}, want: backup.ConsistencyNone, items: 514,
			warnings: "too old for minSnapshotHistoryWindowInSeconds"},
		{name: "capped on an old server",
			hook: func(s *mongolab.Server) func(mongolab.Command) mongolab.Fault {
				mongoRun(t, mongoClient(t, s), "tyk_analytics", bson.D{{Key: "create", Value: "capped"},
					{Key: "capped", Value: true}, {Key: "size", Value: 1 << 20}})
				return func(c mongolab.Command) mongolab.Fault {
					if _, err := c.Body.LookupErr("readConcern"); err == nil && c.Target == "capped" {
						return mongolab.Fault{Code: 246, Name: "SnapshotUnavailable",
							Msg: "Reading from capped collections with readConcern snapshot is not supported"}
					}
					return mongolab.Fault{}
				}
			}, want: backup.ConsistencyNone, items: 514, warnings: "is capped"},
		{name: "too old and required", mode: mongodb.SnapshotRequired,
			hook:  func(*mongolab.Server) func(mongolab.Command) mongolab.Fault { return tooOld },
			fails: "minSnapshotHistoryWindowInSeconds"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := smallMongo(t, c.server)
			if c.hook != nil {
				s.Hook(c.hook(s))
			}
			set, err := backup.Take(t.Context(), t.TempDir(), backup.Options{},
				&mongodb.Source{Server: uri(s), Snapshot: c.mode, Parallel: 1})
			if c.fails != "" {
				if err == nil || !strings.Contains(err.Error(), c.fails) {
					t.Errorf("error %v does not say %q", err, c.fails)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			got := set.Components[0]
			if got.Consistency != c.want || got.Items != c.items ||
				!strings.Contains(strings.Join(got.Warnings, "\n"), c.warnings) ||
				(c.warnings == "") != (len(got.Warnings) == 0) {
				t.Errorf("consistency %q, %d documents, warnings %q", got.Consistency, got.Items, got.Warnings)
			}
			if at := details(t, set).ClusterTime; (at != "") != (c.want == backup.ConsistencySnapshot) {
				t.Errorf("cluster time %q", at)
			}
		})
	}
}

// Collections and indexes that change during the dump are an error that can be
// tried again.
func TestDDLDuringDump(t *testing.T) {
	t.Parallel()
	for name, command := range map[string]bson.D{
		"is new":  {{Key: "create", Value: "new"}},
		"is gone": {{Key: "drop", Value: "apis"}},
		"has other indexes": {{Key: "createIndexes", Value: "apis"}, {Key: "indexes",
			Value: bson.A{bson.D{{Key: "key", Value: bson.D{{Key: "a", Value: 1}}}, {Key: "name",
				Value: "a"}}}}},
		"collection dropped":    {{Key: "drop", Value: "keys"}},
		"is another collection": nil,
	} {
		for _, mode := range []mongodb.SnapshotMode{mongodb.SnapshotIfPossible, mongodb.SnapshotNever} {
			t.Run(fmt.Sprint(name, mode), func(t *testing.T) {
				t.Parallel()
				s := smallMongo(t, mongolab.Options{})
				admin := mongoClient(t, s)
				var once sync.Once
				s.Hook(func(c mongolab.Command) mongolab.Fault {
					if c.Name == "getMore" && c.Target == "keys" {
						once.Do(func() {
							if command != nil {
								mongoRun(t, admin, "tyk_analytics", command)
								return
							}
							mongoRun(t, admin, "tyk_analytics", bson.D{{Key: "drop", Value: "apis"}})
							mongoRun(t, admin, "tyk_analytics", bson.D{{Key: "create", Value: "apis"}})
						})
					}
					return mongolab.Fault{}
				})
				_, err := backup.Take(t.Context(), t.TempDir(), backup.Options{},
					&mongodb.Source{Server: uri(s), Snapshot: mode})
				var r interface{ Retryable() bool }
				if !errors.Is(err, backup.ErrChanged) || !strings.Contains(err.Error(), name) ||
					!errors.As(err, &r) || !r.Retryable() {
					t.Errorf("error %v", err)
				}
			})
		}
	}
}

// So is it when nothing is left of what was requested.
func TestAllDroppedDuringDump(t *testing.T) {
	t.Parallel()
	s := smallMongo(t, mongolab.Options{})
	admin := mongoClient(t, s)
	var once sync.Once
	s.Hook(func(c mongolab.Command) mongolab.Fault {
		if c.Name == "find" && c.Target == "apis" {
			once.Do(func() { mongoRun(t, admin, "tyk_analytics", bson.D{{Key: "drop", Value: "apis"}}) })
		}
		return mongolab.Fault{}
	})
	_, err := backup.Take(t.Context(), t.TempDir(), backup.Options{}, &mongodb.Source{Server: uri(s),
		Include: []string{"*.apis"}, Snapshot: mongodb.SnapshotNever})
	var r interface{ Retryable() bool }
	if !errors.Is(err, backup.ErrChanged) || !errors.As(err, &r) || !r.Retryable() {
		t.Errorf("error %v", err)
	}
}

// Cancelling ends the server's work too, wherever it is.
func TestCancelStopsCursors(t *testing.T) {
	t.Parallel()
	for _, at := range []string{"find", "getMore"} {
		t.Run(at, func(t *testing.T) {
			t.Parallel()
			s := smallMongo(t, mongolab.Options{})
			ctx, cancel := context.WithCancel(t.Context())
			hold := make(chan struct{})
			var reached sync.Once
			var killed atomic.Int32
			s.Hook(func(c mongolab.Command) mongolab.Fault {
				if c.Name == "killSessions" {
					killed.Add(1)
					for at == "find" && s.Cursors() == 0 && t.Context().Err() == nil {
						time.Sleep(time.Millisecond) // the find is on its way
					}
				}
				if c.Name == at && c.Body.Lookup("limit").IsZero() && c.DB == "tyk_analytics" {
					reached.Do(func() { cancel(); close(hold) })
					if at == "find" {
						return mongolab.Fault{Lose: true} // the cursor is open, nobody knows its number
					}
					return mongolab.Fault{Wait: hold}
				}
				return mongolab.Fault{}
			})
			if _, err := backup.Take(ctx, t.TempDir(), backup.Options{}, &mongodb.Source{Server: uri(s),
				Parallel: 1}); !errors.Is(err, context.Canceled) {
				t.Errorf("error %v", err)
			}
			if n := s.Cursors(); n != 0 || killed.Load() == 0 {
				t.Errorf("%d cursors are open, killSessions was sent %d times", n, killed.Load())
			}
		})
	}
}

// A server ends sessions after 30 minutes, and cursors with them, unless they
// are refreshed.
func TestSessionIsKeptAlive(t *testing.T) {
	t.Parallel()
	s := smallMongo(t, mongolab.Options{})
	hold := make(chan struct{})
	var sessions sync.Map
	var release sync.Once
	s.Hook(func(c mongolab.Command) mongolab.Fault {
		switch c.Name {
		case "find":
			if id, ok := c.Body.Lookup("lsid").DocumentOK(); ok && c.Target == "keys" &&
				c.Body.Lookup("limit").IsZero() {
				sessions.Store(id.String(), true)
			}
		case "refreshSessions":
			id := c.Body.Lookup("refreshSessions").Array().Index(0).Value().Document().String()
			if _, ok := sessions.Load(id); ok {
				release.Do(func() { close(hold) })
			}
		case "getMore":
			return mongolab.Fault{Wait: hold} // for ever, if no refresh comes
		}
		return mongolab.Fault{}
	})
	src := &mongodb.Source{Server: uri(s)}
	src.RefreshEvery(10 * time.Millisecond)
	if _, err := backup.Take(t.Context(), t.TempDir(), backup.Options{}, src); err != nil {
		t.Error(err)
	}
}

// The cursor does without noCursorTimeout where the server forbids it.
func TestWithoutNoCursorTimeout(t *testing.T) {
	t.Parallel()
	s := smallMongo(t, mongolab.Options{})
	s.Hook(func(c mongolab.Command) mongolab.Fault {
		if v, ok := c.Body.Lookup("noCursorTimeout").BooleanOK(); ok && v {
			return mongolab.Fault{Code: 8000, Name: "AtlasError",
				Msg: "noTimeout cursors are disallowed in this atlas tier"}
		}
		return mongolab.Fault{}
	})
	if _, err := backup.Take(t.Context(), t.TempDir(), backup.Options{},
		&mongodb.Source{Server: uri(s)}); err != nil {
		t.Error(err)
	}
}

func TestLoginTLSAndClient(t *testing.T) {
	t.Parallel()
	cert := mongoCert(t)
	pool := x509.NewCertPool()
	pool.AddCert(cert.Leaf)
	s := smallMongo(t, mongolab.Options{User: "tyk", Password: "pass/word", TLS: &tls.Config{
		Certificates: []tls.Certificate{cert}}})
	at := strings.Replace(s.URI(), "mongodb://", "mongodb://tyk@", 1)
	conf := &tls.Config{RootCAs: pool, ServerName: "127.0.0.1"}
	set, err := backup.Take(t.Context(), t.TempDir(), backup.Options{},
		&mongodb.Source{Server: mongodb.Server{URI: at, Password: "pass/word", TLS: conf},
			ReadPreference: readpref.SecondaryPreferred()})
	if err != nil {
		t.Fatal(err)
	}
	if o := set.Components[0].Origin; o != "mongodb://"+s.Addr() {
		t.Errorf("origin %q", o)
	}
	// A slow machine needs longer for one attempt.
	for wait := 1000; wait < 300_000; wait *= 4 {
		_, err = (&mongodb.Source{Server: mongodb.Server{URI: fmt.Sprint(at, "&serverSelectionTimeoutMS=",
			wait), Password: "pass/word", TLS: &tls.Config{ServerName: "127.0.0.1"}}}).Plan(t.Context())
		if err == nil || strings.Contains(err.Error(), "certificate") {
			break
		}
	}
	var e *backup.Error
	if !errors.As(err, &e) || !strings.Contains(err.Error(), "certificate") || e.Retryable() ||
		!strings.Contains(e.Hint(), "CA") {
		t.Errorf("without the CA: %v", err)
	}
	// The caller's own client stays connected.
	open := smallMongo(t, mongolab.Options{})
	c := mongoClient(t, open)
	if _, err := backup.Take(t.Context(), t.TempDir(), backup.Options{},
		&mongodb.Source{Server: mongodb.Server{Client: c}}); err != nil {
		t.Error(err)
	}
	if err := c.Ping(t.Context(), nil); err != nil {
		t.Error(err)
	}
}

func TestNotAllowed(t *testing.T) {
	t.Parallel()
	s := smallMongo(t, mongolab.Options{})
	s.Hook(func(c mongolab.Command) mongolab.Fault {
		if c.Name == "listCollections" {
			return mongolab.Fault{Code: 13, Name: "Unauthorized",
				Msg: "not authorized on tyk_analytics to execute command"}
		}
		return mongolab.Fault{}
	})
	_, err := (&mongodb.Source{Server: uri(s)}).Plan(t.Context())
	if !errors.Is(err, backup.ErrNotAllowed) || !strings.Contains(err.Error(), "grant the user") {
		t.Errorf("error %v", err)
	}
}

// Bad input is refused before a server is asked.
func TestRefusesBadInput(t *testing.T) {
	t.Parallel()
	for _, m := range []*mongodb.Source{
		{}, {Server: mongodb.Server{URI: "http://x"}}, {Databases: []string{"a.b"}},
		{Databases: []string{""}}, {Databases: []string{"admin"}},
		{Databases: []string{"a", "a"}}, {Include: []string{"["}}, {Exclude: []string{"no dot"}},
		{Parallel: -1},
		{Server: mongodb.Server{URI: "mongodb://h", Password: "p"}},
	} {
		if _, err := m.Plan(t.Context()); err == nil {
			t.Errorf("%+v was accepted", m)
		}
	}
	for _, m := range []*mongodb.Restore{
		{Mode: 9}, {Parallel: 99}, {Include: []string{"x"}},
	} {
		if _, err := m.Plan(t.Context(), &backup.Stored{}); err == nil {
			t.Errorf("%+v was accepted", m)
		}
	}
}

// mongoCert is a certificate for 127.0.0.1 that signs itself.
func mongoCert(t testing.TB) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), IPAddresses: []net.IP{net.IPv4(127, 0,
		0, 1)}, NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
}
