package tyk

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"example.com/tykupgrade/bundle"
)

// APIs is a gateway that serves the API definitions of its app_path with the
// plugins of their bundles. It answers health as the [Stub] in it.
type APIs struct {
	*Stub
	conf Conf
	next http.Handler // what the APIs proxy to
	log  logger

	mu      sync.Mutex
	version string
	process *process
}

// NewAPIs returns a gateway that has just started. Options.Upstream is what its
// APIs proxy to.
func NewAPIs(o Options, c Conf) *APIs {
	if c.MiddlewarePath == "" {
		c.MiddlewarePath = filepath.Join(filepath.Dir(filepath.Clean(c.AppPath)), "middleware")
	}
	s := &APIs{conf: c, next: o.Upstream, version: o.Version, log: logger{w: c.Log,
		format: c.LogFormat}}
	if s.next == nil {
		s.next = http.HandlerFunc(Echo)
	}
	o.Kind, o.Upstream = Gateway, http.HandlerFunc(s.serve)
	s.Stub = New(o)
	s.reload()
	return s
}

// Restart makes it a new process of the given version: no plugin is loaded but
// those that it loads at its start.
func (s *APIs) Restart(version string) {
	s.mu.Lock()
	s.version, s.process = version, nil
	s.reload()
	s.mu.Unlock()
	s.Stub.Restart(version)
}

// serve answers everything but health.
func (s *APIs) serve(w http.ResponseWriter, r *http.Request) {
	if !s.serveGatewayAPI(w, r) {
		s.servePlugins(w, r)
	}
}

// Conf is what a stub reads of a tyk.conf when it serves API definitions of its
// own.
type Conf struct {
	AppPath        string `json:"app_path"`
	MiddlewarePath string `json:"middleware_path"` // "": AppPath/../middleware
	Downloader     bool   `json:"enable_bundle_downloader"`
	BundleBaseURL  string `json:"bundle_base_url"`
	PublicKeyPath  string `json:"public_key_path"`
	SkipVerify     bool   `json:"skip_verify_existing_plugin_bundle"`
	Secret         string `json:"secret"` // of the gateway API
	LogFormat      string `json:"log_format"`
	UseDashboard   bool   `json:"use_db_app_configs"` // writes through the gateway API are refused

	Log io.Writer `json:"-"` // the gateway's log; nil: none
}

func (s *APIs) logf(level, message string, fields ...string) {
	s.log.write(s.version, time.Now(), level, message, fields...)
}

// definition is what the stub understands of an API definition.
type definition struct {
	ID       string            `json:"api_id"`
	Inactive bool              `json:"-"`
	Active   *bool             `json:"active"`
	IsOAS    bool              `json:"is_oas"`
	Bundle   string            `json:"custom_middleware_bundle"`
	Disabled bool              `json:"custom_middleware_bundle_disabled"`
	MW       bundle.Middleware `json:"custom_middleware"`
	Proxy    struct {
		Listen string `json:"listen_path"`
	} `json:"proxy"`
}

// reload reads app_path again, in the order of the file names. A plugin that the
// process has open stays open.
func (s *APIs) reload() {
	if s.process == nil {
		s.process = &process{opened: map[string]string{}, failed: map[string]error{},
			digests: map[string]string{}}
	}
	files, _ := filepath.Glob(filepath.Join(s.conf.AppPath, "*.json"))
	slices.Sort(files)
	var apis []*api
	for _, file := range files {
		if strings.HasSuffix(file, "-oas.json") {
			continue
		}
		data, err := read(file)
		var d definition
		if err != nil || json.Unmarshal(data, &d) != nil {
			s.logf("error", "Couldn't unmarshal api configuration: "+file, "prefix", "api")
			continue
		}
		a := &api{id: d.ID, listen: d.Proxy.Listen, oas: d.IsOAS, doc: data}
		if d.Active != nil && !*d.Active {
			continue
		}
		if d.Bundle != "" && !d.Disabled {
			err = s.load(a, d.Bundle)
		} else {
			s.open(a, d.MW)
		}
		if err == nil {
			apis = append(apis, a)
		}
	}
	s.process.apis = apis
	s.logf("info", "API reload complete", "prefix", "main")
}

// servePlugins answers for the definitions of app_path.
func (s *APIs) servePlugins(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	version := s.version
	var found *api
	for _, a := range s.process.apis {
		if strings.HasPrefix(r.URL.Path, a.listen) && (found == nil ||
			len(a.listen) > len(found.listen)) {
			found = a
		}
	}
	s.mu.Unlock()
	if found == nil {
		http.NotFound(w, r)
		return
	}
	for _, h := range found.hooks {
		switch {
		case h.file != "":
			r = r.Clone(r.Context())
			r.Header.Set("Foo", "Bar")
			w.Header().Set("Foo", "Bar")
			w.Header().Add("X-Plugin-File", h.file)
			w.Header().Add("X-Plugin-Digest", h.digest)
		// A response plugin that is missing is skipped by every release.
		case !h.response && !passesWithoutPlugin(version):
			writeJSON(w, http.StatusInternalServerError, map[string]string{
				"error": http.StatusText(http.StatusInternalServerError)})
			return
		}
	}
	s.next.ServeHTTP(w, r)
}

