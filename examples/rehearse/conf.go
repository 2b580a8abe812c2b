package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"example.com/tykupgrade/internal/lazyregexp"
)

// readConf decodes a tyk.conf. Numbers stay as they are written.
func readConf(data []byte) (map[string]any, error) {
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	var conf map[string]any
	if err := d.Decode(&conf); err != nil {
		return nil, fmt.Errorf("not a JSON object: %w", err)
	}
	if _, err := d.Token(); err != io.EOF {
		return nil, fmt.Errorf("more follows the JSON object")
	}
	return conf, nil
}

// moved converts a user's document for the rehearsal. Every address becomes one of the rehearsal
// and every path one below its directory, and all secrets are removed.
type moved struct {
	dir      string // where files and paths go
	upstream string // host:port that takes the place of other systems
	changed  []string
}

var (
	secretKey = lazyregexp.New(
		`(?i)secret|password|passwd|token|licen[cs]e|api_?key|private|credential|dsn`)
	hostPort = lazyregexp.New(`^\[?[A-Za-z0-9_.:-]+\]?:\d{1,5}$`)
	hostKey  = lazyregexp.New(
		`(?i)^(host|hosts|hostname|addr|addrs|address|server|servers|endpoint|domain|.*_host|.*_addr|.*_address|.*_hostname|.*_endpoint)$`)
)

func (m *moved) note(at, what string) { m.changed = append(m.changed, at+" ("+what+")") }

// value returns the replacement of v.
func (m *moved) value(at, key string, v any) any {
	switch v := v.(type) {
	case map[string]any:
		out := map[string]any{}
		for _, k := range slices.Sorted(maps.Keys(v)) {
			out[k] = m.value(strings.TrimPrefix(at+"."+k, "."), k, v[k])
		}
		return out
	case []any:
		out := make([]any, len(v))
		for i := range v {
			out[i] = m.value(fmt.Sprintf("%s[%d]", at, i), key, v[i])
		}
		return out
	case string:
		return m.text(at, key, v)
	}
	return v
}

func (m *moved) text(at, key, s string) string {
	if s == "" {
		return s
	}
	if u, err := url.Parse(s); err == nil && u.Scheme != "" && u.Host != "" {
		m.note(at, "address")
		u.Host, u.User, u.RawQuery = m.upstream, nil, ""
		if u.Scheme != "http" && u.Scheme != "https" {
			return u.Scheme + "://" + m.upstream
		}
		u.Scheme = "http" // what answers there has no certificate
		return u.String()
	}
	switch {
	case strings.Contains(s, "://"): // an address that cannot be read
		m.note(at, "address")
		return "http://" + m.upstream
	case secretKey.MatchString(key):
		m.note(at, "secret")
		return "rehearsal"
	case strings.HasPrefix(s, "-----BEGIN"):
		m.note(at, "key")
		return ""
	case filepath.IsAbs(s) && !strings.HasPrefix(at, "proxy.listen_path") && !routes[key]:
		m.note(at, "path")
		return m.file(s)
	case hostPort.MatchString(s), hostKey.MatchString(key) && s != "0.0.0.0":
		m.note(at, "address")
		host, _, _ := net.SplitHostPort(m.upstream)
		if hostPort.MatchString(s) {
			return m.upstream
		}
		return host
	}
	return s
}

// routes are keys whose value begins with a slash and is part of a URL.
var routes = map[string]bool{"listen_path": true, "path": true, "listenPath": true, "value": true,
	"route":         true,
	"endpoint_name": true, "match_pattern": true, "rewrite_to": true, "control_api_hostname": true}

// file copies a readable file into the directory. It only names an unreadable one there.
func (m *moved) file(path string) string {
	sum := sha256.Sum256([]byte(path))
	to := filepath.Join(m.dir, fmt.Sprintf("%x-%s", sum[:4], filepath.Base(path)))
	info, err := os.Stat(path)
	if err == nil && info.Mode().IsRegular() && info.Size() < 1<<20 {
		if data, err := os.ReadFile(path); err == nil {
			_ = os.WriteFile(to, data, 0o600)
		}
	}
	return to
}

