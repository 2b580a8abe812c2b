package apidef

import (
	"bytes"
	"context"
	"slices"
	"strings"
)

// API is one API in the form of its store.
type API struct {
	ID  string `json:"id"`  // api_id
	Org string `json:"org"` // org_id
	// Classic is the classic definition as the store returned it. An OAS API has one too. A
	// dashboard's document has an envelope around it.
	Classic []byte `json:"classic"`
	// OAS is the OAS definition; nil for a classic API.
	OAS []byte `json:"oas,omitempty"`
}

// Store holds API definitions. Its methods are safe for concurrent use.
type Store interface {
	// APIs returns all APIs, ordered by ID.
	APIs(ctx context.Context) ([]API, error)
	// API returns one API. An unknown ID is an error of kind [ErrNotFound].
	API(ctx context.Context, id string) (API, error)
	// Replace writes next if the store still holds was. If it holds another document, the error is
	// of kind [ErrChanged], and nothing is written.
	Replace(ctx context.Context, was, next API) error
}

// Committer is a store whose writes take effect later. Commit waits until the changed APIs are in
// effect. [Apply] and [Revert] call it once, at the end.
type Committer interface {
	Commit(ctx context.Context, changed []API) error
}

// Comparer is a store that returns a document in another form than the written one. Same reports
// whether two documents mean the same in this store.
type Comparer interface {
	Same(a, b API) bool
}

func sameIn(s Store, a, b API) bool {
	if c, ok := s.(Comparer); ok {
		return c.Same(a, b)
	}
	return a.same(b)
}

func (a API) same(b API) bool {
	return a.ID == b.ID && bytes.Equal(a.Classic, b.Classic) && bytes.Equal(a.OAS, b.OAS)
}

// envelope is the path of the definition in a dashboard's document.
const envelope = "api_definition"

// at returns the path of a field of the classic definition.
func (a API) at(path ...string) []string {
	if raw, err := get(a.Classic, envelope); err == nil && raw != nil {
		return append([]string{envelope}, path...)
	}
	return path
}

// oasBundle is the path of the bundle's name in an OAS definition.
var oasBundle = []string{"x-tyk-api-gateway", "middleware", "global", "pluginConfig", "bundle"}

// bundles returns the value of custom_middleware_bundle and whether it is in use. The OAS form has
// priority, because the gateway derives the classic form from it.
func (a API) bundles() (value string, enabled bool, err error) {
	if a.OAS != nil {
		raw, err := get(a.OAS, oasBundle...)
		if err != nil || raw == nil {
			return "", false, err
		}
		value, err1 := text(raw, "path")
		enabled, err2 := flag(raw, false, "enabled")
		return value, enabled && value != "", firstError(err1, err2)
	}
	value, err1 := text(a.Classic, a.at("custom_middleware_bundle")...)
	disabled, err2 := flag(a.Classic, false, a.at("custom_middleware_bundle_disabled")...)
	return value, value != "" && !disabled, firstError(err1, err2)
}

// withBundles returns a with another value in both forms.
func (a API) withBundles(value string) (API, error) {
	next := a
	var err error
	if a.OAS != nil {
		if next.OAS, err = set(a.OAS, value, append(slices.Clone(oasBundle), "path")...); err != nil {
			return a, err
		}
		// A dashboard may omit the classic form.
		if raw, err := get(a.Classic, a.at("custom_middleware_bundle")...); err != nil || raw == nil {
			return next, err
		}
	}
	next.Classic, err = set(a.Classic, value, a.at("custom_middleware_bundle")...)
	return next, err
}

func firstError(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// newAPI reads the identity of a classic document.
func newAPI(classic []byte) (a API, oas bool, err error) {
	a.Classic = bytes.Clone(classic)
	if _, err := root(classic); err != nil {
		return a, false, err
	}
	var errs [3]error
	a.ID, errs[0] = text(classic, a.at("api_id")...)
	a.Org, errs[1] = text(classic, a.at("org_id")...)
	oas, errs[2] = flag(classic, false, a.at("is_oas")...)
	if err := firstError(errs[:]...); err != nil {
		return a, false, err
	}
	if a.ID == "" {
		err = errNoID
	}
	return a, oas, err
}

func sortAPIs(apis []API) {
	slices.SortFunc(apis, func(a, b API) int { return strings.Compare(a.ID, b.ID) })
}
