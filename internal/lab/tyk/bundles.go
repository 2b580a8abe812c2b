package tyk

import (
	"bytes"
	"context"
	"crypto/md5"
	"crypto/rsa"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/Masterminds/semver/v3"

	"example.com/tykupgrade/bundle"
	"example.com/tykupgrade/bundle/bundletest"
	"example.com/tykupgrade/pluginbuild/preflight"
)

// process is what ends with the gateway's process: Go cannot unload a plugin.
type process struct {
	opened map[string]string // plugin path: the file that has it
	failed map[string]error  // by file
	apis   []*api
	// retired keeps a digest of what was opened, so that a file that changes under
	// a process changes nothing.
	digests map[string]string
}

// hook is one Go plugin function of an API.
type hook struct {
	file     string // "" if it could not be loaded
	digest   string
	response bool
}

// api is one definition that the process has loaded.
type api struct {
	id, listen string
	oas        bool
	doc        []byte // as app_path has it
	hooks      []hook
	manifest   json.RawMessage // custom_middleware of its bundle
}

// plugin opens a file as plugin.Open does.
func (p *process) plugin(version, file, symbol string) (string, error) {
	real, err := filepath.EvalSymlinks(file)
	if err != nil {
		return "", fmt.Errorf("plugin.Open(%q): realpath failed", file)
	}
	name := strings.TrimSuffix(file, ".so")
	if err := p.failed[real]; err != nil {
		return "", err
	}
	digest, open := p.digests[real]
	if !open {
		b, err := preflight.Inspect(real)
		built := ""
		if err == nil {
			built = b.Settings[bundletest.GatewaySetting]
		}
		switch {
		case err != nil:
			err = fmt.Errorf("plugin.Open(%q): %s: invalid ELF header", name, real)
		case !b.Plugin:
			err = fmt.Errorf("plugin.Open(%q): not implemented", name)
		case built != "" && built != version:
			err = fmt.Errorf("plugin.Open(%q): plugin was built with a different version of package "+
				"internal/goarch", name)
		case p.opened[b.PluginPath] != "":
			err = fmt.Errorf("plugin.Open(%q): plugin already loaded", name)
		}
		if err != nil {
			p.failed[real] = err
			return "", err
		}
		digest = b.SHA256[:12]
		p.opened[b.PluginPath], p.digests[real] = real, digest
	}
	b, err := preflight.Inspect(real)
	if err == nil && !slices.ContainsFunc(b.Exports,
		func(f preflight.Func) bool { return f.Name == symbol }) {
		return "", fmt.Errorf("plugin: symbol %s not found in plugin %s", symbol, b.PluginPath)
	}
	return digest, nil
}

func parsed(version string) *semver.Version {
	v, err := semver.NewVersion(version)
	if err != nil {
		return semver.New(0, 0, 0, "", "")
	}
	return v
}

func enforces(version string) bool {
	return !older(version, 5, 0, 12) && older(version, 5, 1, 0) || !older(version, 5, 3, 1)
}

// rechecks returns how a gateway checks a bundle in its cache: "", "full" or
// "signed".
func rechecks(version string) string {
	switch {
	case older(version, 5, 8, 7), !older(version, 5, 9, 0) && older(version, 5, 10, 1):
		return ""
	case older(version, 5, 8, 11), !older(version, 5, 10, 1) && older(version, 5, 11, 1):
		return "full"
	}
	return "signed"
}

// cacheDir is written apart from package bundle, which it checks.
func (s *APIs) cacheDir(apiID, value string) string {
	dir := fmt.Sprintf("%x", md5.Sum([]byte(value)))
	if older(s.version, 3, 2, 3) || s.version == "4.0.0" {
		dir = apiID + "_" + dir
	}
	return filepath.Join(s.conf.MiddlewarePath, "bundles", dir)
}

