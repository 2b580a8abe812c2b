package apidef

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
)

// Dashboard is the [Store] behind a Tyk dashboard's API, /api/apis. A write makes every gateway
// reload: see bundle.NewName for the consequences.
//
// It follows the public API reference. It is not tested with a real dashboard: none was available.
type Dashboard struct {
	URL  string   // http://host:port
	Keys []string // a user's API key for each organisation
	ClientOptions
}

func (d Dashboard) do(ctx context.Context, op, object, key, method, path string,
	body []byte) ([]byte, error) {
	return client{base: d.URL, header: "Authorization", o: d.ClientOptions}.do(ctx, op, object, key,
		method, path, body)
}

// maxPages bounds the pages of one organisation.
const maxPages = 10_000

// APIs implements [Store]. It requests all APIs at once, and further pages if the dashboard does
// not support that.
func (d Dashboard) APIs(ctx context.Context) ([]API, error) {
	const op = "list APIs"
	if len(d.Keys) == 0 {
		return nil, &Error{Op: op, Kind: ErrAuth, Err: errors.New("no key given"),
			Next: "give a user's API key for each organisation"}
	}
	var all []API
	seen := map[string]bool{}
	for _, key := range d.Keys {
		for page := -2; page < maxPages; page = max(page+1, 2) {
			docs, pages, err := d.page(ctx, key, page)
			if err != nil {
				return nil, err
			}
			for _, doc := range docs {
				a, err := d.complete(ctx, op, key, doc)
				if err != nil {
					return nil, err
				}
				if !seen[a.ID] {
					seen[a.ID] = true
					all = append(all, a)
				}
			}
			if len(docs) == 0 || max(page, 1) >= pages {
				break
			}
		}
	}
	sortAPIs(all)
	return all, nil
}

func (d Dashboard) page(ctx context.Context, key string,
	page int) (docs []json.RawMessage, pages int, err error) {
	const op = "list APIs"
	data, err := d.do(ctx, op, "", key, http.MethodGet, fmt.Sprintf("/api/apis?p=%d", page), nil)
	if err != nil {
		return nil, 0, err
	}
	var answer struct {
		APIs  []json.RawMessage `json:"apis"`
		Pages int               `json:"pages"`
	}
	if err := json.Unmarshal(data, &answer); err != nil {
		return nil, 0, &Error{Op: op, Kind: ErrDefinition, Err: err,
			Next: "check that the URL is the dashboard's"}
	}
	return answer.APIs, answer.Pages, nil
}

func (d Dashboard) complete(ctx context.Context, op, key string, doc []byte) (API, error) {
	a, oas, err := newAPI(doc)
	if err != nil {
		return a, &Error{Op: op, Object: a.ID, Kind: ErrDefinition, Err: err}
	}
	if oas {
		if a.OAS, err = d.do(ctx, op, a.ID, key, http.MethodGet, "/api/apis/oas/"+url.PathEscape(a.ID),
			nil); err == nil {
			if _, bad := root(a.OAS); bad != nil {
				err = &Error{Op: op, Object: a.ID, Kind: ErrDefinition, Err: bad}
			}
		}
	}
	return a, err
}

// API implements [Store].
func (d Dashboard) API(ctx context.Context, id string) (API, error) {
	a, _, err := d.find(ctx, id)
	return a, err
}

// find returns an API and the key that sees it.
func (d Dashboard) find(ctx context.Context, id string) (API, string, error) {
	const op = "read API"
	err := error(&Error{Op: op, Object: id, Kind: ErrNotFound})
	if id == "" {
		return API{}, "", err
	}
	for _, key := range d.Keys {
		var data []byte
		if data, err = d.do(ctx, op, id, key, http.MethodGet, "/api/apis/"+url.PathEscape(id),
			nil); err == nil {
			a, err := d.complete(ctx, op, key, data)
			return a, key, err
		}
		// A dashboard has several answers for APIs of other organisations.
		if !errors.Is(err, ErrNotFound) && !errors.Is(err, ErrAuth) {
			return API{}, "", err
		}
	}
	return API{}, "", err
}

// Replace implements [Store]. Somebody else may write between its read and its write, because the
// dashboard has no conditional request.
func (d Dashboard) Replace(ctx context.Context, was, next API) error {
	const op = "replace API"
	now, key, err := d.find(ctx, was.ID)
	if err != nil {
		return err
	}
	if !d.Same(now, was) || next.ID != was.ID {
		return &Error{Op: op, Object: was.ID, Kind: ErrChanged, Next: "plan again"}
	}
	if next.OAS != nil {
		_, err = d.do(ctx, op, was.ID, key, http.MethodPut, "/api/apis/oas/"+url.PathEscape(was.ID),
			next.OAS)
	} else {
		_, err = d.do(ctx, op, was.ID, key, http.MethodPut, "/api/apis/"+url.PathEscape(was.ID),
			next.Classic)
	}
	return err
}

// Same implements [Comparer]. It compares the definitions and ignores spaces and the envelope,
// which differ between the list and a single API. For an OAS API it ignores the classic form, which
// the dashboard derives.
func (d Dashboard) Same(a, b API) bool {
	if a.ID != b.ID || (a.OAS == nil) != (b.OAS == nil) {
		return false
	}
	if a.OAS != nil {
		return canonical(a.OAS) == canonical(b.OAS)
	}
	x, err1 := get(a.Classic, envelope)
	y, err2 := get(b.Classic, envelope)
	if err1 != nil || err2 != nil || x == nil || y == nil {
		return canonical(a.Classic) == canonical(b.Classic)
	}
	return canonical(x) == canonical(y)
}

// canonical returns the document with sorted keys and no spaces. Numbers stay as written.
func canonical(doc []byte) string {
	d := json.NewDecoder(bytes.NewReader(doc))
	d.UseNumber()
	var v any
	if d.Decode(&v) != nil {
		return string(doc)
	}
	out, _ := json.Marshal(v)
	return string(out)
}
