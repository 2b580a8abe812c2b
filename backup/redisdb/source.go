package redisdb

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/redis/go-redis/v9"

	"example.com/tykupgrade/backup"
	"example.com/tykupgrade/backup/internal/step"
	"example.com/tykupgrade/backup/redisdb/internal/rdb"
)

// Kind is the kind of the components that [Source] writes.
const Kind = "redis"

// Method is a way to read the data.
type Method string

// The methods. Servers of the same or a newer version can load their files.
const (
	// PSYNC requests a snapshot over the network, as a replica does. The user needs only +psync
	// and +replconf, and no file access. A server with repl-diskless-sync yes first waits
	// repl-diskless-sync-delay (5 s by default). client-output-buffer-limit replica cuts off a
	// slow reader.
	PSYNC Method = "psync"
	// BGSAVE makes the server save in the background and copies its file.
	BGSAVE Method = "bgsave"
	// SAVE is the method of the documented procedure. It blocks all clients of the server until
	// the file is written.
	SAVE Method = "save"
	// DUMP reads key by key, for managed services that allow nothing else. The keys do not
	// belong to a single moment. It needs memory for the largest value, and about 80 bytes for
	// each key.
	DUMP Method = "dump"
)

// Methods returns all methods, the default first.
func Methods() []Method { return []Method{PSYNC, BGSAVE, SAVE, DUMP} }

// Source is a [backup.Source] for all keys, with their expiry as a point in time, and function
// libraries. Keys that expire between backup and restore are not restored. ACL users, configuration
// and modules are not part of Redis' snapshots. Add their files with package hostfiles. As a
// [backup.Prover], a Source compares the live data with a set.
//
// Client decides the topology: redis.NewClient for one server, redis.NewFailoverClient for the
// master that Sentinel names, redis.NewClusterClient for every master of a cluster. Its TLS
// configuration and user apply to all connections. The caller closes it.
type Source struct {
	Client    redis.UniversalClient
	Component string // name in the set; empty: "redis"
	Method    Method // empty: PSYNC
	// read a replica that has lost its master too; the server refuses this with PSYNC
	AllowStale bool
	Path       string // for BGSAVE and SAVE: the server's RDB file, if CONFIG GET is not allowed
	Sample     int    // Prove compares this many random keys; 0: all

	// Commands maps commands to the names that the server has given them (rename-command), such
	// as {"PSYNC": "psync-4711"}. CLUSTER must keep its name.
	Commands map[string]string

	// Open opens the RDB file of the node addr, for BGSAVE and SAVE. Nil: a file on this
	// machine.
	Open func(ctx context.Context, addr, path string) (io.ReadCloser, error)
}

// Details are the details of a component of kind [Kind].
type Details struct {
	Nodes []Node `json:"nodes"`
}

// Node is the part of one server.
type Node struct {
	File    string   `json:"file"` // in the component's directory
	Addr    string   `json:"addr"`
	ID      string   `json:"id,omitempty"`    // in the cluster
	Slots   string   `json:"slots,omitempty"` // of the cluster: "0-5460,6000"
	Role    string   `json:"role,omitempty"`
	ReplID  string   `json:"repl_id,omitempty"` // replication history of a PSYNC snapshot
	Offset  int64    `json:"offset,omitempty"`  // its place in that history
	Memory  int64    `json:"memory,omitempty"`  // bytes of the data in the server's memory; 0: unknown
	Modules []string `json:"modules,omitempty"` // modules that the server had loaded
	RDB     RDBInfo  `json:"rdb"`
}

// RDBInfo describes a file of the set, as found by reading all of it.
type RDBInfo = rdb.Info

func init() { backup.RegisterKind(Kind, checkStructure) }

// Name returns the component's name.
func (r *Source) Name() string { return named(r.Component) }

func named(component string) string {
	if component == "" {
		return "redis"
	}
	return component
}

func (r *Source) method() Method {
	if r.Method == "" {
		return PSYNC
	}
	return r.Method
}

func (r *Source) check() error {
	if r.Client == nil {
		return errors.New("the client is nil")
	}
	if !slices.Contains(Methods(), r.method()) {
		return fmt.Errorf("unknown method %q (want %s, %s, %s or %s)", r.Method, PSYNC, BGSAVE, SAVE,
			DUMP)
	}
	return nil
}

