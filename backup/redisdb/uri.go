package redisdb

import (
	"crypto/tls"
	"errors"
	"net"
	"net/netip"
	"net/url"
	"strings"

	"github.com/redis/go-redis/v9"

	"example.com/tykupgrade/backup"
)

// NewClient returns a client for a URI. It opens no connection, and its errors contain no part of
// the URI. The forms of a URI are
//
//	redis://user:password@host:6379/0                     one server, as redis-cli -u takes it
//	redis+cluster://user:password@node1:6379,node2:6379   a cluster
//	redis+sentinel://user:password@s1:26379,s2:26379/mymaster/0
//	                                                      the master that Sentinel names
//	redis-sentinel://password@s1:26379,s2:26379/0#mymaster
//	                                                      the same, as Lettuce takes it
//	redis://s1:26379/0?master_name=mymaster               the same, as go-redis takes it
//	unix:///run/redis/redis.sock?db=0                     one server's socket
//
// rediss:// (rediss+cluster, rediss+sentinel, rediss-sentinel) uses TLS, with t unless it is nil. A
// t with a scheme without TLS is an error. The options of go-redis' URLs are accepted, and these
// for user and password:
//
//   - username=, password=: of the data servers
//   - sentinel_username=, sentinel_password=: of the Sentinels; without them the
//     Sentinels are asked without a login
//
// The user and password before the @ are those of the data servers.
//
// Encode special characters of a password: %40 for @, %3A for :, %2F for /, %3F for ?, %23 for #,
// %25 for %. An unencoded password is accepted if it is unambiguous.
func NewClient(uri string, t *tls.Config) (redis.UniversalClient, error) {
	p, err := parseURI(strings.TrimSpace(uri))
	if err == nil && t != nil && !p.tls {
		err = errors.New("TLS is configured, but the scheme is one without TLS")
	}
	var c redis.UniversalClient
	if err == nil {
		c, err = p.client(t)
	}
	if err != nil {
		return nil, &backup.Error{Op: "read", Object: "the Redis URI", Err: err,
			Next: "write it as redis://user:password@host:6379/0, rediss:// for TLS, with special " +
				"characters of the password percent-encoded"}
	}
	return c, nil
}

// uriParts has the parts of a URI.
type uriParts struct {
	mode       string // "", "cluster", "sentinel", "unix"
	tls        bool
	user, pass string
	hosts      []string
	path       string
	master     string
	query      url.Values
}

// Errors that contain no part of the URI.
var (
	errURIForm   = errors.New("unknown form")
	errURIScheme = errors.New("unknown scheme (want redis, rediss, redis+cluster, " +
		"redis+sentinel or unix)")
	errURIHost   = errors.New("it has no host, or a port that is not a number")
	errURIMaster = errors.New("it has no name of a master for Sentinel")
	errURIOption = errors.New("it has an unknown option or an option with an invalid value")
)

var uriSchemes = map[string]uriParts{
	"redis": {}, "rediss": {tls: true}, "unix": {mode: "unix"},
	"redis+cluster": {mode: "cluster"}, "rediss+cluster": {mode: "cluster", tls: true},
	"redis+sentinel": {mode: "sentinel"}, "rediss+sentinel": {mode: "sentinel", tls: true},
	"redis-sentinel": {mode: "sentinel"}, "rediss-sentinel": {mode: "sentinel", tls: true},
}

func parseURI(uri string) (uriParts, error) {
	scheme, rest, ok := strings.Cut(uri, "://")
	if !ok {
		return uriParts{}, errURIForm
	}
	p, ok := uriSchemes[strings.ToLower(scheme)]
	if !ok {
		return p, errURIScheme
	}
	if p.mode == "unix" {
		u, err := url.Parse(uri)
		if err != nil {
			return p, errURIForm
		}
		p.path, p.query = uri, u.Query()
		return p, nil
	}
	info, rest, err := cutUserinfo(rest)
	if err != nil {
		return p, err
	}
	user, pass, hasPass := strings.Cut(info, ":")
	switch {
	case hasPass:
		p.user, p.pass = unescaped(user), unescaped(pass)
	case strings.Contains(strings.ToLower(scheme), "-sentinel"): // Lettuce
		p.pass = unescaped(user)
	case info != "":
		p.user = unescaped(user)
	}
	rest, fragment, _ := strings.Cut(rest, "#")
	rest, query, _ := strings.Cut(rest, "?")
	if p.query, err = url.ParseQuery(query); err != nil {
		return p, errURIOption
	}
	hosts, path, _ := strings.Cut(rest, "/")
	p.hosts, p.path = strings.Split(hosts, ","), strings.Trim(path, "/")
	return p, p.complete(fragment)
}

