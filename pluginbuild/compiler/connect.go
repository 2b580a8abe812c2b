package compiler

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	cliconfig "github.com/docker/cli/cli/config"
	"github.com/docker/cli/cli/config/configfile"
	"github.com/docker/cli/cli/connhelper"
	"github.com/docker/cli/cli/context/store"
	"github.com/docker/docker/client"
)

// ConnectOptions selects an engine. The zero value selects it as the docker command does:
// DOCKER_HOST, DOCKER_CONTEXT, the current context of config.json, the local socket.
type ConnectOptions struct {
	Host      string // unix:///run/docker.sock, tcp://host:2376, ssh://user@host
	Context   string // name of a docker context; not together with Host
	ConfigDir string // empty: $DOCKER_CONFIG, or ~/.docker
}

// Connect returns a client for an engine, with version negotiation. It reads configuration files
// but does not connect; the first call of a [Builder] does. TLS settings come from the context,
// or from DOCKER_TLS_VERIFY and DOCKER_CERT_PATH (default ConfigDir). For an ssh:// host each API
// call runs the system's ssh with `docker system dial-stdio`. So ssh's keys, agent and
// configuration apply.
//
// The error is an [Error] of [StageConnect]; a retry does not help. Close the client after use.
func Connect(o ConnectOptions) (*client.Client, error) {
	c, err := connect(o)
	if err != nil {
		object := o.Host
		if object == "" && o.Context != "" {
			object = "context " + o.Context
		}
		if object == "" {
			object = "the Docker engine"
		}
		return nil, &Error{Op: StageConnect, Object: object, Err: err}
	}
	return c, nil
}

func connect(o ConnectOptions) (*client.Client, error) {
	if o.Host != "" && o.Context != "" {
		return nil, errors.New("both a host and a context are set; choose one")
	}
	opts := []client.Opt{client.WithAPIVersionNegotiation(), client.WithVersionFromEnv()}
	host, name := o.Host, o.Context
	if host == "" && (name == "" || name == "default") {
		host = os.Getenv("DOCKER_HOST")
	}
	if host == "" && name == "" {
		if name = os.Getenv("DOCKER_CONTEXT"); name == "" {
			config, err := loadConfig(o.ConfigDir)
			if err != nil {
				return nil, err
			}
			name = config.CurrentContext
		}
	}
	if name != "" && name != "default" {
		endpoint, transport, err := readContext(configDir(o.ConfigDir), name)
		if err != nil {
			return nil, err
		}
		host = fullHost(endpoint)
		if transport != nil {
			opts = append(opts, client.WithHTTPClient(&http.Client{Transport: transport,
				CheckRedirect: client.CheckRedirect}))
		}
	} else {
		host = fullHost(host)
		opts = append(opts, tlsFromEnv(host, configDir(o.ConfigDir)))
	}
	if host == "" {
		return client.NewClientWithOpts(opts...)
	}
	helper, err := connhelper.GetConnectionHelper(host)
	if err != nil {
		return nil, err
	}
	if helper != nil {
		opts = append(opts,
			client.WithHTTPClient(&http.Client{Transport: &http.Transport{DialContext: helper.Dialer}}),
			client.WithHost(helper.Host), client.WithDialContext(helper.Dialer))
	} else {
		opts = append(opts, client.WithHost(host))
	}
	return client.NewClientWithOpts(opts...)
}

// tlsFromEnv extends the client's own function, which omits TLS if DOCKER_TLS_VERIFY is set
// without DOCKER_CERT_PATH. The docker command then takes certificates from its configuration
// directory.
func tlsFromEnv(host, configDir string) client.Opt {
	if os.Getenv(client.EnvTLSVerify) == "" || os.Getenv(client.EnvOverrideCertPath) != "" ||
		!strings.HasPrefix(host, "tcp://") {
		return client.WithTLSClientConfigFromEnv()
	}
	cert, key := filepath.Join(configDir, "cert.pem"), filepath.Join(configDir, "key.pem")
	if _, err := os.Stat(cert); errors.Is(err, fs.ErrNotExist) {
		cert, key = "", "" // the engine may not need a client certificate
	}
	return client.WithTLSClientConfig(filepath.Join(configDir, "ca.pem"), cert, key)
}

// fullHost completes an address as the docker command does.
func fullHost(host string) string {
	host = strings.TrimSpace(host)
	scheme, rest, ok := strings.Cut(host, "://")
	if !ok {
		scheme, rest = "tcp", host
	}
	address, path, _ := strings.Cut(rest, "/")
	switch {
	case host == "", host == "unix://":
		return ""
	case scheme != "tcp":
		return host
	}
	if u, err := url.Parse("tcp://" + address); err == nil && u.Port() == "" {
		address = net.JoinHostPort(u.Hostname(), "2375")
	}
	return strings.TrimSuffix("tcp://"+address+"/"+path, "/")
}

func configDir(dir string) string {
	if dir == "" {
		dir = os.Getenv("DOCKER_CONFIG")
	}
	if dir == "" {
		if home, err := os.UserHomeDir(); err == nil {
			dir = filepath.Join(home, ".docker")
		}
	}
	return dir
}

