package installation

import (
	"io"
	"os"
	"path/filepath"
	"time"

	"go.yaml.in/yaml/v3"

	"example.com/tykupgrade/bundle"
	"example.com/tykupgrade/debpkg/fleet"
)

// File describes an upgrade. It has the inventory of package fleet, the plugins and bundles, and
// the backup. [File.Check] fills in defaults. Paths are relative to the file's directory.
type File struct {
	fleet.Inventory `yaml:",inline"`

	Plugin *Plugin `yaml:"plugin"` // Go plugins of the gateways; none: they have none
	// several bundles, or one with several plugins; the section plugin can describe only one of
	// each
	Bundles []Bundle `yaml:"bundles"`
	Switch  Switch   `yaml:"switch"` // how the gateways get the new bundles
	// where the API definitions are; none: what they use is not checked
	APIs   *APIs   `yaml:"apis"`
	Backup *Backup `yaml:"backup"` // what to back up before the first host; none: nothing

	dir string // the directory of the file
}

// Plugin has what all Go plugins share. If there is only one, it also has its build and hook.
type Plugin struct {
	From string `yaml:"from"` // the present version of the gateways

	Build    `yaml:",inline"` // of the only plugin
	Function `yaml:",inline"` // of the only bundle

	Releases   string `yaml:"releases"`    // JSON file with a release that the table lacks
	Repo       string `yaml:"repo"`        // repository to ask for the commit of an unknown release
	ReleaseMod string `yaml:"release_mod"` // go.mod of that release's tag

	// the gateway of the new version, to check plugins against: its binary, .deb, or image:REF
	Gateway string `yaml:"gateway"`
	Distro  string `yaml:"distro"` // distribution of the gateway hosts, such as debian/12, to check glibc

	Compiler Compiler `yaml:"compiler"` // the compiler image and its engine
	Bundle   Server   `yaml:"bundle"`   // where bundles are written and served
}

// Build is one plugin: its present build, and its new build or the source of that.
type Build struct {
	Current string `yaml:"current"` // the .so for the present version, for the bundle
	Running string `yaml:"running"` // the .so that the gateways have loaded, if it is another one
	Source  string `yaml:"source"`  // module to compile for the new version
	So      string `yaml:"so"`      // the compiled .so of the new version, instead of source
	Prepare bool   `yaml:"prepare"` // adapt the module's go.mod to the release first
}

// Function sets which function of a plugin the gateway calls.
type Function struct {
	Manifest string `yaml:"manifest"` // manifest.json of the present bundle
	Symbol   string `yaml:"symbol"`   // function of the plugin, instead of manifest
	// where symbol runs: pre, auth_check, post_key_auth, post or response
	Hook string `yaml:"hook"`
}

// Bundle is one bundle with its plugins.
type Bundle struct {
	Name     string  `yaml:"name"`    // its name in custom_middleware_bundle, such as orders.zip
	New      string  `yaml:"new"`     // its new name, for every switch but same_name
	Plugins  []Build `yaml:"plugins"` // the plugins in the bundle
	Function `yaml:",inline"`
}

// Compiler sets the compiler image and the engine that runs it.
type Compiler struct {
	Host    string   `yaml:"host"`    // address of the Docker engine
	Context string   `yaml:"context"` // docker context instead of host
	Image   string   `yaml:"image"`   // image instead of the official one
	Digest  string   `yaml:"digest"`  // digest that the image must have
	Tar     string   `yaml:"tar"`     // file of docker save instead of a registry
	Pull    string   `yaml:"pull"`    // missing, always or never
	EL7     bool     `yaml:"el7"`     // the variant for old glibc
	Env     []string `yaml:"env"`     // names of variables to pass on, such as GOPROXY
	Netrc   string   `yaml:"netrc"`   // file with credentials for private modules
	Mounts  []string `yaml:"mounts"`  // further mounts, host:container
	Network string   `yaml:"network"` // network of the container
	Caches  string   `yaml:"caches"`  // prefix of the volumes for Go's caches, or none
}

// Server sets where bundles are written, and how they get to the bundle server.
type Server struct {
	Dir string `yaml:"dir"` // directory for builds and bundles
	// name of the only bundle in custom_middleware_bundle, such as orders.zip
	Name string `yaml:"name"`
	Key  string `yaml:"key"` // file with the RSA key that signs bundles; empty: they are not signed
	// file with a public RSA key; a bundle is published only with its detached signature
	VerifyKey string   `yaml:"verify_key"`
	Serve     string   `yaml:"serve"`   // directory of a bundle server on this machine
	Publish   []string `yaml:"publish"` // command that publishes {file} as {name}, instead of serve
	// bundle_base_url of the gateways; it must have the bundle before the first host is changed
	URL string `yaml:"url"`
}

// Switch sets how gateways get the new bundle. In YAML it is a mode alone, or a mapping.
type Switch struct {
	Mode bundle.Mode `yaml:"mode"` // same_name (default), unique_path, blue_green, new_name
	// the new name of the only bundle, for every mode but same_name
	New string `yaml:"new"`
	// command that changes {from} to {to} in the APIs, instead of the section apis
	Rename []string `yaml:"rename"`
	Force  bool     `yaml:"force"`  // allow a switch that interrupts traffic
	Config string   `yaml:"config"` // tyk.conf on the gateway hosts; empty: Tyk's
	// IDs of the APIs, without the section apis, because gateways 3.0.0 to 3.2.2 and 4.0.0
	// cache by API
	APIs []string `yaml:"apis"`
}

