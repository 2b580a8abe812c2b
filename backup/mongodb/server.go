package mongodb

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"go.mongodb.org/mongo-driver/bson"
	"go.mongodb.org/mongo-driver/mongo"
	"go.mongodb.org/mongo-driver/mongo/options"

	"example.com/tykupgrade/backup"
	"example.com/tykupgrade/backup/internal/step"
)

// Server sets how to reach a deployment, by a URI or with a client of the caller.
type Server struct {
	// URI is a connection string of the driver: hosts, ports, user, TLS, replica set,
	// mongodb+srv. Its credentials appear in no message, log or manifest.
	URI string
	// Password is the password of the user in URI, so that URI need not contain it.
	Password string
	// TLS replaces the TLS options of URI.
	TLS *tls.Config
	// Client replaces all other fields. It stays connected.
	Client *mongo.Client
}

// Check refuses a URI or a password that cannot be used. It connects to nothing. It checks only the
// form of a URI with mongodb+srv://, whose other options the name server may have.
func (s Server) Check() error {
	if s.Client != nil {
		return nil
	}
	if strings.HasPrefix(s.URI, "mongodb+srv://") {
		if _, _, err := splitURI(s.URI); err != nil {
			return refuseURI("MongoDB", err)
		}
		return nil
	}
	_, err := s.options(&conn{})
	return err
}

// conn is a connected client with facts about the server.
type conn struct {
	*mongo.Client
	own     bool
	at      string // address for messages and the manifest, without credentials
	secrets []string
	exposed string // why others can read the traffic; empty: they cannot, or unknown

	version  string
	numbers  [3]int
	topology string
	replica  bool          // snapshot reads may work
	ahead    time.Duration // how far the server's clock is ahead
}

// connect connects to the server and reads its version and topology.
func (s Server) connect(ctx context.Context) (*conn, error) {
	c := &conn{Client: s.Client, at: "MongoDB (the caller's client)"}
	if s.Client == nil {
		if err := s.dial(ctx, c); err != nil {
			return nil, err
		}
	}
	if err := c.identify(ctx); err != nil {
		c.close(ctx)
		if e := step.Ended(ctx); e != nil {
			return nil, step.Fail("connect to", c.at, e)
		}
		return nil, c.fail("connect to", c.at, err)
	}
	return c, nil
}

// uriHint is the hint for a URI with a separate password.
const uriHint = "write it as mongodb://user@host:27017/ and give its password apart from it"

func (s Server) dial(ctx context.Context, c *conn) error {
	o, err := s.options(c)
	if err != nil {
		return err
	}
	c.Client, err = mongo.Connect(ctx, o)
	return c.fail("connect to", c.at, err)
}

func refuseURI(object string, err error) error {
	return &backup.Error{Op: "connect to", Object: object, Err: err, Next: uriHint}
}

// options reads the URI, and sets in c the parts that may be shown.
func (s Server) options(c *conn) (*options.ClientOptions, error) {
	at, secrets, err := splitURI(s.URI)
	if err != nil {
		return nil, refuseURI("MongoDB", err)
	}
	c.at, c.own, c.secrets = at, true, secrets
	if s.Password != "" {
		c.secrets = append(c.secrets, s.Password)
	}
	o := options.Client().ApplyURI(s.URI).SetAppName("tykupgrade")
	if err := o.Validate(); err != nil {
		var dns *net.DNSError
		if errors.As(err, &dns) {
			return nil, &backup.Error{Op: "connect to", Object: at, Err: errors.New("look up its servers: " +
				dns.Err), Retry: true,
				Next: "check the host name of the URI and the name server"}
		}
		return nil, refuseURI(at, badOption(s.URI))
	}
	if s.Password != "" {
		if o.Auth == nil || o.Auth.Username == "" {
			return nil, refuseURI(at, errors.New("a password is set, but the URI has no user"))
		}
		cred := *o.Auth
		cred.Password, cred.PasswordSet = s.Password, true
		o.SetAuth(cred)
	}
	if s.TLS != nil {
		o.SetTLSConfig(s.TLS)
	}
	if o.TLSConfig == nil && !local(o.Hosts) {
		c.exposed = "the connection to " + at + " has no TLS: everybody on the network path can read the data; " +
			"add tls=true to the URI"
	}
	return o, nil
}

