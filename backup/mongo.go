package backup

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/url"
	"path"
	"slices"
	"strings"
	"time"

	"go.mongodb.org/mongo-driver/bson"
	"go.mongodb.org/mongo-driver/mongo"
	"go.mongodb.org/mongo-driver/mongo/options"

	"example.com/tykupgrade/backup/internal/step"
)

// MongoServer says how to reach a deployment: by URI, or with a client that the
// caller has and keeps.
type MongoServer struct {
	// URI is what the driver takes: hosts, ports, user, TLS, replica set,
	// mongodb+srv. Credentials in it reach no message, log or manifest.
	URI string
	// Password goes with the user of URI, so that it need not be written there.
	Password string
	// TLS is used instead of what URI says about it.
	TLS *tls.Config
	// Client is used instead of the rest; it stays connected.
	Client *mongo.Client
}

// mongoConn is a connected client and what is known of the server.
type mongoConn struct {
	*mongo.Client
	own     bool
	at      string // address for messages and the manifest, without credentials
	secrets []string

	version  string
	numbers  [3]int
	topology string
	replica  bool // snapshot reads are worth trying
}

// connect reaches the server and asks what it is.
func (s MongoServer) connect(ctx context.Context) (*mongoConn, error) {
	c := &mongoConn{Client: s.Client, at: "MongoDB (the caller's client)"}
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

func (s MongoServer) dial(ctx context.Context, c *mongoConn) error {
	at, secrets, err := splitMongoURI(s.URI)
	if err != nil {
		return &Error{Op: "connect to", Object: "MongoDB", Err: err, Next: "write it as mongodb://user@host:27017/ and give the password apart"}
	}
	c.at, c.own = at, true
	if s.Password != "" {
		secrets = append(secrets, s.Password)
	}
	c.secrets = secrets
	o := options.Client().ApplyURI(s.URI).SetAppName("tykupgrade")
	if s.Password != "" {
		if o.Auth == nil || o.Auth.Username == "" {
			return &Error{Op: "connect to", Object: at, Err: errors.New("a password was given, but the URI names no user"), Next: "write it as mongodb://user@host:27017/"}
		}
		cred := *o.Auth
		cred.Password, cred.PasswordSet = s.Password, true
		o.SetAuth(cred)
	}
	if s.TLS != nil {
		o.SetTLSConfig(s.TLS)
	}
	c.Client, err = mongo.Connect(ctx, o)
	if err != nil && strings.Contains(err.Error(), "URL escape") {
		err = errors.New("the URI's user or password holds a \"%\" that is not escaped as %25") // the driver's text quotes it
	}
	return c.fail("connect to", at, err)
}

// splitMongoURI returns what may be shown of a URI, and what may not.
func splitMongoURI(uri string) (show string, secrets []string, err error) {
	scheme, rest, ok := strings.Cut(uri, "://")
	if !ok || scheme != "mongodb" && scheme != "mongodb+srv" {
		return "", nil, errors.New("the URI does not begin with mongodb:// or mongodb+srv://")
	}
	hosts := rest
	if i := strings.IndexAny(rest, "/?"); i >= 0 {
		hosts = rest[:i]
	}
	if i := strings.LastIndexByte(hosts, '@'); i >= 0 {
		_, password, _ := strings.Cut(hosts[:i], ":")
		for _, p := range []string{password, unescape(password)} {
			if p != "" {
				secrets = append(secrets, p)
			}
		}
		hosts = hosts[i+1:]
	} else if user, _, _ := strings.Cut(rest, "?"); strings.Contains(user, "@") {
		return "", nil, errors.New("the URI's user or password holds a \"/\" or \"@\" that is not escaped as %2F or %40")
	}
	if hosts == "" {
		return "", nil, errors.New("the URI names no host")
	}
	return scheme + "://" + hosts, secrets, nil
}

func unescape(s string) string {
	if u, err := url.PathUnescape(s); err == nil {
		return u
	}
	return ""
}

func (c *mongoConn) identify(ctx context.Context) error {
	hello, err := c.admin(ctx, bson.D{{Key: "hello", Value: 1}})
	if mongoCode(err) == codeCommandNotFound { // before 4.4.2
		hello, err = c.admin(ctx, bson.D{{Key: "isMaster", Value: 1}})
	}
	if err != nil {
		return err
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
	c.numbers, err = mongoVersion(c.version)
	return err
}

func mongoVersion(s string) (v [3]int, err error) {
	if _, err := fmt.Sscanf(s, "%d.%d.%d", &v[0], &v[1], &v[2]); err != nil {
		return v, fmt.Errorf("the server's version %q is not understood", s)
	}
	return v, nil
}

// atLeast compares the server's version.
func (c *mongoConn) atLeast(major, minor int) bool {
	return c.numbers[0] > major || c.numbers[0] == major && c.numbers[1] >= minor
}

// keepsZeroTimestamps says whether inserts know bypassEmptyTsReplacement:
// SERVER-88750, in 8.0 and backported to 7.0.13, 6.0.17 and 5.0.29.
func (c *mongoConn) keepsZeroTimestamps() bool {
	least, backported := map[int]int{5: 29, 6: 17, 7: 13}[c.numbers[0]]
	return c.numbers[0] >= 8 || backported && c.numbers[1] == 0 && c.numbers[2] >= least
}

func (c *mongoConn) admin(ctx context.Context, command bson.D) (bson.Raw, error) {
	return c.Database("admin").RunCommand(ctx, command).Raw()
}

func (c *mongoConn) close(ctx context.Context) {
	if !c.own || c.Client == nil {
		return
	}
	ctx, cancel := aside(ctx)
	defer cancel()
	_ = c.Disconnect(ctx)
}

// aside is a context for cleaning up after ctx ended.
func aside(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
}

// spaces lists what a database holds, sorted by name: system collections are
// left out but for stored functions, as mongodump does.
func (c *mongoConn) spaces(ctx context.Context, db string) ([]*mongoSpace, error) {
	cursor, err := c.Database(db).ListCollections(ctx, bson.D{})
	if err != nil {
		return nil, err
	}
	defer cursor.Close(context.WithoutCancel(ctx))
	var all []*mongoSpace
	buckets := map[string]bool{}
	for cursor.Next(ctx) {
		info := slices.Clone(cursor.Current)
		name, _ := info.Lookup("name").StringValueOK()
		kind, _ := info.Lookup("type").StringValueOK()
		if name == "" {
			return nil, errors.New("listCollections: an entry without a name")
		}
		if strings.HasPrefix(name, "system.buckets.") {
			buckets[name] = true
		}
		if strings.HasPrefix(name, "system.") && name != "system.js" || strings.Contains(name, "$") {
			continue
		}
		s := &mongoSpace{DB: db, Name: name, Type: kind}
		if s.Type == "" {
			s.Type = typeCollection // FerretDB 1.24 and MongoDB before 3.4 do not tell
		}
		if options, ok := info.Lookup("options").DocumentOK(); ok && !emptyDoc(options) {
			s.Options = options
		}
		if _, id, ok := info.Lookup("info", "uuid").BinaryOK(); ok {
			s.UUID = fmt.Sprintf("%x", id)
		}
		all = append(all, s)
	}
	if err := cursor.Err(); err != nil {
		return nil, err
	}
	for _, s := range all {
		if s.Type == typeView {
			continue
		}
		if s.Type == typeTimeseries && !buckets[s.dataName()] {
			return nil, fmt.Errorf("%s: time series without a bucket collection (MongoDB 8.3 and newer) are not supported; exclude it", s.namespace())
		}
		if s.Indexes, err = c.indexes(ctx, s); err != nil {
			return nil, err
		}
	}
	slices.SortFunc(all, func(a, b *mongoSpace) int { return strings.Compare(a.Name, b.Name) })
	return all, nil
}

func (c *mongoConn) indexes(ctx context.Context, s *mongoSpace) ([]bson.Raw, error) {
	cursor, err := c.Database(s.DB).Collection(s.Name).Indexes().List(ctx)
	if err != nil {
		return nil, fmt.Errorf("list the indexes of %s: %w", s.namespace(), err)
	}
	defer cursor.Close(context.WithoutCancel(ctx))
	indexes := []bson.Raw{}
	for cursor.Next(ctx) {
		indexes = append(indexes, slices.Clone(cursor.Current))
	}
	return indexes, cursor.Err()
}

// patterns selects namespaces: "*" and "?" as in a shell, within the whole
// "database.collection".
type patterns struct{ include, exclude []string }

func (p patterns) check() error {
	for _, list := range [][]string{p.include, p.exclude} {
		for _, one := range list {
			if _, err := path.Match(one, ""); err != nil {
				return fmt.Errorf("pattern %q: %w", one, err)
			}
			if !strings.Contains(one, ".") {
				return fmt.Errorf("pattern %q: write it as database.collection, with * where anything may stand", one)
			}
		}
	}
	return nil
}

func (p patterns) match(namespace string) bool {
	hit := func(one string) bool { return matchPattern(one, namespace) }
	return (len(p.include) == 0 || slices.ContainsFunc(p.include, hit)) && !slices.ContainsFunc(p.exclude, hit)
}

// matchPattern is path.Match where "/" is a character like any other.
func matchPattern(pattern, name string) bool {
	const slash = "\x00"
	ok, _ := path.Match(strings.ReplaceAll(pattern, "/", slash), strings.ReplaceAll(name, "/", slash))
	return ok
}
