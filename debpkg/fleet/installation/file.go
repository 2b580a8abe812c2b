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

// File describes an upgrade: the inventory of package fleet, and what an upgrade needs in
// addition to hosts. [File.Check] fills in defaults. Paths are relative to the file.
type File struct {
	fleet.Inventory `yaml:",inline"`

	Plugin *Plugin `yaml:"plugin"` // Go plugins of the gateways; none: they have none
	// several bundles, or one with several plugins, instead of the one that plugin describes
	Bundles []Bundle `yaml:"bundles"`
	Switch  Switch   `yaml:"switch"` // how the gateways get the new bundles
	// where the API definitions are; none: nobody checks what they use
	APIs   *APIs   `yaml:"apis"`
	Backup *Backup `yaml:"backup"` // what is backed up before the first host; none: nothing

	dir string // of the file
}

// Plugin is what all Go plugins share, and the build and hook of the only one.
type Plugin struct {
	From string `yaml:"from"` // the gateways' version now

	Build    `yaml:",inline"` // of the only plugin
	Function `yaml:",inline"` // of the only bundle

	Releases   string `yaml:"releases"`    // JSON file with a release that the table lacks
	Repo       string `yaml:"repo"`        // repository to ask for the commit of an unknown release
	ReleaseMod string `yaml:"release_mod"` // go.mod of that release's tag

	// of the new version, to check plugins against: its binary, .deb, or image:REF
	Gateway string `yaml:"gateway"`
	Distro  string `yaml:"distro"` // of the gateway hosts, such as debian/12, to check glibc

	Compiler Compiler `yaml:"compiler"` // the compiler image and its engine
	Bundle   Server   `yaml:"bundle"`   // where bundles are made and served
}

// Build is one plugin: the build that the gateways have, and what the new one comes from.
type Build struct {
	Current string `yaml:"current"` // the .so for the present version that the bundle gets
	Running string `yaml:"running"` // the .so that the gateways have loaded, if that is another one
	Source  string `yaml:"source"`  // module to compile for the new version
	So      string `yaml:"so"`      // the compiled .so of the new version, instead of source
	Prepare bool   `yaml:"prepare"` // bring the module's go.mod to the release first
}

// Function says which function of a plugin a bundle makes the gateway call.
type Function struct {
	Manifest string `yaml:"manifest"` // manifest.json of the bundle that is in use
	Symbol   string `yaml:"symbol"`   // function of the plugin, instead of manifest
	// where symbol runs: pre, auth_check, post_key_auth, post or response
	Hook string `yaml:"hook"`
}

// Bundle is one bundle with its plugins.
type Bundle struct {
	Name     string  `yaml:"name"`    // as the APIs have it in custom_middleware_bundle: orders.zip
	New      string  `yaml:"new"`     // its new name, with every switch but same_name
	Plugins  []Build `yaml:"plugins"` // the builds that the bundle has
	Function `yaml:",inline"`
}

// Compiler is the image that compiles, and the engine that it runs on.
type Compiler struct {
	Host    string   `yaml:"host"`    // address of the Docker engine
	Context string   `yaml:"context"` // docker context instead of host
	Image   string   `yaml:"image"`   // image instead of the official one
	Digest  string   `yaml:"digest"`  // digest that the image must have
	Tar     string   `yaml:"tar"`     // file of docker save instead of a registry
	Pull    string   `yaml:"pull"`    // missing, always or never
	EL7     bool     `yaml:"el7"`     // the variant for old glibc
	Env     []string `yaml:"env"`     // names of variables that are passed on, such as GOPROXY
	Netrc   string   `yaml:"netrc"`   // file with credentials for private modules
	Mounts  []string `yaml:"mounts"`  // further mounts, host:container
	Network string   `yaml:"network"` // network of the container
	Caches  string   `yaml:"caches"`  // prefix of the volumes for Go's caches, or none
}