// local reports whether all hosts are this machine.
func local(hosts []string) bool {
	for _, h := range hosts {
		if host, _, err := net.SplitHostPort(h); err == nil {
			h = host
		}
		ip := net.ParseIP(strings.Trim(h, "[]"))
		if h != "localhost" && !strings.HasSuffix(h, ".sock") && (ip == nil || !ip.IsLoopback()) {
			return false
		}
	}
	return true
}

func (c *conn) identify(ctx context.Context) error {
	hello, err := c.admin(ctx, bson.D{{Key: "hello", Value: 1}})
	if code(err) == codeCommandNotFound { // before 4.4.2
		hello, err = c.admin(ctx, bson.D{{Key: "isMaster", Value: 1}})
	}
	if err != nil {
		return err
	}
	if at, ok := hello.Lookup("localTime").TimeOK(); ok {
		c.ahead = time.Until(at)
	}
	switch msg, _ := hello.Lookup("msg").StringValueOK(); {
	case msg == "isdbgrid":
		c.topology, c.replica = "sharded cluster", true
	default:
		c.topology = "standalone"
		if name, ok := hello.Lookup("setName").StringValueOK(); ok {
			c.topology, c.replica = "replica set "+name, true
		}
	}
	info, err := c.admin(ctx, bson.D{{Key: "buildInfo", Value: 1}})
	if err != nil {
		return err
	}
	c.version, _ = info.Lookup("version").StringValueOK()
	c.numbers, err = parseVersion(c.version)
	return err
}

// now returns the server's time, which leases use.
func (c *conn) now() time.Time { return time.Now().Add(c.ahead).UTC().Truncate(time.Millisecond) }

func parseVersion(s string) (v [3]int, err error) {
	if _, err := fmt.Sscanf(s, "%d.%d.%d", &v[0], &v[1], &v[2]); err != nil {
		return v, fmt.Errorf("parse the server's version %q: want three numbers", s)
	}
	return v, nil
}

// atLeast reports whether the server has at least this version.
func (c *conn) atLeast(major, minor int) bool {
	return c.numbers[0] > major || c.numbers[0] == major && c.numbers[1] >= minor
}

// keepsZeroTimestamps reports whether inserts support bypassEmptyTsReplacement: SERVER-88750, in
// 8.0 and backported to 7.0.13, 6.0.17 and 5.0.29.
func (c *conn) keepsZeroTimestamps() bool {
	least, backported := map[int]int{5: 29, 6: 17, 7: 13}[c.numbers[0]]
	return c.numbers[0] >= 8 || backported && c.numbers[1] == 0 && c.numbers[2] >= least
}

func (c *conn) admin(ctx context.Context, command bson.D) (bson.Raw, error) {
	return c.Database("admin").RunCommand(ctx, command).Raw()
}

// run executes a write. It waits for the answer a little longer than ctx, because the server could
// otherwise run the command after its undo.
func (c *conn) run(ctx context.Context, db string, command any) error {
	ctx, cancel := trailing(ctx)
	defer cancel()
	return c.Database(db).RunCommand(ctx, command).Err()
}

func (c *conn) close(ctx context.Context) {
	if !c.own || c.Client == nil {
		return
	}
	ctx, cancel := aside(ctx)
	defer cancel()
	_ = c.Disconnect(ctx)
}

// trailing returns a context that ends ten seconds after ctx.
func trailing(ctx context.Context) (context.Context, context.CancelFunc) {
	if ctx.Err() != nil {
		return context.WithCancel(ctx)
	}
	out, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() {
		select {
		case <-out.Done():
		case <-time.After(10 * time.Second):
			cancel()
		}
	})
	return out, func() { stop(); cancel() }
}

// aside returns a short context to clean up after ctx has ended.
func aside(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
}

// majority is the write concern of every write, because a failover can undo other writes.
var majority = bson.E{Key: "writeConcern", Value: bson.D{{Key: "w", Value: "majority"}}}