// UnmarshalYAML reads a mode alone, or a mapping.
func (s *Switch) UnmarshalYAML(n *yaml.Node) error {
	if n.Kind == yaml.ScalarNode {
		s.Mode = bundle.Mode(n.Value)
		return nil
	}
	type plain Switch
	return fleet.DecodeNode(n, (*plain)(s))
}

func (s Switch) sameName() bool { return s.Mode == "" || s.Mode == bundle.SameName }

// APIs sets where the API definitions are. It has one of dashboard, gateway and directory.
type APIs struct {
	Dashboard string   `yaml:"dashboard"` // URL of a dashboard
	Keys      []Secret `yaml:"keys"`      // a user's API key for each organisation, for dashboard
	Gateway   string   `yaml:"gateway"`   // URL of a gateway without a dashboard
	Secret    Secret   `yaml:"secret"`    // secret of its tyk.conf, for gateway
	Directory string   `yaml:"directory"` // app_path on this machine
	// CA certificate of the server; empty: those of the system
	CA string `yaml:"ca"`
}

// Backup sets what a set contains and where it is kept.
type Backup struct {
	Dir string `yaml:"dir"` // directory of the sets
	// paths on every host; empty: Tyk's configuration and what its packages overwrite
	Paths []string `yaml:"paths"`
	Redis *Redis   `yaml:"redis"` // the Redis of the stack
	Mongo *Mongo   `yaml:"mongo"` // the MongoDB of the dashboard

	Postgres *Postgres `yaml:"postgres"` // the PostgreSQL of the dashboard or of pumps
	// databases that somebody else backs up: redis, mongo, postgres, mysql
	External []string `yaml:"external"`

	// OpenSSH key that signs new sets; empty: they are not signed
	Sign string `yaml:"sign"`
	// public keys, one of which must have signed a set that is used or restored
	RequireSignature string `yaml:"require_signature"`

	// an existing set to use instead of a new one: its ID, its directory, or latest
	Set   string         `yaml:"set"`
	Fresh fleet.Duration `yaml:"fresh"` // how old an existing set may be; 0: a day

	Keep   int            `yaml:"keep"`    // how many sets to keep; 0: all
	MaxAge fleet.Duration `yaml:"max_age"` // removes older sets; 0: none
}

// Redis is the Redis of the stack.
type Redis struct {
	URI `yaml:",inline"`
	// authority that signed the server's certificate; empty: one of the system's
	CA     string `yaml:"ca"`
	Cert   string `yaml:"cert"`   // the client's certificate; needs key
	Key    string `yaml:"key"`    // the key of cert
	Method string `yaml:"method"` // psync (default), bgsave, save or dump
	Proof  bool   `yaml:"proof"`  // load the copy into a scratch redis-server and compare all keys
}

// Mongo is the MongoDB of the dashboard.
type Mongo struct {
	URI       `yaml:",inline"`
	Databases []string `yaml:"databases"` // empty: tyk_analytics
}

// Postgres is the PostgreSQL of the dashboard or of pumps.
type Postgres struct {
	URI       `yaml:",inline"`
	Databases []string `yaml:"databases"` // empty: the one in the URI, otherwise tyk_analytics
	// directory of psql, pg_dump and pg_restore; empty: the newest of Debian's
	Bin string `yaml:"bin"`
}

// uris returns the connection URIs by the names of their sections.
func (b *Backup) uris() map[string]*URI {
	all := map[string]*URI{}
	if b.Redis != nil {
		all["redis"] = &b.Redis.URI
	}
	if b.Mongo != nil {
		all["mongo"] = &b.Mongo.URI
	}
	if b.Postgres != nil {
		all["postgres"] = &b.Postgres.URI
	}
	return all
}

// fresh returns how old an existing set may be.
func (b *Backup) fresh() time.Duration {
	if b == nil || b.Fresh == 0 {
		return 24 * time.Hour
	}
	return time.Duration(b.Fresh)
}

// LoadOptions change how a file is read. The zero value is useful.
type LoadOptions struct {
	Stdin  io.Reader                        // for the path "-"
	Lookup func(name string) (string, bool) // finds ${NAME}; nil: os.LookupEnv
}

// Load reads and checks the file at path. "-" is stdin. It replaces ${NAME} by the variable NAME,
// see fleet.Expand. The error is an [ErrFile] and reports all mistakes.
func Load(path string, o LoadOptions) (*File, error) {
	if o.Lookup == nil {
		o.Lookup = os.LookupEnv
	}
	data, err := fleet.Read(path, o.Stdin)
	if err != nil {
		return nil, err
	}
	f := &File{}
	if err = fleet.Decode(data, f); err == nil {
		if path != "-" {
			f.dir = filepath.Dir(path)
		}
		if err = fleet.Expand(f, o.Lookup); err == nil {
			err = f.Check()
		}
	}
	if err != nil {
		return nil, &Error{Op: "read", Object: path, Kind: ErrFile, Err: err}
	}
	return f, nil
}
