package bundle

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/Masterminds/semver/v3"

	"example.com/tykupgrade/internal/lazyregexp"
)

// ManifestName is the name of the manifest inside a bundle.
const ManifestName = "manifest.json"

// Manifest is a bundle's manifest.json. The fields have the order and tags of the gateway's own
// type. That type is the same from 3.0.0 to 5.14.0, except for the two "disabled", which 5.0.0
// added. A marshalled Manifest has the same bytes as one of "tyk bundle build" 5.14, or of 5.15
// with traffic_logs.
type Manifest struct {
	FileList   []string   `json:"file_list"`
	Middleware Middleware `json:"custom_middleware"`
	Checksum   string     `json:"checksum"`  // lower-case hex MD5 over the files in list order
	Signature  string     `json:"signature"` // base64 RSA PKCS#1 v1.5 over SHA-256 of the same bytes

	// Unknown holds by JSON path the fields that [Parse] found and gateway 5.14 does not know.
	// Validate reports them, and Write leaves them out.
	Unknown map[string]json.RawMessage `json:"-"`
}

// Middleware lists the functions that the gateway calls, by stage.
type Middleware struct {
	Pre         []Hook `json:"pre"`
	Post        []Hook `json:"post"`
	PostKeyAuth []Hook `json:"post_key_auth"`
	AuthCheck   Hook   `json:"auth_check"`
	// TrafficLogs is the analytics plugin, from 5.15 on; see [TrafficLogsSince].
	TrafficLogs *Hook       `json:"traffic_logs,omitempty"`
	Response    []Hook      `json:"response"`
	Driver      string      `json:"driver"` // otto, python, lua, grpc or goplugin
	IDExtractor IDExtractor `json:"id_extractor"`
}

// Hook is one function. With the goplugin driver, Name is the exported symbol and Path the file.
// Gateways derive versioned file names from Path: see [Resolve].
type Hook struct {
	Disabled       bool   `json:"disabled"` // ignored by gateways before 5.0.0
	Name           string `json:"name"`
	Path           string `json:"path"`
	RequireSession bool   `json:"require_session"`
	RawBodyOnly    bool   `json:"raw_body_only"`
}

// IDExtractor lets the gateway cache the result of a custom authentication.
type IDExtractor struct {
	Disabled        bool           `json:"disabled"`
	ExtractFrom     string         `json:"extract_from"` // body, header, querystring or form
	ExtractWith     string         `json:"extract_with"` // value, xpath or regex
	ExtractorConfig map[string]any `json:"extractor_config"`
}

// Parse reads a manifest.json. It accepts what the gateway accepts, but no data after the object.
// [Manifest.Validate] checks the content.
func Parse(data []byte) (*Manifest, error) {
	m := &Manifest{Unknown: map[string]json.RawMessage{}}
	if err := json.Unmarshal(data, m); err != nil {
		return nil, &Error{Op: "parse manifest", Object: position(data, err), Err: err,
			Next: "correct the JSON"}
	}
	if first := bytes.TrimLeft(data, " \t\r\n"); first[0] != '{' {
		return nil, &Error{Op: "parse manifest", Err: fmt.Errorf("%w: it is not a JSON object",
			ErrStructure), Next: "correct the JSON"}
	}
	m.collect("", data, reflect.TypeFor[Manifest]())
	return m, nil
}

// position gives line and column of a JSON error, as an editor counts them.
func position(data []byte, err error) string {
	var syntax *json.SyntaxError
	var kind *json.UnmarshalTypeError
	var at int64
	switch {
	case errors.As(err, &syntax):
		at = syntax.Offset
	case errors.As(err, &kind):
		at = kind.Offset
	default:
		return ""
	}
	before := data[:min(max(at-1, 0), int64(len(data)))]
	return fmt.Sprintf("line %d column %d", 1+bytes.Count(before, []byte("\n")),
		len(before)-bytes.LastIndexByte(before, '\n'))
}

// plainName is a name that needs no quotes in a JSON path.
var plainName = lazyregexp.New(`^\w+$`)

