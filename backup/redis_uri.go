package backup

import (
	"crypto/tls"
	"errors"
	"net/url"

	"github.com/redis/go-redis/v9"
)

// NewRedisClient makes a client from a URI, which may come from the
// environment or a file; no error repeats any of it:
//
//	redis://user:password@host:6379/0                                one server
//	redis://user:password@sentinel:26379/0?master_name=mymaster      the master that Sentinel names
//	redis://user:password@node:6379?addr=other:6379                  a cluster
//
// and rediss:// for TLS, with t where it is not nil. The other options of
// go-redis' URLs work. Nothing is connected yet.
func NewRedisClient(uri string, t *tls.Config) (redis.UniversalClient, error) {
	bad := &Error{Op: "read", Object: "the Redis URI", Err: errors.New("it is not of the form redis://user:password@host:6379/0"),
		Next: "percent-encode special characters of user and password"}
	u, err := url.Parse(uri)
	if err != nil {
		return nil, bad
	}
	switch q := u.Query(); {
	case q.Has("master_name"):
		o, err := redis.ParseFailoverURL(uri)
		if err != nil {
			return nil, bad
		}
		if t != nil {
			o.TLSConfig = t
		}
		return redis.NewFailoverClient(o), nil
	case q.Has("addr"):
		o, err := redis.ParseClusterURL(uri)
		if err != nil {
			return nil, bad
		}
		if t != nil {
			o.TLSConfig = t
		}
		return redis.NewClusterClient(o), nil
	}
	o, err := redis.ParseURL(uri)
	if err != nil {
		return nil, bad
	}
	if t != nil {
		o.TLSConfig = t
	}
	return redis.NewClient(o), nil
}
