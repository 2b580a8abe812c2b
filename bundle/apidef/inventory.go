package apidef

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/Masterminds/semver/v3"

	"example.com/tykupgrade/bundle"
)

// Use lists the bundles and plugins that one API uses.
type Use struct {
	API      string `json:"api"`
	Org      string `json:"org,omitempty"`
	Name     string `json:"name,omitempty"`
	OAS      bool   `json:"oas"`
	Inactive bool   `json:"inactive,omitempty"`
	Value    string `json:"value,omitempty"` // of custom_middleware_bundle, unchanged
	Disabled bool   `json:"disabled"`        // the API names the bundle but does not use it
	// the names in Value, read by the release of the inventory
	Bundles []string `json:"bundles,omitempty"`
	Plugins []Plugin `json:"plugins,omitempty"`
}

// Plugin is a place in a definition that names a Go plugin.
type Plugin struct {
	At       string `json:"at"`               // JSON path: custom_middleware.post[0]
	Path     string `json:"path"`             // of the .so
	Symbol   string `json:"symbol,omitempty"` // its function
	Disabled bool   `json:"disabled,omitempty"`
	// Bundled is true if the file comes from the API's bundle, whose hooks replace those of the
	// definition. Otherwise it is on the gateway's disk.
	Bundled bool `json:"bundled,omitempty"`
}

// Inventory lists what the APIs of a store use, ordered by API.
type Inventory struct {
	Uses []Use `json:"uses"`
}

// List reads the inventory of a store. gateway is the running release: from 5.15 an API may name a
// list of bundles. A definition that cannot be read is an error of kind [ErrDefinition].
func List(ctx context.Context, s Store, gateway *semver.Version) (*Inventory, error) {
	apis, err := s.APIs(ctx)
	if err != nil {
		return nil, err
	}
	inv := &Inventory{}
	for _, a := range apis {
		u, err := use(a, gateway)
		if err != nil {
			return nil, &Error{Op: "read API", Object: a.ID, Kind: ErrDefinition, Err: err,
				Next: "correct the definition"}
		}
		inv.Uses = append(inv.Uses, u)
	}
	return inv, nil
}

func use(a API, gateway *semver.Version) (Use, error) {
	u := Use{API: a.ID, Org: a.Org, OAS: a.OAS != nil}
	value, enabled, err := a.bundles()
	name, err1 := text(a.Classic, a.at("name")...)
	active, err2 := flag(a.Classic, true, a.at("active")...)
	if err := firstError(err, err1, err2); err != nil {
		return u, err
	}
	u.Name, u.Inactive, u.Value, u.Disabled = name, !active, value, value != "" && !enabled
	u.Bundles = bundle.Names(gateway, value)
	doc := a.Classic
	if u.OAS {
		doc = a.OAS // the classic form is made of it
	} else if at := a.at(); len(at) > 0 {
		if doc, err = get(doc, at...); err != nil {
			return u, err
		}
	}
	s, err := root(doc)
	if err != nil {
		return u, err
	}
	f := finder{doc: doc, bundled: enabled}
	f.walk("", s, false)
	u.Plugins = f.found
	return u, nil
}

// finder searches a whole definition, because the places of plugins differ by release and form.
type finder struct {
	doc     []byte
	bundled bool
	found   []Plugin
}

// globalHooks begin the paths of the hooks that a bundle replaces.
var globalHooks = []string{"custom_middleware.", "x-tyk-api-gateway.middleware.global.prePlugin",
	"x-tyk-api-gateway.middleware.global.postAuthenticationPlugin",
	"x-tyk-api-gateway.middleware.global.postPlugin",
	"x-tyk-api-gateway.middleware.global.responsePlugin",
	"x-tyk-api-gateway.server.authentication.custom"}

func (f *finder) walk(at string, s span, disabled bool) {
	switch f.doc[s.start] {
	case '[':
		items(f.doc, s, func(i int, v span) { f.walk(at+"["+strconv.Itoa(i)+"]", v, disabled) })
	case '{':
		fields := map[string]string{}
		members(f.doc, s, func(key string, v span) {
			raw := f.doc[v.start:v.end]
			switch {
			case (key == "disabled" || key == "custom_middleware_bundle_disabled") && string(raw) == "true",
				(key == "enabled" || key == "enable") && string(raw) == "false":
				if key != "custom_middleware_bundle_disabled" {
					disabled = true
				}
			case raw[0] == '"':
				var text string
				_ = json.Unmarshal(raw, &text) // it is valid
				fields[key] = text
			}
		})
		for _, key := range []string{"plugin_path", "path"} {
			path := fields[key]
			if !strings.HasSuffix(path, ".so") {
				continue
			}
			p := Plugin{At: at, Path: path, Disabled: disabled}
			for _, name := range []string{"func_name", "functionName", "name", "symbol_name"} {
				if p.Symbol == "" {
					p.Symbol = fields[name]
				}
			}
			p.Bundled = f.bundled && slices.ContainsFunc(globalHooks,
				func(g string) bool { return strings.HasPrefix(at+".", g) })
			f.found = append(f.found, p)
			break
		}
		members(f.doc, s, func(key string, v span) {
			if c := f.doc[v.start]; c == '{' || c == '[' {
				f.walk(strings.TrimPrefix(at+"."+key, "."), v, disabled)
			}
		})
	}
}

// Bundles returns the names of all bundles that active APIs use, each with the IDs of its APIs in
// order. These bundles need a build for the new release.
func (inv *Inventory) Bundles() map[string][]string {
	all := map[string][]string{}
	for _, u := range inv.Uses {
		for _, name := range u.Bundles {
			if !u.Disabled && !u.Inactive {
				all[name] = append(all[name], u.API)
			}
		}
	}
	return all
}

// OnDisk returns by path the plugins that active APIs load from the gateway's disk, each with the
// places that name it. These plugins also need a build for the new release, and no bundle contains
// it.
func (inv *Inventory) OnDisk() map[string][]string {
	all := map[string][]string{}
	for _, u := range inv.Uses {
		for _, p := range u.Plugins {
			if !p.Bundled && !p.Disabled && !u.Inactive {
				all[p.Path] = append(all[p.Path], u.API+" "+p.At)
			}
		}
	}
	return all
}

// Clashes returns pairs of files with the same plugin path among all files that a gateway opens for
// active APIs. Only the first loaded API keeps its plugin. opens lists the files of each bundle,
// from bundle.Manifest.Opens. pluginPath reads the plugin path of a file on the gateway's disk. If
// it is nil, Clashes ignores those files.
func (inv *Inventory) Clashes(opens map[string][]bundle.Open, pluginPath func(file string) (string,
	error)) ([]bundle.Clash, error) {
	var all []bundle.Open
	for _, u := range inv.Uses {
		if u.Inactive {
			continue
		}
		if !u.Disabled {
			for _, name := range u.Bundles {
				all = append(all, opens[name]...)
			}
		}
		for _, p := range u.Plugins {
			if p.Bundled || p.Disabled || pluginPath == nil {
				continue
			}
			path, err := pluginPath(p.Path)
			if err != nil {
				return nil, fmt.Errorf("API %s, %s: %w", u.API, p.At, err)
			}
			all = append(all, bundle.Open{File: p.Path, PluginPath: path})
		}
	}
	return bundle.Clashes(all), nil
}
