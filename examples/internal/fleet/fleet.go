// Package fleet is what examples/rolling and examples/upgrade share: a file
// that describes hosts, and how the packages debpkg, health and rollout are put
// together for them. A team that has an inventory of its own replaces the file
// and keeps the rest.
package fleet

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"example.com/tykupgrade/debpkg"
	"example.com/tykupgrade/debpkg/rollout"
	"example.com/tykupgrade/health"
)

// Inventory is the file, YAML or JSON.
type Inventory struct {
	Versions  map[string]string `yaml:"versions"`  // by component: gateway: 5.2.5
	Order     Order             `yaml:"order"`     // standard (default) or mdcb
	Parallel  Share             `yaml:"parallel"`  // hosts of one component out at a time: 1 (default), 3 or 25%
	Budget    Share             `yaml:"budget"`    // hosts of the whole run that may fail: 0 (default), 2 or 5%
	Beyond    Beyond            `yaml:"beyond"`    // hold (default) or undo
	Canary    Canary            `yaml:"canary"`    // of each component
	SSH       SSH               `yaml:"ssh"`       // for all hosts
	HAProxy   []HAProxy         `yaml:"haproxy"`   // every process in front of the hosts
	BlueGreen *BlueGreen        `yaml:"bluegreen"` // instead of a rolling upgrade of its component
	Drain     Drain             `yaml:"drain"`
	Up        Wait              `yaml:"up"`     // until the load balancer sees a host up
	Health    Health            `yaml:"health"` // until a host serves
	MinUp     int               `yaml:"min_up"` // other servers that must be up before one is drained; 0: one, -1: none
	Hosts     []Host            `yaml:"hosts"`
}

// Host is one component on one machine.
type Host struct {
	Name      string  `yaml:"name"`
	Address   string  `yaml:"address"` // host or user@host for SSH; "local": this machine
	Port      int     `yaml:"port"`    // of sshd
	Component string  `yaml:"component"`
	Package   string  `yaml:"package"` // empty: the component's, such as tyk-gateway
	Server    string  `yaml:"server"`  // name in the load balancer; empty: none in front
	Health    string  `yaml:"health"`  // URL of the health endpoint; empty: the component's default port on the address
	Plugin    *Plugin `yaml:"plugin"`  // a request that shows that a plugin runs
	Colour    string  `yaml:"colour"`  // of a blue-green pair
}

// Plugin is an API request and what its answer must show.
type Plugin struct {
	URL    string            `yaml:"url"`
	Status int               `yaml:"status"`
	Header map[string]string `yaml:"header"`
}

// SSH says how hosts are reached.
type SSH struct {
	Config     string `yaml:"config"`
	Identity   string `yaml:"identity"`
	KnownHosts string `yaml:"known_hosts"`
	Jump       string `yaml:"jump"`
	Sudo       bool   `yaml:"sudo"` // become root with sudo -n
}

// HAProxy is one process with the backends in which a component's hosts stand.
type HAProxy struct {
	Network  string              `yaml:"network"` // unix (default) or tcp
	Address  string              `yaml:"address"`
	Backends map[string][]string `yaml:"backends"` // by component
}

// Canary is the first hosts of a component, left running alone for a while.
type Canary struct {
	Count int      `yaml:"count"`
	Soak  Duration `yaml:"soak"`
}

// Drain says how long sessions may take to end, and what then.
type Drain struct {
	Deadline Duration `yaml:"deadline"`
	Force    bool     `yaml:"force"`
}

// Wait is a time limit.
type Wait struct {
	Deadline Duration `yaml:"deadline"`
}

// Health says when a host counts as healthy.
type Health struct {
	Passes   int      `yaml:"passes"`
	Deadline Duration `yaml:"deadline"`
	Settle   Duration `yaml:"settle"` // how long the unit must stay up unchanged after an installation
}

// BlueGreen moves one component's traffic between two colours.
type BlueGreen struct {
	Component string   `yaml:"component"`
	Map       string   `yaml:"map"` // the map file in haproxy.cfg
	Key       string   `yaml:"key"`
	Active    string   `yaml:"active"` // before the run
	Idle      string   `yaml:"idle"`
	Soak      Duration `yaml:"soak"`
	Backends  []string `yaml:"backends"` // in which the idle colour's hosts stand, to see their last sessions end
}