// collect walks raw along t and keeps what t has no field for.
func (m *Manifest) collect(at string, raw json.RawMessage, t reflect.Type) {
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	switch {
	case t.Kind() == reflect.Slice && t.Elem().Kind() == reflect.Struct:
		var items []json.RawMessage
		if json.Unmarshal(raw, &items) == nil {
			for i, item := range items {
				m.collect(at+"["+strconv.Itoa(i)+"]", item, t.Elem())
			}
		}
	case t.Kind() == reflect.Struct:
		var fields map[string]json.RawMessage
		if json.Unmarshal(raw, &fields) != nil {
			return
		}
		for name, value := range fields {
			path := strings.TrimPrefix(at+"."+name, ".")
			if !plainName.MatchString(name) {
				path = at + "[" + strconv.Quote(name) + "]"
			}
			if f, ok := fieldByTag(t, name); ok {
				m.collect(path, value, f.Type)
			} else {
				m.Unknown[path] = value
			}
		}
	}
}

// fieldByTag ignores case, as encoding/json and so the gateway do.
func fieldByTag(t reflect.Type, name string) (reflect.StructField, bool) {
	for i := range t.NumField() {
		f := t.Field(i)
		if tag, _, _ := strings.Cut(f.Tag.Get("json"), ","); tag != "-" && strings.EqualFold(tag, name) {
			return f, true
		}
	}
	return reflect.StructField{}, false
}

// WriteTo writes the manifest as compact JSON, its form in a bundle.
func (m *Manifest) WriteTo(w io.Writer) (int64, error) {
	data, err := json.Marshal(m)
	if err != nil {
		return 0, &Error{Op: "encode manifest", Err: err,
			Next: "put only JSON values into extractor_config"}
	}
	n, err := w.Write(data)
	return int64(n), err
}

// placed is a hook with its place in the manifest.
type placed struct {
	*Hook
	at       string // JSON path
	response bool
	traffic  bool // traffic_logs
}

// TrafficLogsSince is the first release that reads traffic_logs of a manifest. It loads the file by
// its exact name, and ignores traffic_logs in a list of bundles. The rule was read in the public
// repository before the release of 5.15.
var TrafficLogsSince = semver.New(5, 15, 0, "", "")

// resolve is what a gateway loads for the hook. Of traffic_logs it is nothing
// before 5.15: then ok is false.
func (h placed) resolve(l Loader, files []string) (r Resolution, ok bool, err error) {
	if !h.traffic {
		r, err = resolve(h.Path, l.Gateway, l.GOOS, l.GOARCH, files, h.response)
		return r, true, err
	}
	if l.Gateway == nil || release(l.Gateway).LessThan(TrafficLogsSince) {
		return Resolution{Path: h.Path}, false, nil
	}
	// 4.0.0 knows the exact name only.
	r, err = resolve(h.Path, semver.New(4, 0, 0, "", ""), l.GOOS, l.GOARCH, files, false)
	r.Gateway = l.Gateway.String()
	return r, true, err
}

// hooks lists every hook in the gateway's order; auth_check only when it is set.
func (m *Manifest) hooks() []placed {
	var all []placed
	add := func(name string, list []Hook, response bool) {
		for i := range list {
			all = append(all, placed{&list[i], "custom_middleware." + name + "[" + strconv.Itoa(i) + "]",
				response, false})
		}
	}
	add("pre", m.Middleware.Pre, false)
	if h := &m.Middleware.AuthCheck; h.Name != "" || h.Path != "" {
		all = append(all, placed{h, "custom_middleware.auth_check", false, false})
	}
	add("post_key_auth", m.Middleware.PostKeyAuth, false)
	add("post", m.Middleware.Post, false)
	if h := m.Middleware.TrafficLogs; h != nil && (h.Name != "" || h.Path != "") {
		all = append(all, placed{h, "custom_middleware.traffic_logs", false, true})
	}
	add("response", m.Middleware.Response, true)
	return all
}

// clone copies m so far that hooks, file list and sums can be changed.
func (m *Manifest) clone() *Manifest {
	c := *m
	c.FileList = slices.Clone(m.FileList)
	for _, list := range []*[]Hook{&c.Middleware.Pre, &c.Middleware.Post, &c.Middleware.PostKeyAuth,
		&c.Middleware.Response} {
		*list = slices.Clone(*list)
	}
	if h := m.Middleware.TrafficLogs; h != nil {
		copied := *h
		c.Middleware.TrafficLogs = &copied
	}
	return &c
}
