package bundle

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"time"

	"example.com/tykupgrade/internal/atomicfile"
	"example.com/tykupgrade/internal/redact"
)

// DefaultFetchTime is the limit of a whole download. Gateways allow less: see [GatewayFetchTime].
const DefaultFetchTime = time.Minute

// GatewayFetchTime is how long a gateway waits for a bundle. From 4.0.11 and 4.3.2 on it retries up
// to four times.
const GatewayFetchTime = 5 * time.Second

// FetchOptions changes the requests to a bundle server. The zero value is useful.
type FetchOptions struct {
	Client  *http.Client  // gives transport and cookies: TLS, CAs, proxies; nil: the default one
	Header  http.Header   // sent with the request; never in errors
	Timeout time.Duration // of the whole download; 0: DefaultFetchTime
	MaxSize int64         // bytes of a bundle; 0: DefaultMaxSize
}

// Served checks that the bundle server has exactly the bundle want at addr. If it serves another
// file, redirects or answers another status than 200, the error is of kind [ErrServer]. Served
// reads at most want.Size + 1 bytes.
func Served(ctx context.Context, addr string, want Digest, o FetchOptions) error {
	const op = "look for bundle"
	o.MaxSize = want.Size
	h := sha256.New()
	n, err := o.get(ctx, op, addr, h)
	if err != nil {
		return err
	}
	if got := hex.EncodeToString(h.Sum(nil)); n != want.Size || got != want.SHA256 {
		return &Error{Op: op, Object: redacted(addr), Kind: ErrServer,
			Err: fmt.Errorf("it serves %d bytes with SHA-256 %s, want %d bytes with %s", n, got, want.Size,
				want.SHA256), Next: "publish the bundle there"}
	}
	return nil
}

// Fetch downloads the bundle at addr into a file at path with mode 0644, and replaces an existing
// file. Status 404 is an error of kind [ErrServer] that also matches fs.ErrNotExist. After an error
// or a kill, an existing file is unchanged.
func Fetch(ctx context.Context, addr, path string, o FetchOptions) (Digest, error) {
	var failed error
	sum, err := atomicfile.Write(ctx, path, atomicfile.Options{Mode: 0o644}, func(w io.Writer) error {
		_, failed = o.get(ctx, "fetch bundle", addr, w)
		return failed
	})
	switch {
	case failed != nil:
		return Digest{}, failed
	case err != nil:
		return Digest{}, &Error{Op: "fetch bundle", Object: path, Err: err, Retry: true}
	}
	return Digest{sum.Size, sum.SHA256}, nil
}

func redacted(addr string) string {
	u, err := url.Parse(addr)
	if err != nil {
		return "URL"
	}
	return redact.URL(u)
}

func (o FetchOptions) get(ctx context.Context, op, addr string, w io.Writer) (int64, error) {
	fail := func(kind, err error, hint string, retry bool) (int64, error) {
		return 0, &Error{Op: op, Object: redacted(addr), Kind: kind, Err: err, Next: hint, Retry: retry}
	}
	u, err := url.Parse(addr)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return fail(nil, errors.New("bad URL: want http://host/path or https://host/path"), "", false)
	}
	if o.Timeout == 0 {
		o.Timeout = DefaultFetchTime
	}
	if o.MaxSize == 0 {
		o.MaxSize = DefaultMaxSize
	}
	c := http.Client{CheckRedirect: func(*http.Request,
		[]*http.Request) error {
		return http.ErrUseLastResponse
	}}
	if o.Client != nil {
		c.Transport, c.Jar = o.Client.Transport, o.Client.Jar
	}
	try, cancel := context.WithTimeout(ctx, o.Timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(try, http.MethodGet, u.String(), nil)
	if err != nil {
		return fail(nil, err, "", false)
	}
	for name, values := range o.Header {
		req.Header[http.CanonicalHeaderKey(name)] = values
	}
	resp, err := c.Do(req)
	if err != nil {
		var e *url.Error // quotes the URL, its query included
		if errors.As(err, &e) {
			err = e.Err
		}
		return fail(ended(ctx), err, "", true)
	}
	defer resp.Body.Close()
	switch {
	case resp.StatusCode == http.StatusNotFound:
		return fail(ErrServer, fmt.Errorf("HTTP 404: %w", fs.ErrNotExist), "publish the bundle there",
			false)
	case resp.StatusCode/100 == 3:
		return fail(ErrServer, fmt.Errorf("HTTP %d: it redirects", resp.StatusCode),
			"name the address that it redirects to", false)
	case resp.StatusCode != http.StatusOK:
		return fail(ErrServer, fmt.Errorf("HTTP %d", resp.StatusCode), "", resp.StatusCode >= 500)
	}
	n, err := io.Copy(w, io.LimitReader(resp.Body, o.MaxSize+1))
	if err != nil {
		return fail(ended(ctx), err, "", true)
	}
	if n > o.MaxSize {
		return fail(ErrServer, fmt.Errorf("%w: more than %d bytes", ErrLimit, o.MaxSize),
			"check what the server has there, or raise MaxSize", false)
	}
	return n, nil
}

// ended returns the context's cause, or nil while the context is not done.
func ended(ctx context.Context) error {
	if ctx.Err() == nil {
		return nil
	}
	return context.Cause(ctx)
}
