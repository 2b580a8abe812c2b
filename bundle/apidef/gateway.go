package apidef

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"reflect"
	"time"
)

// Gateway is the [Store] behind the API of one gateway without a dashboard, /tyk/apis. Prefer a
// [Directory] if app_path can be reached.
//
// A gateway returns a definition from its own structs. A write therefore loses fields that the
// release does not know. An API with a bundle shows the bundle's hooks as its own. A write takes
// effect when the gateway reloads, which Commit requests. Other gateways with the same app_path
// also need a reload.
type Gateway struct {
	URL    string // http://host:port
	Secret string // of tyk.conf
	ClientOptions
}

func (g Gateway) client() client {
	return client{base: g.URL, header: "X-Tyk-Authorization", o: g.ClientOptions}
}

func (g Gateway) do(ctx context.Context, op, object, method, path string,
	body []byte) ([]byte, error) {
	return g.client().do(ctx, op, object, g.Secret, method, path, body)
}

// APIs implements [Store].
func (g Gateway) APIs(ctx context.Context) ([]API, error) {
	const op = "list APIs"
	data, err := g.do(ctx, op, "", http.MethodGet, "/tyk/apis", nil)
	if err != nil {
		return nil, err
	}
	var raw []json.RawMessage
	if err := json.Unmarshal(data, &raw); err != nil {
		return nil, &Error{Op: op, Kind: ErrDefinition, Err: err,
			Next: "check that the URL is the gateway's"}
	}
	var all []API
	for _, doc := range raw {
		a, err := g.complete(ctx, op, doc)
		if err != nil {
			return nil, err
		}
		all = append(all, a)
	}
	sortAPIs(all)
	return all, nil
}

func (g Gateway) complete(ctx context.Context, op string, doc []byte) (API, error) {
	a, oas, err := newAPI(doc)
	if err != nil {
		return a, &Error{Op: op, Object: a.ID, Kind: ErrDefinition, Err: err}
	}
	if !oas {
		return a, nil
	}
	a.OAS, err = g.do(ctx, op, a.ID, http.MethodGet, "/tyk/apis/oas/"+url.PathEscape(a.ID), nil)
	if err == nil {
		if _, bad := root(a.OAS); bad != nil {
			err = &Error{Op: op, Object: a.ID, Kind: ErrDefinition, Err: bad}
		}
	}
	return a, err
}

// API implements [Store].
func (g Gateway) API(ctx context.Context, id string) (API, error) {
	const op = "read API"
	if id == "" {
		return API{}, &Error{Op: op, Kind: ErrNotFound, Err: errors.New("no ID given")}
	}
	data, err := g.do(ctx, op, id, http.MethodGet, "/tyk/apis/"+url.PathEscape(id), nil)
	if err != nil {
		return API{}, err
	}
	return g.complete(ctx, op, data)
}

// Replace implements [Store]. Somebody else may write between its read and its write, because the
// gateway has no conditional request.
func (g Gateway) Replace(ctx context.Context, was, next API) error {
	const op = "replace API"
	now, err := g.API(ctx, was.ID)
	if err != nil {
		return err
	}
	if !g.Same(now, was) || next.ID != was.ID {
		return &Error{Op: op, Object: was.ID, Kind: ErrChanged, Next: "plan again"}
	}
	if next.OAS != nil {
		_, err = g.do(ctx, op, was.ID, http.MethodPut, "/tyk/apis/oas/"+url.PathEscape(was.ID), next.OAS)
	} else {
		_, err = g.do(ctx, op, was.ID, http.MethodPut, "/tyk/apis/"+url.PathEscape(was.ID), next.Classic)
	}
	return err
}

// commitTime limits the wait for a reload, which takes about a second.
const commitTime = 30 * time.Second

// Commit implements [Committer]. It reloads the gateway and waits up to 30 seconds until the
// gateway serves the changed definitions.
func (g Gateway) Commit(ctx context.Context, changed []API) error {
	const op = "reload gateway"
	ctx, cancel := context.WithTimeout(ctx, commitTime)
	defer cancel()
	for try := 0; ; try++ {
		// A reload in progress may have read the old files.
		if try%10 == 0 {
			if _, err := g.do(ctx, op, "", http.MethodGet, "/tyk/reload?block=true", nil); err != nil {
				return err
			}
		}
		missing := ""
		for _, want := range changed {
			now, err := g.API(ctx, want.ID)
			if err != nil && !errors.Is(err, ErrNotFound) {
				return err
			}
			if err != nil || !g.Same(now, want) {
				missing = want.ID
				break
			}
		}
		if missing == "" {
			return nil
		}
		select {
		case <-time.After(200 * time.Millisecond):
		case <-ctx.Done():
			return &Error{Op: op, Object: missing, Err: fmt.Errorf("the gateway does not serve the new "+
				"definition: %w", ctx.Err()),
				Next: "read the log of the gateway", Retry: true}
		}
	}
}

// Same implements [Comparer]. It ignores the hooks of a bundle, and the servers that a gateway
// writes into an OAS document.
func (g Gateway) Same(a, b API) bool {
	return a.ID == b.ID && meaning(a.Classic, "custom_middleware", a) == meaning(b.Classic,
		"custom_middleware", b) &&
		reflect.DeepEqual(decode(a.OAS, "servers"), decode(b.OAS, "servers"))
}

// meaning returns the canonical form of a classic document. The gateway derives the classic form of
// an OAS API, so only its bundle matters.
func meaning(doc []byte, without string, a API) string {
	value, enabled, err := a.bundles()
	if err != nil || a.OAS != nil {
		return fmt.Sprint(value, enabled, err)
	}
	if !enabled {
		without = ""
	}
	out, _ := json.Marshal(decode(doc, without))
	return string(out)
}

func decode(doc []byte, without string) map[string]any {
	var m map[string]any
	if json.Unmarshal(doc, &m) != nil {
		return nil
	}
	delete(m, without)
	return m
}