// load fetches an API's bundles and opens its plugins. An error means that the
// API is not served at all.
func (s *APIs) load(a *api, value string) error {
	fail := func(err error, message string) error {
		if err != nil {
			message += ": " + err.Error()
		}
		s.logf("error", message, "prefix", "main", "api_id", a.id)
		s.logf("error", "Couldn't load bundle", "api_id", a.id, "error", message)
		return errors.New(message)
	}
	names := bundle.Names(parsed(s.version), value)
	root := s.cacheDir(a.id, value)
	single := len(names) == 1 && names[0] == value
	var all bundle.Middleware
	for _, name := range names {
		dir := root
		if !single {
			dir = filepath.Join(root, strings.NewReplacer("/", "__").Replace(strings.TrimSuffix(name,
				path.Ext(name))))
		}
		m, err := s.bundle(a, name, dir)
		if err != nil {
			err = fail(err, "Couldn't fetch bundle")
			if !enforces(s.version) {
				continue // the API goes on without its plugins
			}
			return err
		}
		raw, _ := json.Marshal(m.Middleware)
		a.manifest = raw
		prefix := func(hooks ...bundle.Hook) []bundle.Hook {
			for i := range hooks {
				hooks[i].Path = filepath.Join(dir, hooks[i].Path)
			}
			return hooks
		}
		if h := m.Middleware.AuthCheck; h.Name != "" {
			if all.AuthCheck.Name != "" {
				return fail(nil, fmt.Sprintf("Couldn't merge bundle %q: bundle %q declares an auth_check "+
					"hook but another bundle has already set one (%q)", name, name, all.AuthCheck.Name))
			}
			all.AuthCheck = prefix(h)[0]
		}
		if all.Driver != "" && m.Middleware.Driver != all.Driver {
			return fail(nil, fmt.Sprintf("Couldn't merge bundle %q: bundle %q declares driver %q but "+
				"earlier bundles set %q", name, name, m.Middleware.Driver, all.Driver))
		}
		all.Driver = m.Middleware.Driver
		all.Pre = append(all.Pre, prefix(m.Middleware.Pre...)...)
		all.Post = append(all.Post, prefix(m.Middleware.Post...)...)
		all.PostKeyAuth = append(all.PostKeyAuth, prefix(m.Middleware.PostKeyAuth...)...)
		all.Response = append(all.Response, prefix(m.Middleware.Response...)...)
	}
	s.open(a, all)
	return nil
}

// open loads every Go plugin of a middleware section.
func (s *APIs) open(a *api, all bundle.Middleware) {
	if all.Driver != "goplugin" {
		return
	}
	hooks := slices.Concat(all.Pre, []bundle.Hook{all.AuthCheck}, all.PostKeyAuth, all.Post)
	request := len(hooks)
	for i, h := range append(hooks, all.Response...) {
		if h.Name == "" || h.Path == "" || h.Disabled && !older(s.version, 5, 0, 0) {
			continue
		}
		got := hook{response: i >= request}
		entries, _ := os.ReadDir(filepath.Dir(h.Path))
		var files []string
		for _, e := range entries {
			files = append(files, e.Name())
		}
		r, err := bundle.Resolve(filepath.Base(h.Path), bundle.Loader{Gateway: parsed(s.version),
			Response: got.response}, files)
		file := filepath.Join(filepath.Dir(h.Path), r.File)
		switch {
		case err != nil && older(s.version, 4, 3, 0):
			s.logf("error", "Could not load Go-plugin", "error",
				fmt.Sprintf("plugin.Open(%q): realpath failed", h.Path), "mwPath", h.Path, "mwSymbolName",
				h.Name)
		case err != nil && got.response:
			s.logf("error", "Could not load Go-plugin. File was not found", "error", "plugin file not found",
				"mwPath", h.Path, "mwSymbolName", h.Name)
		case err != nil:
			s.logf("error", "plugin file not found", "error", "plugin file not found", "mwPath", h.Path,
				"mwSymbolName", h.Name)
		default:
			digest, err := s.process.plugin(s.version, file, h.Name)
			if err != nil {
				s.logf("error", "Could not load Go-plugin", "error", err.Error(), "mwPath", h.Path,
					"mwSymbolName", h.Name)
			} else {
				got.file, got.digest = filepath.Base(file), digest
			}
		}
		a.hooks = append(a.hooks, got)
	}
}

