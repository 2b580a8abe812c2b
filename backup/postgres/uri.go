package postgres

import (
	"errors"
	"net"
	"net/url"
	"strings"
)

// target is a connection without its secrets, for argv and errors.
type target struct {
	uri      *url.URL // nil: a service or libpq's environment
	service  string
	database string
	password string
}

// parseURI splits a connection URI. Its errors contain no part of the URI, because any part may be
// a password.
func parseURI(uri string) (*target, error) {
	bad := errors.New("the connection URI does not parse (want " +
		"postgresql://user@host:5432/database?sslmode=verify-full; " +
		"write @ : / ? # % of a password as %40 %3A %2F %3F %23 %25, or pass it as Password)")
	u, err := url.Parse(uri)
	if err != nil || u.Scheme != "postgresql" && u.Scheme != "postgres" || u.Opaque != "" ||
		u.Fragment != "" {
		return nil, bad
	}
	q, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return nil, bad
	}
	t := &target{database: strings.TrimPrefix(u.Path, "/")}
	if u.User != nil {
		t.password, _ = u.User.Password()
		if name := u.User.Username(); name != "" {
			u.User = url.User(name)
		} else {
			u.User = nil
		}
	}
	if p := q.Get("password"); p != "" {
		t.password = p
	}
	if q.Has("sslpassword") {
		return nil, errors.New("the connection URI has sslpassword, which would show in argv; use a " +
			"service file for it")
	}
	q.Del("password")
	if name := q.Get("dbname"); name != "" {
		t.database = name
		q.Del("dbname")
	}
	u.RawQuery = q.Encode()
	u.Path = "/" + t.database
	t.uri = u
	return t, nil
}

// conninfo returns libpq's connection string for one database of the target.
func (t *target) conninfo(database string) string {
	if t.uri == nil {
		s := "dbname=" + quoteConn(database)
		if t.service != "" {
			s += " service=" + quoteConn(t.service)
		}
		return s
	}
	u := *t.uri
	u.Path, u.RawPath = "/"+database, "/"+url.PathEscape(database)
	return u.String()
}

// String returns the target for errors and the manifest.
func (t *target) String() string {
	switch {
	case t.uri != nil:
		u := url.URL{Scheme: "postgresql", User: t.uri.User, Host: t.uri.Host}
		if h := t.uri.Query().Get("host"); u.Host == "" && h != "" {
			u.Host = h
			return "postgresql://" + h
		}
		return u.String()
	case t.service != "":
		return "service " + t.service
	}
	return "the server of libpq's environment"
}

// plaintext reports whether passwords and data may travel unencrypted, that is, to another machine
// without an sslmode that requires TLS.
func (t *target) plaintext() bool {
	if t.uri == nil {
		return false
	}
	host := t.uri.Hostname()
	if h := t.uri.Query().Get("host"); h != "" {
		host = h
	}
	if host == "" || strings.HasPrefix(host, "/") || host == "localhost" {
		return false
	}
	if ip := net.ParseIP(host); ip != nil && ip.IsLoopback() {
		return false
	}
	switch t.uri.Query().Get("sslmode") {
	case "require", "verify-ca", "verify-full":
		return false
	}
	return true
}

func quoteConn(s string) string {
	return "'" + strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(s) + "'"
}

func quoteIdent(s string) string { return `"` + strings.ReplaceAll(s, `"`, `""`) + `"` }

func quoteLiteral(s string) string {
	if strings.Contains(s, `\`) {
		return ` E'` + strings.NewReplacer(`\`, `\\`, `'`, `''`).Replace(s) + `'`
	}
	return "'" + strings.ReplaceAll(s, "'", "''") + "'"
}