// wrong is an error that the decoder collects with those of other lines.
func wrong(n *yaml.Node, format string, a ...any) error {
	return &yaml.TypeError{Errors: []string{fmt.Sprintf("line %d: ", n.Line) + fmt.Sprintf(format, a...)}}
}

// Duration reads "90s" or "5m".
type Duration time.Duration

// UnmarshalYAML reads a Go duration.
func (d *Duration) UnmarshalYAML(n *yaml.Node) error {
	v, err := time.ParseDuration(n.Value)
	if err != nil || v < 0 {
		return wrong(n, "%q is no duration; write 90s or 5m", n.Value)
	}
	*d = Duration(v)
	return nil
}

// Share reads "3" or "25%".
type Share rollout.Share

// UnmarshalYAML reads a count or a percentage.
func (s *Share) UnmarshalYAML(n *yaml.Node) error {
	t := n.Value
	if p, ok := strings.CutSuffix(t, "%"); ok {
		v, err := strconv.ParseFloat(strings.TrimSpace(p), 64)
		if err != nil || !(v >= 0 && v <= 100) {
			return wrong(n, "%q is no percentage from 0%% to 100%%", t)
		}
		s.Percent = v
		return nil
	}
	v, err := strconv.Atoi(t)
	if err != nil || v < 0 {
		return wrong(n, "%q is neither a count nor a percentage; write 3 or 25%%", t)
	}
	s.Count = v
	return nil
}

func (s Share) String() string {
	if s.Percent > 0 {
		return strconv.FormatFloat(s.Percent, 'g', -1, 64) + "%"
	}
	return strconv.Itoa(s.Count)
}

// Order is the order of components.
type Order []string

// UnmarshalYAML reads standard or mdcb.
func (o *Order) UnmarshalYAML(n *yaml.Node) error {
	switch n.Value {
	case "standard":
		*o = rollout.StandardOrder()
	case "mdcb":
		*o = rollout.MDCBOrder()
	default:
		return wrong(n, "%q is no order; write standard or mdcb", n.Value)
	}
	return nil
}

// Beyond is what happens beyond the budget.
type Beyond rollout.Beyond

// UnmarshalYAML reads hold or undo.
func (b *Beyond) UnmarshalYAML(n *yaml.Node) error {
	switch n.Value {
	case "hold":
		*b = Beyond(rollout.Hold)
	case "undo":
		*b = Beyond(rollout.UndoRun)
	default:
		return wrong(n, "beyond is %q; write hold or undo", n.Value)
	}
	return nil
}

// packages are the Debian packages of the components.
var packages = map[string]string{
	"dashboard": "tyk-dashboard", "gateway": "tyk-gateway", "pump": "tyk-pump",
	"mdcb": "tyk-sink", "data-plane-gateway": "tyk-gateway", "data-plane-pump": "tyk-pump",
}

// maxFile bounds an inventory.
const maxFile = 4 << 20

// Load reads and checks the inventory in a file; "-" is stdin.
func Load(path string, stdin io.Reader) (*Inventory, error) {
	data, err := Read(path, stdin)
	if err != nil {
		return nil, err
	}
	inv, err := Parse(data)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	return inv, nil
}

// Read reads a file of at most 4 MiB; "-" is stdin.
func Read(path string, stdin io.Reader) ([]byte, error) {
	in := stdin
	if path != "-" {
		f, err := os.Open(path)
		if err != nil {
			return nil, fmt.Errorf("read the file that describes the hosts: %w", err)
		}
		defer func() { _ = f.Close() }()
		in = f
	}
	data, err := io.ReadAll(io.LimitReader(in, maxFile+1))
	if err == nil && len(data) > maxFile {
		err = fmt.Errorf("larger than %d bytes", maxFile)
	}
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	return data, nil
}

// Parse reads and checks an inventory.
func Parse(data []byte) (*Inventory, error) {
	inv := &Inventory{}
	if err := Decode(data, inv); err != nil {
		return nil, err
	}
	return inv, inv.Check()
}

