package bundle

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/Masterminds/semver/v3"

	"example.com/tykupgrade/internal/lazyregexp"
)

// Resolution is the file that one gateway version loads for one hook.
type Resolution struct {
	Hook    string   `json:"hook,omitempty"` // JSON path of the hook; set by Manifest.Resolve
	Path    string   `json:"path"`           // as written in the hook
	Gateway string   `json:"gateway"`
	Tried   []string `json:"tried"` // the names it tries, in order
	// the first of them that is in the bundle; empty: the plugin is not loaded
	File string `json:"file"`
}

// form is one rule by which a gateway derives a file name from a hook path.
type form int

const (
	exact    form = iota // plugin.so
	bare                 // plugin_5.2.5_linux_amd64.so
	prefixed             // plugin_v5.2.5_linux_amd64.so, what the compiler writes from 4.1.0 on
)

// eras is the loader's history, read in the sources. tyk-docs still describes the order of 4.3.0
// for all later versions.
var eras = []struct {
	from              *semver.Version
	request, response []form
}{
	{semver.New(0, 0, 0, "", ""), []form{exact}, []form{exact}},
	// The release build sets VERSION without v, so the compiler's name is never tried.
	{semver.New(4, 1, 0, "", ""), []form{exact, bare}, []form{exact}},
	{semver.New(4, 3, 0, "", ""), []form{exact, bare, prefixed}, []form{exact}},
	// Response plugins take part from here on.
	{semver.New(4, 3, 2, "", ""), []form{prefixed, bare, exact}, []form{prefixed, bare, exact}},
}

// Loader describes a gateway that looks for a plugin file.
type Loader struct {
	Gateway      *semver.Version // a pre-release counts as its release, as it does in the loader
	GOOS, GOARCH string          // the gateway's; empty: linux, amd64
	// Response is true for a response hook. Gateways before 4.3.2 load its plugin only by the exact
	// name.
	Response bool
}

// Resolve returns which of files a gateway loads at its start for a hook of the goplugin driver.
// The Resolution also has the names that the gateway tries, in order. A running gateway may still
// refuse the file: see [Switch].
//
// If no name matches, the error is of kind [ErrNotFound] and the Resolution still has the names.
// The order was read in the sources of 3.0.0 to 5.14.0.
func Resolve(hook string, l Loader, files []string) (Resolution, error) {
	return resolve(hook, l.Gateway, l.GOOS, l.GOARCH, files, l.Response)
}

// Resolve resolves every hook of a goplugin manifest against its file_list. From 5.0.0 on it leaves
// out disabled hooks; earlier gateways load them. The error joins the errors of all hooks without a
// file. Other drivers are an error.
func (m *Manifest) Resolve(gateway *semver.Version, goos, goarch string) ([]Resolution, error) {
	if m.Middleware.Driver != driverGo {
		return nil, &Error{Op: "resolve hooks", Object: "custom_middleware.driver",
			Err: fmt.Errorf("the driver is %q; only goplugin has versioned files", m.Middleware.Driver)}
	}
	var all []Resolution
	var failed []error
	for _, h := range m.hooks() {
		if h.Disabled && gateway != nil && gateway.Major() >= 5 {
			continue
		}
		r, loads, err := h.resolve(Loader{Gateway: gateway, GOOS: goos, GOARCH: goarch}, m.FileList)
		if !loads {
			continue
		}
		if err != nil {
			failed = append(failed, fmt.Errorf("%s: %w", h.at, err))
		}
		r.Hook = h.at
		all = append(all, r)
	}
	return all, errors.Join(failed...)
}

// LoadedFiles returns the files that a gateway loads for the hooks of the manifest, each once, in
// the order of the hooks. Its errors are those of [Manifest.Resolve], and then it returns no file.
func (m *Manifest) LoadedFiles(gateway *semver.Version, goos, goarch string) ([]string, error) {
	hooks, err := m.Resolve(gateway, goos, goarch)
	if err != nil {
		return nil, err
	}
	var files []string
	for _, h := range hooks {
		if !slices.Contains(files, h.File) {
			files = append(files, h.File)
		}
	}
	return files, nil
}

func resolve(hook string, gateway *semver.Version, goos, goarch string, files []string,
	response bool) (Resolution, error) {
	r := Resolution{Path: hook}
	fail := func(err error, hint string) (Resolution, error) {
		return r, &Error{Op: "resolve hook", Object: hook, Err: err, Next: hint}
	}
	if gateway == nil {
		return fail(errors.New("no gateway version given"),
			"give the version that the gateway's /hello reports")
	}
	r.Gateway = gateway.String()
	if r.Tried = candidates(hook, gateway, goos, goarch, response); r.Tried == nil {
		return fail(errors.New("the path names no file"), "set the hook's path to the plugin file")
	}
	for _, name := range r.Tried {
		if slices.ContainsFunc(files, func(f string) bool { return path.Clean(f) == name }) {
			r.File = name
			return r, nil
		}
	}
	return fail(fmt.Errorf("gateway %s: %w: tried %s", r.Gateway, ErrNotFound, strings.Join(r.Tried,
		", ")),
		"add a file of one of these names to file_list")
}

// candidates lists the names that a gateway tries, relative to the bundle's directory. It returns
// nil if hook names no file.
func candidates(hook string, gateway *semver.Version, goos, goarch string, response bool) []string {
	// The gateway joins the path to the bundle's directory, which drops leading slashes.
	name := path.Clean(strings.TrimLeft(hook, "/"))
	if name == "." || name == ".." || strings.HasSuffix(name, "/..") {
		return nil
	}
	version := release(gateway)
	var forms []form
	for _, era := range eras {
		if !version.LessThan(era.from) {
			forms = era.request
			if response {
				forms = era.response
			}
		}
	}
	var names []string
	for _, f := range forms {
		names = append(names, f.name(name, version, goos, goarch))
	}
	return names
}

func (f form) name(file string, v *semver.Version, goos, goarch string) string {
	if f == exact {
		return file
	}
	if goos == "" {
		goos = "linux"
	}
	if goarch == "" {
		goarch = "amd64"
	}
	version := v.String()
	if f == prefixed {
		version = "v" + version
	}
	return strings.TrimSuffix(file, ".so") + "_" + version + "_" + goos + "_" + goarch + ".so"
}

// versioned matches a name that the compiler or a gateway derived from a base.
var versioned = lazyregexp.New(`^(.+)_v?(\d+\.\d+\.\d+)_([a-z0-9]+)_([a-z0-9]+)\.so$`)

// release drops what follows the patch level.
func release(v *semver.Version) *semver.Version {
	return semver.New(v.Major(), v.Minor(), v.Patch(), "", "")
}