// readContext returns the address of a docker context, and a transport if the context has TLS
// settings.
func readContext(configDir, name string) (string, *http.Transport, error) {
	const endpoint = "docker"
	type meta struct {
		Host          string
		SkipTLSVerify bool
	}
	s := store.New(filepath.Join(configDir, "contexts"), store.NewConfig(
		func() any { return &map[string]any{} },
		store.EndpointTypeGetter(endpoint, func() any { return &meta{} })))
	data, err := s.GetMetadata(name)
	if err != nil {
		return "", nil, fmt.Errorf("read docker context %q: %w", name, err)
	}
	m, ok := data.Endpoints[endpoint].(meta)
	if !ok || m.Host == "" {
		return "", nil, fmt.Errorf("read docker context %q: it names no Docker engine", name)
	}
	files, err := s.ListTLSFiles(name)
	if err != nil {
		return "", nil, fmt.Errorf("read docker context %q: TLS files: %w", name, err)
	}
	if len(files[endpoint]) == 0 && !m.SkipTLSVerify {
		return m.Host, nil, nil
	}
	config := &tls.Config{MinVersion: tls.VersionTLS12, InsecureSkipVerify: m.SkipTLSVerify}
	pem := map[string][]byte{}
	for _, file := range files[endpoint] {
		if pem[file], err = s.GetTLSData(name, endpoint, file); err != nil {
			return "", nil, fmt.Errorf("read docker context %q: %w", name, err)
		}
	}
	if ca := pem["ca.pem"]; ca != nil {
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(ca) {
			return "", nil, fmt.Errorf("read docker context %q: no certificate in its ca.pem", name)
		}
	}
	if pem["cert.pem"] != nil {
		pair, err := tls.X509KeyPair(pem["cert.pem"], pem["key.pem"])
		if err != nil {
			return "", nil, fmt.Errorf("read docker context %q: client certificate: %w", name, err)
		}
		config.Certificates = []tls.Certificate{pair}
	}
	return m.Host, &http.Transport{TLSClientConfig: config}, nil
}

func loadConfig(dir string) (*configfile.ConfigFile, error) {
	config, err := cliconfig.Load(configDir(dir))
	if err != nil {
		return nil, fmt.Errorf("%w; fix that file, or set DOCKER_CONFIG to another directory", err)
	}
	return config, nil
}

// Credentials are the credentials for a registry. The zero value means anonymous access.
type Credentials struct {
	Username, Password string
	IdentityToken      string // from docker login of a registry that issues one
	RegistryToken      string // bearer token
	ServerAddress      string // as config.json names the registry
}

func (c Credentials) anonymous() bool {
	c.ServerAddress = ""
	return c == Credentials{}
}

// AuthFunc returns the credentials for a registry. The registry has its name in config.json:
// "https://index.docker.io/v1/" for Docker Hub, otherwise host[:port].
type AuthFunc func(ctx context.Context, registry string) (Credentials, error)

// ConfigAuth reads credentials from config.json in dir, also through credential helpers. An
// empty dir is as in [ConnectOptions].
func ConfigAuth(dir string) AuthFunc {
	return func(ctx context.Context, host string) (Credentials, error) {
		type answer struct {
			auth Credentials
			err  error
		}
		// Helpers cannot be cancelled, and may wait for a person.
		got := make(chan answer, 1)
		go func() {
			config, err := loadConfig(dir)
			if err != nil {
				got <- answer{err: err}
				return
			}
			a, err := config.GetAuthConfig(host)
			if err != nil {
				err = fmt.Errorf("read credentials for %s from %s: %w", host, config.Filename, err)
			}
			got <- answer{Credentials{
				Username: a.Username, Password: a.Password, ServerAddress: a.ServerAddress,
				IdentityToken: a.IdentityToken, RegistryToken: a.RegistryToken,
			}, err}
		}()
		select {
		case a := <-got:
			return a.auth, a.err
		case <-ctx.Done():
			return Credentials{}, ended(ctx)
		}
	}
}

// WithProxies adds to env, for [Options].Env, the proxy variables of config.json, as docker run
// does for containers (docker CLI 28). dir is the directory of config.json; empty is as in
// [ConnectOptions]. host is a client's DaemonHost. Settings for that engine take precedence over
// those for all engines. A variable in env, in capitals or not, takes precedence over both. The
// values may have passwords, which anybody can see who can inspect the container.
func WithProxies(env map[string]string, dir, host string) (map[string]string, error) {
	config, err := loadConfig(dir)
	if err != nil {
		return nil, &Error{Op: StageConnect, Object: "the Docker engine", Err: err}
	}
	all := map[string]string{}
	for name, value := range config.ParseProxyConfig(host, nil) {
		all[name] = *value
	}
	for name := range env {
		delete(all, strings.ToUpper(name))
		delete(all, strings.ToLower(name))
	}
	maps.Copy(all, env)
	return all, nil
}