// gatewayConf are the parts of a configuration that a rehearsal decides.
type gatewayConf struct {
	dir, templates   string
	port, secret     string
	redisHost        string
	redisPort        json.Number
	bundles          string // bundle_base_url
	apps, middleware string
	upstream         string
}

// rewrite makes the configuration of a rehearsed gateway out of a user's, or of an empty one, and
// says what it changed.
func (g gatewayConf) rewrite(conf map[string]any) ([]byte, []string, error) {
	m := &moved{dir: filepath.Join(g.dir, "files"), upstream: g.upstream}
	if err := os.MkdirAll(m.dir, 0o700); err != nil {
		return nil, nil, err
	}
	key, _ := conf["public_key_path"].(string)
	out, _ := m.value("", "", conf).(map[string]any)
	if out == nil {
		out = map[string]any{}
	}
	// Settings that lead to other systems, or need parts that a rehearsal lacks.
	for _, name := range []string{"slave_options", "db_app_conf_options", "cache_storage",
		"separate_analytics_storage", "analytics_storage",
		"tracing", "newrelic", "kv", "auth_override", "external_services", "monitor", "event_handlers",
		"syslog_transport", "syslog_network_addr", "logstash_transport", "logstash_network_addr",
		"graylog_network_addr",
		"sentry_code", "statsd_connection_string", "pid_file_location", "control_api_port",
		"control_api_hostname", "hostname"} {
		if _, ok := out[name]; ok {
			delete(out, name)
			m.note(name, "removed")
		}
	}
	for name, value := range map[string]any{
		"listen_address": "127.0.0.1", "listen_port": json.Number(g.port), "secret": g.secret,
		"node_secret":   g.secret,
		"template_path": g.templates, "app_path": g.apps, "middleware_path": g.middleware,
		"tyk_js_path":        filepath.Join(g.dir, "tyk.js"),
		"use_db_app_configs": false, "policies": map[string]any{"policy_source": "file",
			"policy_record_name": filepath.Join(g.dir, "policies.json")},
		"storage": map[string]any{"type": "redis", "host": g.redisHost,
			"port": g.redisPort, "database": 0},
		"enable_separate_cache_store": false, "enable_separate_analytics_store": false,
		"enable_analytics": false,
		"use_syslog":       false, "use_logstash": false, "use_graylog": false, "use_sentry": false,
		"suppress_redis_signal_reload": true,
		"uptime_tests":                 map[string]any{"disable": true}, "opentelemetry": map[string]any{
			"enabled": false},
		"enable_bundle_downloader": true, "bundle_base_url": g.bundles, "allow_insecure_configs": true,
	} {
		out[name] = value
	}
	if server, ok := out["http_server_options"].(map[string]any); ok {
		server["use_ssl"], server["certificates"], server["ssl_certificates"] = false, []any{}, []any{}
	}
	if security, ok := out["security"].(map[string]any); ok {
		delete(security, "control_api_use_mutual_tls")
	}
	delete(out, "public_key_path")
	if key != "" {
		if _, err := os.ReadFile(key); err != nil {
			return nil, nil, fmt.Errorf("public_key_path of the configuration: %w", err)
		}
		out["public_key_path"] = m.file(key)
	}
	data, err := json.MarshalIndent(out, "", "  ")
	slices.Sort(m.changed)
	return append(data, '\n'), m.changed, err
}

// rewriteAPI is a definition whose upstreams and other addresses are the rehearsal's.
func rewriteAPI(data []byte, dir, upstream string) ([]byte, error) {
	doc, err := readConf(data)
	if err != nil {
		return nil, err
	}
	delete(doc, "domain")
	m := &moved{dir: dir, upstream: upstream}
	return json.Marshal(m.value("", "", doc))
}