// complete decides about the kind of client.
func (p *uriParts) complete(fragment string) error {
	port := "6379"
	if p.query.Has("master_name") || fragment != "" {
		p.mode = "sentinel"
	}
	if p.mode == "" && (len(p.hosts) > 1 || p.query.Has("addr")) {
		p.mode = "cluster"
	}
	if p.mode == "sentinel" {
		port = "26379"
		p.master, _ = url.PathUnescape(fragment)
		if name := p.query.Get("master_name"); name != "" {
			p.master = name
		}
		if first, db, _ := strings.Cut(p.path, "/"); p.master == "" {
			p.master, _ = url.PathUnescape(first)
			p.path = db
		}
		if p.master == "" {
			return errURIMaster
		}
	}
	p.hosts = append(p.hosts, p.query["addr"]...)
	for i, h := range p.hosts {
		u, err := url.Parse("redis://" + h)
		if err != nil || u.Hostname() == "" || u.Path != "" || u.User != nil {
			return errURIHost
		}
		if u.Port() == "" {
			p.hosts[i] = net.JoinHostPort(u.Hostname(), port)
		}
	}
	return nil
}

// cutUserinfo finds the end of the password. A fully encoded URI has one @ before its path. With a
// raw password, the last @ before the options is the right one.
func cutUserinfo(s string) (info, rest string, err error) {
	authority := s
	if i := strings.IndexAny(s, "/?#"); i >= 0 {
		authority = s[:i]
	}
	if i := strings.LastIndexByte(authority, '@'); i >= 0 && validHosts(authority[i+1:]) {
		return s[:i], s[i+1:], nil
	}
	i := strings.LastIndexByte(s, '@')
	if i < 0 {
		return "", s, nil
	}
	// A later @ is in an option's value, or in a raw password with / ? or #.
	if q := strings.IndexByte(s, '?'); q >= 0 && q < i && strings.Contains(s[q:i], "=") &&
		validHosts(s) {
		return "", s, nil
	}
	return s[:i], s[i+1:], nil
}

// validHosts reports whether s begins with hosts and ports.
func validHosts(s string) bool {
	hosts, _, _ := strings.Cut(s, "?")
	hosts, _, _ = strings.Cut(hosts, "/")
	for h := range strings.SplitSeq(hosts, ",") {
		if u, err := url.Parse("redis://" + h); err != nil || u.Hostname() == "" {
			return false
		}
	}
	return true
}

// unescaped decodes percent-encoding. It returns a raw password with a % unchanged.
func unescaped(s string) string {
	if d, err := url.PathUnescape(s); err == nil {
		return d
	}
	return s
}

// client builds the client. The libraries' own parsers read the options. User and password are set
// afterwards, unchanged.
func (p uriParts) client(t *tls.Config) (redis.UniversalClient, error) {
	scheme := "redis"
	if p.tls {
		scheme = "rediss"
	}
	take := func(option, otherwise string) string {
		v := otherwise
		if p.query.Has(option) {
			v = p.query.Get(option)
		}
		p.query.Del(option)
		return v
	}
	if p.mode == "unix" {
		o, err := redis.ParseURL(p.path)
		if err != nil {
			return nil, errURIOption
		}
		return redis.NewClient(o), nil
	}
	user, pass := take("username", p.user), take("password", p.pass)
	sentinelUser, sentinelPass := take("sentinel_username", ""), take("sentinel_password", "")
	p.query.Del("addr")
	p.query.Del("master_name")
	u := url.URL{Scheme: scheme, Host: p.hosts[0], Path: p.path, RawQuery: p.query.Encode()}
	switch p.mode {
	case "sentinel":
		o, err := redis.ParseFailoverURL(u.String())
		if err != nil {
			return nil, errURIOption
		}
		o.MasterName, o.SentinelAddrs = p.master, p.hosts
		o.Username, o.Password, o.SentinelUsername, o.SentinelPassword = user, pass, sentinelUser,
			sentinelPass
		if t != nil {
			o.TLSConfig = t
		}
		o.Dialer = tlsDialer(o.TLSConfig, o.DialTimeout)
		return redis.NewFailoverClient(o), nil
	case "cluster":
		if p.path != "" && p.path != "0" {
			return nil, errURIForm // a cluster has only database 0
		}
		u.Path = ""
		o, err := redis.ParseClusterURL(u.String())
		if err != nil {
			return nil, errURIOption
		}
		o.Addrs, o.Username, o.Password = p.hosts, user, pass
		if t != nil {
			o.TLSConfig = t
		}
		o.Dialer = tlsDialer(o.TLSConfig, o.DialTimeout)
		return redis.NewClusterClient(o), nil
	}
	o, err := redis.ParseURL(u.String())
	if err != nil {
		return nil, errURIOption
	}
	o.Username, o.Password = user, pass
	if t != nil {
		o.TLSConfig = t
	}
	o.Dialer = tlsDialer(o.TLSConfig, o.DialTimeout)
	return redis.NewClient(o), nil
}

// loopback reports whether an address is on this machine.
func loopback(addr string) bool {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		host = addr
	}
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || host == "" || strings.HasPrefix(host, "/") || err == nil &&
		ip.Unmap().IsLoopback()
}