// Plan connects to every node and refuses one that cannot give a good copy. It estimates the size
// from the nodes' memory.
func (r *Source) Plan(ctx context.Context) (backup.Estimate, error) {
	if err := r.check(); err != nil {
		return backup.Estimate{}, err
	}
	topo, err := topologyOf(ctx, r.Client, r.Commands)
	if err != nil {
		return backup.Estimate{}, err
	}
	var total backup.Estimate
	for _, n := range topo.nodes {
		info, err := n.info(ctx)
		if err != nil {
			return total, err
		}
		if err := r.checkState(n, info); err != nil {
			return total, err
		}
		// The file is about half of the memory for small values (measured on
		// 7.0), never much more than the data itself.
		total.Bytes += info.int("used_memory_dataset")
		total.Items += info.keys()
	}
	return total, nil
}

func (r *Source) checkState(n *node, info serverInfo) error {
	refuse := func(retry bool, cause, next string) error {
		return &backup.Error{Op: "back up", Object: n.object(), Err: errors.New(cause), Next: next,
			Retry: retry}
	}
	stale := info["role"] == "slave" && info["master_link_status"] == "down"
	switch {
	case info["loading"] == "1" || info["async_loading"] == "1":
		return refuse(true, "the server is loading its data", "wait until INFO says loading:0")
	case stale && r.method() == PSYNC:
		return refuse(true, "it is a replica whose link to its master is down, and such a server "+
			"gives no PSYNC snapshot",
			"back up the master, or use another method with AllowStale")
	case stale && !r.AllowStale:
		return refuse(true, "it is a replica whose link to its master is down, so its data is old",
			"back up the master, or set AllowStale")
	}
	return nil
}

// Backup writes one RDB file for each node.
func (r *Source) Backup(ctx context.Context, w *backup.Writer) (backup.Component, error) {
	c := backup.Component{Kind: Kind, Method: string(r.method()),
		Consistency: backup.ConsistencySnapshot}
	if err := r.check(); err != nil {
		return c, err
	}
	topo, err := topologyOf(ctx, r.Client, r.Commands)
	if err != nil {
		return c, err
	}
	c.Topology, c.Origin = topo.kind, topo.origin()
	details := Details{Nodes: make([]Node, len(topo.nodes))}
	warnings := make([][]string, len(topo.nodes))
	err = step.Together(ctx, len(topo.nodes), func(ctx context.Context, i int) (err error) {
		details.Nodes[i], warnings[i], err = r.node(ctx, topo.nodes[i], w)
		return err
	})
	if err != nil {
		return c, err
	}
	if err := topo.unchanged(ctx, r.Client); err != nil {
		return c, err
	}
	for i, n := range details.Nodes {
		c.Items += n.RDB.Keys
		if n.RDB.Server != "" {
			c.Server = product(n.RDB) + " " + n.RDB.Server
		}
		c.Warnings = append(c.Warnings, warnings[i]...)
		if w := topo.nodes[i].plaintext(); w != "" {
			c.Warnings = append(c.Warnings, w)
		}
	}
	if len(details.Nodes) > 1 {
		c.Consistency = backup.ConsistencyPerNode
	}
	if r.method() == DUMP {
		c.Consistency = backup.ConsistencyPerItem
	}
	return c, c.SetDetails(details)
}

func product(info RDBInfo) string {
	if info.Valkey {
		return "valkey"
	}
	return "redis"
}

func (r *Source) node(ctx context.Context, n *node, w *backup.Writer) (Node, []string, error) {
	out := Node{File: n.file(), Addr: n.addr, ID: n.id, Slots: n.slots}
	info, err := n.info(ctx)
	if err == nil {
		err = r.checkState(n, info)
	}
	if err != nil {
		return out, nil, err
	}
	out.Role, out.Memory = info["role"], info.int("used_memory_dataset")
	if names, ok := n.modules(ctx, info); ok {
		for name := range names {
			out.Modules = append(out.Modules, name)
		}
		slices.Sort(out.Modules)
	}
	var warnings []string
	switch r.method() {
	case PSYNC:
		err = n.psync(ctx, w, &out)
	case BGSAVE, SAVE:
		err = n.save(ctx, w, &out, r)
	case DUMP:
		warnings, err = n.dump(ctx, w, &out)
	}
	if err != nil {
		return out, nil, step.Fail("back up", n.object(), err)
	}
	w.Progress(out.File, 0, out.RDB.Keys)
	return out, append(warnings, nodeWarnings(n, info, out, r.method())...), nil
}

