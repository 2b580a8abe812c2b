package bundle

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/Masterminds/semver/v3"
)

// Symbol is a function that a hook of a manifest calls.
type Symbol struct {
	File     string // as written in the hook
	Name     string
	Response bool // of a response hook, whose function has another signature
}

// Symbols returns the functions that the hooks of a goplugin manifest name. It leaves out disabled
// hooks and traffic_logs. Another driver is an error of kind [ErrManifest].
func (m *Manifest) Symbols() ([]Symbol, error) {
	if m.Middleware.Driver != driverGo {
		return nil, &Error{Op: "list functions", Object: "custom_middleware.driver", Kind: ErrManifest,
			Err:  fmt.Errorf("the driver is %q", m.Middleware.Driver),
			Next: "give a manifest with the driver goplugin"}
	}
	var all []Symbol
	for _, h := range m.hooks() {
		if h.Name != "" && h.Path != "" && !h.Disabled && !h.traffic {
			all = append(all, Symbol{h.Path, h.Name, h.response})
		}
	}
	return all, nil
}

// EachSymbol calls f for each of [Manifest.Symbols], in their order, and returns the error of that.
// The method AddSymbol of a preflight.Target is such an f.
func (m *Manifest) EachSymbol(f func(file, name string, response bool)) error {
	all, err := m.Symbols()
	for _, s := range all {
		f(s.File, s.Name, s.Response)
	}
	return err
}

// HookKinds returns the hook kinds that [ForHook] accepts, in the order of a gateway's calls.
func HookKinds() []string {
	return []string{"pre", "auth_check", "post_key_auth", "post", "response"}
}

// ForHook returns a manifest with one hook that calls the function symbol. file is the build that
// the gateway loads now. The hook's path is [PluginName] of file if the gateway finds the file by
// that name. Otherwise it is the base name of file.
func ForHook(kind, symbol, file string, gateway *semver.Version) (*Manifest, error) {
	const op = "make manifest"
	if !slices.Contains(HookKinds(), kind) {
		return nil, &Error{Op: op, Object: kind, Err: errors.New("unknown hook"), Next: "give " +
			strings.Join(HookKinds(), ", ")}
	}
	file = path.Base(file)
	h := Hook{Name: symbol, Path: PluginName(file)}
	if r, _ := Resolve(h.Path, Loader{Gateway: gateway}, []string{file}); r.File == "" {
		h.Path = file
	}
	m := &Manifest{FileList: []string{file}, Middleware: Middleware{Driver: driverGo}}
	switch kind {
	case "pre":
		m.Middleware.Pre = []Hook{h}
	case "auth_check":
		m.Middleware.AuthCheck = h
	case "post_key_auth":
		m.Middleware.PostKeyAuth = []Hook{h}
	case "post":
		m.Middleware.Post = []Hook{h}
	case "response":
		m.Middleware.Response = []Hook{h}
	}
	return m, nil
}

// PluginName returns the base name of a plugin's file without the compiler's suffix: plugin.so for
// plugin_v5.2.5_linux_amd64.so. The plugin compiler adds that suffix from 4.1.0 on.
func PluginName(file string) string {
	file = path.Base(file)
	if m := versioned.FindStringSubmatch(file); m != nil {
		return m[1] + ".so"
	}
	return file
}

// ParseFile reads a manifest.json from disk with [Parse].
func ParseFile(name string) (*Manifest, error) {
	data, err := os.ReadFile(name)
	if err != nil {
		return nil, &Error{Op: "read manifest", Object: name, Err: errors.Unwrap(err)}
	}
	m, err := Parse(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return m, nil
}

// workingDirectory is that of the gateway's unit in Tyk's packages.
const workingDirectory = "/opt/tyk-gateway"

// CacheDirs returns the directories in which gateways of the given releases cache the bundles
// names. [CacheDir] explains them. config is the content of the host's tyk.conf. A relative
// middleware_path is below /opt/tyk-gateway. apis has the IDs of the APIs that name the bundles,
// which only 3.0.0 to 3.2.2 and 4.0.0 need. CacheDirs does not read the disk.
func CacheDirs(config []byte, names, apis []string, gateways ...*semver.Version) ([]string, error) {
	var conf struct {
		Middleware string `json:"middleware_path"`
	}
	if err := json.Unmarshal(config, &conf); err != nil {
		return nil, &Error{Op: "find cached bundles", Object: "tyk.conf",
			Err: fmt.Errorf("it is not JSON: %w", err), Next: "correct the file"}
	}
	if conf.Middleware != "" && !filepath.IsAbs(conf.Middleware) {
		conf.Middleware = filepath.Join(workingDirectory, conf.Middleware)
	}
	if len(apis) == 0 {
		apis = []string{""}
	}
	var dirs []string
	for _, v := range gateways {
		for _, api := range apis {
			for _, name := range names {
				all, err := CacheDir(v, conf.Middleware, api, name)
				if err != nil {
					return nil, err
				}
				for _, c := range all {
					if !slices.Contains(dirs, c.Dir) {
						dirs = append(dirs, c.Dir)
					}
				}
			}
		}
	}
	return dirs, nil
}
