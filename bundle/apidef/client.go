package apidef

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"
	"unicode"
)

// ClientOptions changes the HTTP requests to a store. The zero value is useful.
type ClientOptions struct {
	Client  *http.Client  // gives the transport: TLS, CAs, proxies; nil: the default one
	Timeout time.Duration // of one request; 0: 30 s
	Retries int           // of a failed read request; 0: 3, negative: none; writes are never repeated
}

// maxAnswer bounds an answer: a dashboard sends all of its APIs at once.
const maxAnswer = 256 << 20

// client sends requests to one server. The secret is only in one header.
type client struct {
	base   string
	header string
	o      ClientOptions
}

func (c client) url(path string) (string, error) {
	u, err := url.Parse(c.base)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return "", &Error{Op: "read address",
			Err: errors.New("bad URL: want http://host:port or https://host:port")}
	}
	if u.User != nil || u.RawQuery != "" {
		return "", &Error{Op: "read address", Err: errors.New("invalid URL: it has a user or a query"),
			Next: "remove them; the key has a field of its own"}
	}
	path, query, _ := strings.Cut(path, "?")
	u = u.JoinPath(path)
	u.RawQuery = query
	return u.String(), nil
}

// do sends a request and returns the body of a 2xx answer. It repeats read requests, never write
// requests.
func (c client) do(ctx context.Context, op, object, secret, method, path string,
	body []byte) ([]byte, error) {
	addr, err := c.url(path)
	if err != nil {
		return nil, err
	}
	tries := 1
	if method == http.MethodGet && c.o.Retries >= 0 {
		tries += 3
		if c.o.Retries > 0 {
			tries = 1 + c.o.Retries
		}
	}
	for try := 1; ; try++ {
		data, err := c.once(ctx, op, object, secret, method, addr, body)
		var own *Error
		if err == nil || !errors.As(err, &own) || !own.Retry || try == tries || ctx.Err() != nil {
			return data, err
		}
		select {
		case <-time.After(time.Duration(try) * 200 * time.Millisecond):
		case <-ctx.Done():
			return nil, err
		}
	}
}

func (c client) once(ctx context.Context, op, object, secret, method, addr string,
	body []byte) ([]byte, error) {
	fail := func(kind, err error, next string, retry bool) ([]byte, error) {
		return nil, &Error{Op: op, Object: object, Kind: kind, Err: err, Next: next, Retry: retry}
	}
	limit := c.o.Timeout
	if limit == 0 {
		limit = 30 * time.Second
	}
	try, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	req, err := http.NewRequestWithContext(try, method, addr, bytes.NewReader(body))
	if err != nil {
		return fail(nil, errors.New("bad address"), "", false)
	}
	req.Header.Set(c.header, secret)
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	h := http.Client{CheckRedirect: func(*http.Request,
		[]*http.Request) error {
		return http.ErrUseLastResponse
	}}
	if c.o.Client != nil {
		h.Transport = c.o.Client.Transport
	}
	resp, err := h.Do(req)
	if err != nil {
		var e *url.Error
		if errors.As(err, &e) {
			err = e.Err
		}
		// The header's value may be the problem. The error must not contain it.
		if secret != "" && strings.Contains(err.Error(), secret) || strings.Contains(err.Error(),
			"invalid header") {
			return fail(ErrAuth, errors.New("the key has characters that a header cannot have"),
				"give the key as the store shows it", false)
		}
		return fail(nil, err, "", true)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	if err != nil {
		return fail(nil, fmt.Errorf("read the answer: %w", err), "", true)
	}
	if len(data) > maxAnswer {
		return fail(nil, fmt.Errorf("the answer has more than %d bytes", maxAnswer), "", false)
	}
	if resp.StatusCode/100 == 2 {
		return data, nil
	}
	err = fmt.Errorf("HTTP %d%s", resp.StatusCode, said(data, secret))
	switch resp.StatusCode {
	case http.StatusUnauthorized, http.StatusForbidden:
		return fail(ErrAuth, err, "check the key and its permissions", false)
	case http.StatusNotFound:
		return fail(ErrNotFound, err, "", false)
	case http.StatusMethodNotAllowed:
		return fail(ErrReadOnly, err, "use the dashboard's API", false)
	}
	return fail(nil, err, "", resp.StatusCode >= 500 || resp.StatusCode == http.StatusTooManyRequests)
}

// said returns the message of an error answer, without secrets and control characters.
func said(data []byte, secret string) string {
	message := ""
	for _, key := range []string{"message", "Message", "error"} {
		if s, err := text(data, key); err == nil && s != "" {
			message = s
			break
		}
	}
	if secret != "" {
		message = strings.ReplaceAll(message, secret, "…")
	}
	message = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, message)
	if r := []rune(message); len(r) > 200 {
		message = string(r[:200]) + "…"
	}
	if message == "" {
		return ""
	}
	return ": " + message
}