// serveGatewayAPI is /tyk/…, for those who know the secret.
func (s *APIs) serveGatewayAPI(w http.ResponseWriter, r *http.Request) bool {
	rest, ok := strings.CutPrefix(r.URL.Path, "/tyk/")
	if !ok {
		return false
	}
	if s.conf.Secret == "" || r.Header.Get("X-Tyk-Authorization") != s.conf.Secret {
		writeJSON(w, http.StatusForbidden, apiError("Attempted administrative access with invalid or "+
			"missing key!"))
		return true
	}
	rest = strings.Trim(rest, "/")
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case rest == "reload" && r.Method == http.MethodGet:
		s.reload()
		writeJSON(w, http.StatusOK, map[string]string{"status": "ok", "message": ""})
	case rest == "apis" && r.Method == http.MethodGet:
		all := []json.RawMessage{}
		for _, a := range s.process.apis {
			all = append(all, a.shown())
		}
		writeJSON(w, http.StatusOK, all)
	case strings.HasPrefix(rest, "apis/oas/"):
		s.definition(w, r, strings.TrimPrefix(rest, "apis/oas/"), true)
	case strings.HasPrefix(rest, "apis/"):
		s.definition(w, r, strings.TrimPrefix(rest, "apis/"), false)
	default:
		http.NotFound(w, r)
	}
	return true
}

// shown is the definition as the gateway's structs give it back: with the
// middleware of the bundle in it.
func (a *api) shown() json.RawMessage {
	if a.manifest == nil {
		return a.doc
	}
	fields := map[string]json.RawMessage{}
	if json.Unmarshal(a.doc, &fields) != nil {
		return a.doc
	}
	fields["custom_middleware"] = a.manifest
	out, _ := json.Marshal(fields)
	return out
}

// definition reads or replaces one API, its OAS form if oas.
func (s *APIs) definition(w http.ResponseWriter, r *http.Request, id string, oas bool) {
	i := slices.IndexFunc(s.process.apis, func(a *api) bool { return a.id == id })
	if i < 0 {
		writeJSON(w, http.StatusNotFound, apiError("API not found"))
		return
	}
	a := s.process.apis[i]
	file := filepath.Join(s.conf.AppPath, id+".json")
	if oas {
		file = filepath.Join(s.conf.AppPath, id+"-oas.json")
	}
	switch {
	case oas && !a.oas:
		writeJSON(w, http.StatusBadRequest, apiError("the requested API definition is in Tyk classic "+
			"format, please use old endpoint"))
	case r.Method == http.MethodGet && oas:
		data, err := read(file)
		if err != nil || data == nil {
			writeJSON(w, http.StatusNotFound, apiError("API not found"))
			return
		}
		writeJSON(w, http.StatusOK, json.RawMessage(data))
	case r.Method == http.MethodGet:
		writeJSON(w, http.StatusOK, a.shown())
	case r.Method != http.MethodPut:
		writeJSON(w, http.StatusMethodNotAllowed, apiError("Method not supported"))
	case s.conf.UseDashboard:
		writeJSON(w, http.StatusMethodNotAllowed, apiError("Due to enabled use_db_app_configs, please "+
			"use the Dashboard API"))
	case !oas && a.oas:
		writeJSON(w, http.StatusBadRequest, apiError("this API endpoint only supports Tyk Classic APIs"))
	default:
		if err := s.replace(r, a, file, oas); err != nil {
			writeJSON(w, http.StatusBadRequest, apiError(err.Error()))
			return
		}
		writeJSON(w, http.StatusOK, map[string]string{"key": id, "status": "ok", "action": "modified"})
	}
}

// lost are fields that a gateway does not know. It drops them when it writes a
// definition that somebody sent.
var lost = []string{"x_unknown", "hook_references"}

func (s *APIs) replace(r *http.Request, a *api, file string, oas bool) error {
	data, err := io.ReadAll(io.LimitReader(r.Body, 1<<20))
	if err != nil {
		return err
	}
	fields := map[string]json.RawMessage{}
	if err := json.Unmarshal(data, &fields); err != nil {
		//lint:ignore ST1005 the gateway's words
		return fmt.Errorf("Request malformed")
	}
	maps.DeleteFunc(fields, func(name string, _ json.RawMessage) bool {
		return slices.Contains(lost,
			name)
	})
	out, err := json.MarshalIndent(fields, "", "  ")
	if err != nil {
		return err
	}
	if err := os.WriteFile(file, out, 0o644); err != nil || !oas {
		return err
	}
	// The classic twin follows.
	var o struct {
		Tyk struct {
			Middleware struct {
				Global struct {
					PluginConfig struct {
						Bundle struct {
							Enabled bool   `json:"enabled"`
							Path    string `json:"path"`
						} `json:"bundle"`
					} `json:"pluginConfig"`
				} `json:"global"`
			} `json:"middleware"`
		} `json:"x-tyk-api-gateway"`
	}
	classic := map[string]json.RawMessage{}
	if err := json.Unmarshal(data, &o); err != nil {
		return err
	}
	if err := json.Unmarshal(a.doc, &classic); err != nil {
		return err
	}
	b := o.Tyk.Middleware.Global.PluginConfig.Bundle
	classic["custom_middleware_bundle"], _ = json.Marshal(b.Path)
	classic["custom_middleware_bundle_disabled"], _ = json.Marshal(!b.Enabled)
	if out, err = json.MarshalIndent(classic, "", "  "); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(s.conf.AppPath, a.id+".json"), out, 0o644)
}