// Server is where bundles are made, and how they get to the bundle server.
type Server struct {
	Dir string `yaml:"dir"` // where builds and bundles are made
	// of the only bundle, as the APIs have it in custom_middleware_bundle: orders.zip
	Name string `yaml:"name"`
	Key  string `yaml:"key"` // file with the RSA key that signs bundles; empty: unsigned
	// file with a public RSA key; a bundle is published only with a detached signature of it
	VerifyKey string   `yaml:"verify_key"`
	Serve     string   `yaml:"serve"`   // directory that a bundle server on this machine serves
	Publish   []string `yaml:"publish"` // command that publishes {file} as {name}, instead of serve
	// bundle_base_url of the gateways; it must have the bundle before the first host is touched
	URL string `yaml:"url"`
}

// Switch is how gateways get the new bundle. In YAML it is a mode alone, or a mapping.
type Switch struct {
	Mode bundle.Mode `yaml:"mode"` // same_name (default), unique_path, blue_green, new_name
	// the new name of the only bundle, with every mode but same_name
	New string `yaml:"new"`
	// command that names it in the APIs, with {from} and {to}, instead of the section apis
	Rename []string `yaml:"rename"`
	Force  bool     `yaml:"force"`  // carry out a switch that takes traffic down
	Config string   `yaml:"config"` // tyk.conf on the gateway hosts; empty: Tyk's
	// API ids, without the section apis: gateways 3.0.0 to 3.2.2 and 4.0.0 cache by API
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

// APIs is the store of the API definitions: one of dashboard, gateway and directory.
type APIs struct {
	Dashboard string   `yaml:"dashboard"` // URL of a dashboard
	Keys      []Secret `yaml:"keys"`      // a user's API key for each organisation, for dashboard
	Gateway   string   `yaml:"gateway"`   // URL of a gateway without a dashboard
	Secret    Secret   `yaml:"secret"`    // secret of its tyk.conf, for gateway
	Directory string   `yaml:"directory"` // app_path on this machine
	// authority that signed the server's certificate; empty: one of the system's
	CA string `yaml:"ca"`
}

// Backup is what the set holds and where it is kept.
type Backup struct {
	Dir string `yaml:"dir"` // directory of the sets
	// on every host; empty: Tyk's configuration and what its packages overwrite
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

	// an existing set instead of a new one: its id, directory, or latest
	Set   string         `yaml:"set"`
	Fresh fleet.Duration `yaml:"fresh"` // how old an existing set may be; 0: a day

	Keep   int            `yaml:"keep"`    // so many sets stay; 0: all
	MaxAge fleet.Duration `yaml:"max_age"` // older ones go; 0: none
}

// Redis is the Redis of the stack.
type Redis struct {
	URI `yaml:",inline"`
	// authority that signed the server's certificate; empty: one of the system's
	CA     string `yaml:"ca"`
	Cert   string `yaml:"cert"`   // the client's certificate, with key
	Key    string `yaml:"key"`    // the key of cert
	Method string `yaml:"method"` // psync (default), bgsave, save or dump
	Proof  bool   `yaml:"proof"`  // load the copy into a scratch redis-server and compare every key
}

// Mongo is the MongoDB of the dashboard.
type Mongo struct {
	URI       `yaml:",inline"`
	Databases []string `yaml:"databases"` // empty: tyk_analytics
}

// Postgres is the PostgreSQL of the dashboard or of pumps.
type Postgres struct {
	URI       `yaml:",inline"`
	Databases []string `yaml:"databases"` // empty: that of the URI, otherwise tyk_analytics
	// directory of psql, pg_dump and pg_restore; empty: the newest of Debian's
	Bin string `yaml:"bin"`
}

// uris are the connection URIs by the name of their section.
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

// fresh is how old an existing set may be.
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

// Load reads and checks the file at path; "-" is stdin. ${NAME} in a text of it is the
// variable NAME: see fleet.Expand. An error is of kind [ErrFile] and reports all mistakes.
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