// Decode reads YAML or JSON into v, such as a struct with an [Inventory] and
// more in it. Keys that v lacks are errors, and so is a second document.
func Decode(data []byte, v any) error {
	dec := yaml.NewDecoder(bytes.NewReader(data))
	dec.KnownFields(true)
	err := dec.Decode(v)
	var all *yaml.TypeError
	switch {
	case errors.Is(err, io.EOF):
		return errors.New("it is empty")
	case errors.As(err, &all):
		var errs []error
		for _, text := range all.Errors {
			text = unknownKey.ReplaceAllString(text, "unknown key $1")
			errs = append(errs, errors.New(unfit.ReplaceAllString(text, "$1 does not fit here")))
		}
		return errors.Join(errs...)
	case err == nil && !errors.Is(dec.Decode(&yaml.Node{}), io.EOF):
		return errors.New("it goes on behind its end (---), and only one document is read")
	}
	return err
}

// The decoder (go.yaml.in/yaml 3.0) names Go's types.
var (
	unknownKey = regexp.MustCompile(`field (.+) not found in type \S+$`)
	unfit      = regexp.MustCompile(`cannot unmarshal (.+) into \S+$`)
)

// Check fills in defaults and reports everything that is wrong at once.
func (inv *Inventory) Check() error {
	var errs []error
	bad := func(format string, a ...any) { errs = append(errs, fmt.Errorf(format, a...)) }
	if inv.Order == nil {
		inv.Order = rollout.StandardOrder()
	}
	if len(inv.Hosts) == 0 {
		bad("no hosts")
	}
	seen := map[string]bool{}
	for i := range inv.Hosts {
		h := &inv.Hosts[i]
		if h.Name == "" || seen[h.Name] || h.Name != filepath.Base(h.Name) {
			bad("host %d: the name %q is empty, stands twice or holds a slash", i+1, h.Name)
		}
		seen[h.Name] = true
		if h.Address == "" {
			h.Address = h.Name
		}
		if !slices.Contains(inv.Order, h.Component) {
			bad("host %s: component %q is none of %s", h.Name, h.Component, strings.Join(inv.Order, ", "))
			continue
		}
		if h.Package == "" {
			h.Package = packages[h.Component]
		}
		if _, err := debpkg.ParseVersion(inv.Versions[h.Component]); err != nil {
			bad("host %s: versions.%s: %w", h.Name, h.Component, err)
		} else if _, err := health.ParseVersion(inv.Versions[h.Component]); err != nil {
			bad("host %s: versions.%s: %w; give the exact version, such as 5.2.5", h.Name, h.Component, err)
		}
		if h.Server != "" && inv.BlueGreen == nil && len(inv.proxies(h.Component)) == 0 {
			bad("host %s is server %s, but no haproxy has backends for %s", h.Name, h.Server, h.Component)
		}
		if h.Component == "mdcb" && h.Health == "" {
			bad("host %s: give the URL of its health endpoint", h.Name)
		}
		if h.Plugin != nil && h.Plugin.URL == "" {
			bad("host %s: the plugin request has no url", h.Name)
		}
	}
	for component := range inv.Versions {
		if !slices.Contains(inv.Order, component) {
			bad("versions: component %q is none of %s", component, strings.Join(inv.Order, ", "))
		}
	}
	for i, p := range inv.HAProxy {
		if p.Address == "" || (p.Network != "" && p.Network != "unix" && p.Network != "tcp") {
			bad("haproxy %d: give an address, and unix or tcp as network", i+1)
		}
	}
	if b := inv.BlueGreen; b != nil {
		if b.Map == "" || b.Active == "" || b.Idle == "" || b.Active == b.Idle || len(inv.HAProxy) == 0 {
			bad("bluegreen: give map, active and idle (two colours), and an haproxy")
		}
		if !slices.ContainsFunc(inv.Hosts, func(h Host) bool { return h.Component == b.Component && h.Colour == b.Idle }) {
			bad("bluegreen: no host of component %q has the colour %q", b.Component, b.Idle)
		}
	}
	return errors.Join(errs...)
}

func (inv *Inventory) proxies(component string) []rollout.Balancer {
	var all []rollout.Balancer
	for _, p := range inv.HAProxy {
		if len(p.Backends[component]) > 0 {
			all = append(all, p.process(p.Backends[component]))
		}
	}
	return all
}

func (p HAProxy) process(backends []string) rollout.HAProxy {
	network := p.Network
	if network == "" {
		network = "unix"
	}
	return rollout.HAProxy{Network: network, Address: p.Address, Backends: backends}
}