// bundle returns the manifest of a bundle in its directory, fetched first if it
// is not there. A directory that exists is used as it is.
func (s *APIs) bundle(a *api, name, dir string) (*bundle.Manifest, error) {
	if _, err := os.Stat(dir); err == nil {
		s.logf("info", "Loading existing bundle: "+name, "prefix", "main")
		m, err := s.manifest(dir)
		if err == nil {
			if mode := rechecks(s.version); !s.conf.SkipVerify && (mode == "full" || mode == "signed" &&
				m.Signature != "") {
				err = s.verify(m, dir)
			}
		}
		return m, err
	}
	s.logf("info", "----> Fetching Bundle: "+name, "prefix", "main")
	if err := s.fetch(name, dir); err != nil {
		_ = os.RemoveAll(dir)
		return nil, err
	}
	m, err := s.manifest(dir)
	if err == nil {
		if err = s.verify(m, dir); err != nil {
			s.logf("info", "----> Bundle verification failed: "+name, "prefix", "main")
			if !enforces(s.version) {
				err = nil
			}
		}
	}
	if err != nil {
		s.logf("error", "Couldn't load bundle: "+err.Error(), "prefix", "main", "api_id", a.id)
		_ = os.RemoveAll(dir)
		return nil, err
	}
	return m, nil
}

func (s *APIs) manifest(dir string) (*bundle.Manifest, error) {
	data, err := os.ReadFile(filepath.Join(dir, bundle.ManifestName))
	if err != nil {
		return nil, err
	}
	return bundle.Parse(data)
}

// verify checks checksum and, with public_key_path, the signature.
func (s *APIs) verify(m *bundle.Manifest, dir string) error {
	var key *rsa.PublicKey
	if s.conf.PublicKeyPath != "" {
		if m.Signature == "" {
			//lint:ignore ST1005 the gateway's words
			return errors.New("Bundle isn't signed")
		}
		data, err := os.ReadFile(s.conf.PublicKeyPath)
		if err == nil {
			key, err = bundle.ParsePublicKey(data)
		}
		if err != nil {
			return err
		}
	}
	// A zip of the directory with the manifest's own sums meets or fails the same.
	sum := md5.New()
	for _, f := range m.FileList {
		data, err := os.ReadFile(filepath.Join(dir, f))
		if err != nil {
			return err
		}
		_, _ = sum.Write(data)
	}
	if hex.EncodeToString(sum.Sum(nil)) != m.Checksum {
		//lint:ignore ST1005 the gateway's words
		return errors.New("Invalid checksum")
	}
	if key != nil {
		return verifySignature(key, m, dir)
	}
	return nil
}

// fetch downloads and unpacks a bundle within the gateway's five seconds.
func (s *APIs) fetch(name, dir string) error {
	c := s.conf
	if !c.Downloader {
		s.logf("warning", "Bundle downloader is disabled.", "prefix", "main")
		//lint:ignore ST1005 the gateway's words
		return errors.New("Bundle downloader is disabled")
	}
	if c.BundleBaseURL == "" {
		//lint:ignore ST1005 the gateway's words
		return errors.New("No bundle base URL set, skipping bundle")
	}
	u, err := url.Parse(c.BundleBaseURL)
	if err != nil {
		return err
	}
	u.Path = path.Join(u.Path, name)
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("HTTP Error, got status code %d", resp.StatusCode)
	}
	data, err := io.ReadAll(io.LimitReader(resp.Body, 64<<20))
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	return unzip(data, dir)
}

func read(path string) ([]byte, error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return bytes.TrimSpace(data), err
}