func nodeWarnings(n *node, info serverInfo, out Node, m Method) (warnings []string) {
	warn := func(format string, a ...any) {
		warnings = append(warnings, n.object()+": "+fmt.Sprintf(format, a...))
	}
	if !out.RDB.Checksum {
		warn("rdbchecksum is off, so the server's own checksum is missing; the set's SHA-256 protects " +
			"the file from here on")
	}
	if out.RDB.NotWalked != "" {
		warn("keys were not counted: %s; the set can be restored with Offline only, and is not "+
			"compared key by key", out.RDB.NotWalked)
	}
	if info["role"] == "slave" && info["master_link_status"] == "down" {
		warn("it is a replica without a link to its master: the data is old")
	}
	if m == SAVE {
		warn("SAVE blocked all clients of the server while it ran")
	}
	if types := moduleTypes(out.RDB); len(types) > 0 {
		warn("the data has types of modules, which the target needs too: %s", strings.Join(types, ", "))
	}
	if out.RDB.Empty > 0 {
		warn("%d keys are collections without elements, which servers do not load", out.RDB.Empty)
	}
	return warnings
}

// plaintext returns a warning if data and password cross a network unencrypted, or "".
func (n *node) plaintext() string {
	o := n.client.Options()
	if o.TLSConfig != nil || o.Network == "unix" || loopback(n.addr) {
		return ""
	}
	return "the connection to " + n.object() + " is not encrypted: data and password can be read on " +
		"the network; use rediss://"
}

// checkStructure is the check of LevelStructure: every file can be read up to its checksum and
// matches the manifest.
func checkStructure(ctx context.Context, s *backup.Stored) error {
	d, err := detailsOf(s)
	if err != nil {
		return err
	}
	if len(d.Nodes) != len(s.Files) {
		return fmt.Errorf("%d nodes and %d files", len(d.Nodes), len(s.Files))
	}
	for _, n := range d.Nodes {
		info, err := readStored(ctx, s, n.File, rdb.Visit{Check: true})
		if err != nil {
			return err
		}
		// A file that an older program could not read has no counts.
		counted := n.RDB.NotWalked == "" && info.NotWalked == ""
		if info.Size != n.RDB.Size || info.Version != n.RDB.Version || counted &&
			(info.Keys != n.RDB.Keys || info.Functions != n.RDB.Functions) {
			return fmt.Errorf("%s: it has %d keys in %d bytes, the manifest says %d in %d", n.File,
				info.Keys, info.Size, n.RDB.Keys, n.RDB.Size)
		}
	}
	return nil
}

// detailsOf reads the details of a component, which has at least one node.
func detailsOf(s *backup.Stored) (Details, error) {
	var d Details
	if err := s.DecodeDetails(&d); err != nil {
		return d, err
	}
	if len(d.Nodes) == 0 {
		return d, fmt.Errorf("component %q has no nodes", s.Name)
	}
	return d, nil
}

func readStored(ctx context.Context, s *backup.Stored, name string, v rdb.Visit) (RDBInfo, error) {
	f, err := s.Open(name)
	if err != nil {
		return RDBInfo{}, err
	}
	defer f.Close()
	info, err := rdb.Read(ctx, f, v)
	if err != nil {
		return info, fmt.Errorf("%s: %w", name, err)
	}
	return info, nil
}

var (
	_ backup.Source = (*Source)(nil)
	_ backup.Prover = (*Source)(nil)
)

// readFile is the default of Source.Open.
func readFile(_ context.Context, _, path string) (io.ReadCloser, error) {
	f, err := step.OpenRegular(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("%w; if the server runs on another machine, set Open", err)
	}
	return f, err
}
