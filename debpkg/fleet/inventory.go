package fleet

import (
	"time"

	"example.com/tykupgrade/debpkg"
)

// Inventory is the content of the file, in YAML or JSON. [Inventory.Check] fills in defaults.
type Inventory struct {
	Versions map[string]string `yaml:"versions"` // by component: gateway: 5.2.5
	Order    Order             `yaml:"order"`    // standard (default) or mdcb
	// how many hosts of a component may be out at a time: 1 (default), 3 or 25%
	MaxUnavailable Amount `yaml:"max_unavailable"`
	// how many hosts of the whole run may fail: 0 (default), 2 or 5%
	Budget           Amount           `yaml:"budget"`
	OnBudgetExceeded OnBudgetExceeded `yaml:"on_budget_exceeded"` // hold (default) or rollback
	Canary           Canary           `yaml:"canary"`             // of each component
	SSH              SSH              `yaml:"ssh"`                // for all hosts
	// haproxy, exec, ready or none; empty: haproxy if there is one
	Balancer Balancer `yaml:"balancer"`
	// all HAProxy processes in front of the hosts
	HAProxy []HAProxy `yaml:"haproxy"`
	// replaces the rolling upgrade of its component
	BlueGreen *BlueGreen `yaml:"bluegreen"`
	// how to wait for the last sessions of a host
	Drain Drain `yaml:"drain"`
	// how long to wait until the load balancer sees a host up
	Up     Wait   `yaml:"up"`
	Health Health `yaml:"health"` // when a host counts as healthy
	// other servers that must be up before one is drained; 0: one, -1: none
	MinUp int `yaml:"min_up"`
	// requests that must succeed before the first host and after each component
	Gates []Gate `yaml:"gates"`
	// sends the gates' requests during the whole run
	Prober Prober `yaml:"prober"`
	// commands or webhooks at points of the run
	Hooks []Hook `yaml:"hooks"`
	// lets the journal's group read it and continue the run: its mode is then 0660
	SharedJournal bool `yaml:"shared_journal"`
	// one entry for each component on each machine
	Hosts []Host `yaml:"hosts"`

	// Connect replaces the connection of [Inventory.Runner] to a host, for tests and for
	// programs with their own connections. Nil: SSH, or this machine.
	Connect func(Host) debpkg.Runner `yaml:"-"`

	every time.Duration // between two questions to a load balancer; 0: rollout's default
}

// Host is one component on one machine.
type Host struct {
	Name string `yaml:"name"` // unique; in reports and journals
	// host or user@host for SSH; "local": this machine; empty: the name
	Address   string `yaml:"address"`
	Port      int    `yaml:"port"`      // of sshd
	Component string `yaml:"component"` // dashboard, gateway, pump or mdcb
	Package   string `yaml:"package"`   // empty: the component's, such as tyk-gateway
	Server    string `yaml:"server"`    // its name in the load balancer; empty: none in front
	// URL of the health endpoint; empty: the component's default port on the address
	Health string  `yaml:"health"`
	Plugin *Plugin `yaml:"plugin"` // a request that shows that a plugin runs
	Colour string  `yaml:"colour"` // of a blue-green pair
}

// Plugin is an API request whose expected answer only the plugin can produce.
type Plugin struct {
	URL    string            `yaml:"url"`    // of an API that has the plugin
	Status int               `yaml:"status"` // expected HTTP status; 0: any 2xx
	Header map[string]string `yaml:"header"` // expected headers; an empty value: any
}

// SSH sets how to reach hosts.
type SSH struct {
	Config     string `yaml:"config"`      // ssh configuration file; empty: the user's
	Identity   string `yaml:"identity"`    // private key file
	KnownHosts string `yaml:"known_hosts"` // file with the hosts' keys
	Jump       string `yaml:"jump"`        // jump hosts, as ssh -J takes them
	Sudo       bool   `yaml:"sudo"`        // become root with sudo -n
}

// HAProxy is one HAProxy process, with the backends of each component's hosts.
type HAProxy struct {
	Network  string              `yaml:"network"`  // unix (default) or tcp
	Address  string              `yaml:"address"`  // path of the socket, or host:port
	Backends map[string][]string `yaml:"backends"` // by component
}

// Canary sets how many hosts of a component go first, and how long they run before the rest.
type Canary struct {
	Count int      `yaml:"count"` // hosts that go first
	Soak  Duration `yaml:"soak"`  // how long they run under watch before the rest
}

// Drain sets how long sessions may take to finish, and what happens after that.
type Drain struct {
	Deadline Duration `yaml:"deadline"` // how long the last session may take
	Force    bool     `yaml:"force"`    // end the remaining sessions at the deadline
	// how long clients with a cookie may still use a drained server; 0: 5 s
	Grace Duration `yaml:"grace"`
}

// Wait is a time limit.
type Wait struct {
	Deadline Duration `yaml:"deadline"` // how long to wait
}

// Health sets when a host counts as healthy.
type Health struct {
	SuccessThreshold int      `yaml:"success_threshold"` // passes in a row
	Deadline         Duration `yaml:"deadline"`          // how long a host may take to serve
	// how long the unit must run without a restart after an installation
	Settle Duration `yaml:"settle"`
}

// BlueGreen moves one component's traffic between two colours.
type BlueGreen struct {
	Component string   `yaml:"component"` // the component that has two colours
	Map       string   `yaml:"map"`       // the map file's path in haproxy.cfg
	Key       string   `yaml:"key"`       // the key in the map
	Active    string   `yaml:"active"`    // the colour with the traffic before the run
	Idle      string   `yaml:"idle"`      // the colour that is upgraded
	Soak      Duration `yaml:"soak"`      // how long the new colour runs under watch before the run ends
	// backends with the idle colour's hosts, to see their last sessions finish
	Backends []string `yaml:"backends"`
}
