package backup

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	"github.com/redis/go-redis/v9"

	"example.com/tykupgrade/backup/internal/step"
)

// KindRedis is the kind of the components that [Redis] writes.
const KindRedis = "redis"

// RedisMethod is how the data is read.
type RedisMethod string

// The methods. Each writes RDB files that every Redis of the same version or a
// newer one loads.
const (
	// RedisPSYNC asks for a snapshot over the network, as a replica would. The
	// user needs +psync and +replconf alone; no file access. A server with
	// repl-diskless-sync yes waits repl-diskless-sync-delay (5 s by default)
	// first. A slow reader is cut off by client-output-buffer-limit replica.
	RedisPSYNC RedisMethod = "psync"
	// RedisBGSAVE lets the server save in the background and copies its file.
	RedisBGSAVE RedisMethod = "bgsave"
	// RedisSAVE is the procedure's SAVE: it blocks all clients of the server
	// until the file is written.
	RedisSAVE RedisMethod = "save"
	// RedisDUMP reads key by key, for managed services that allow nothing
	// else. There is no single moment that the result belongs to, and the
	// memory needed grows with the number of keys (about 80 bytes for each).
	RedisDUMP RedisMethod = "dump"
)

// Redis backs up every key, with its remaining time to live as a point in
// time, and function libraries. Keys that expire between backup and restore do
// not come back. ACL users, configuration and modules are not part of Redis'
// snapshots: add their files with [Files].
//
// Client decides the topology: redis.NewClient for one server,
// redis.NewFailoverClient for the master that Sentinel names,
// redis.NewClusterClient for every master of a cluster. Its TLS and user apply
// to everything. It stays the caller's to close. A Redis is a [Source], and a
// [Prover] that compares the live data with a set.
type Redis struct {
	Client     redis.UniversalClient
	Component  string      // name in the set; empty: "redis"
	Method     RedisMethod // empty: RedisPSYNC
	AllowStale bool        // also read a replica that has lost its master (not with RedisPSYNC, which the server refuses)
	Path       string      // RedisBGSAVE, RedisSAVE: the server's RDB file, where CONFIG GET is not allowed
	Sample     int         // Prove: compare so many keys, chosen at random, instead of all

	// Open reads the server's RDB file for RedisBGSAVE and RedisSAVE; addr says
	// on which node. nil: a file of this machine.
	Open func(ctx context.Context, addr, path string) (io.ReadCloser, error)
}

// RedisDetails is what a Redis component's details hold.
type RedisDetails struct {
	Nodes []RedisNode `json:"nodes"`
}

// RedisNode is one server's part.
type RedisNode struct {
	File   string  `json:"file"` // in the component's directory
	Addr   string  `json:"addr"`
	ID     string  `json:"id,omitempty"`    // in the cluster
	Slots  string  `json:"slots,omitempty"` // of the cluster: "0-5460,6000"
	Role   string  `json:"role,omitempty"`
	ReplID string  `json:"repl_id,omitempty"` // replication history and
	Offset int64   `json:"offset,omitempty"`  // place in it, of a PSYNC snapshot
	RDB    RDBInfo `json:"rdb"`
}

// Name returns the component's name.
func (r *Redis) Name() string {
	if r.Component == "" {
		return "redis"
	}
	return r.Component
}

func (r *Redis) method() RedisMethod {
	if r.Method == "" {
		return RedisPSYNC
	}
	return r.Method
}

func (r *Redis) check() error {
	if r.Client == nil {
		return errors.New("no client given")
	}
	if !slices.Contains([]RedisMethod{RedisPSYNC, RedisBGSAVE, RedisSAVE, RedisDUMP}, r.method()) {
		return fmt.Errorf("there is no method %q; use %s, %s, %s or %s", r.Method, RedisPSYNC, RedisBGSAVE, RedisSAVE, RedisDUMP)
	}
	return nil
}

// Plan connects to every node, refuses those that cannot give a good copy, and
// estimates the size from their memory.
func (r *Redis) Plan(ctx context.Context) (Estimate, error) {
	if err := r.check(); err != nil {
		return Estimate{}, err
	}
	topo, err := redisTopology(ctx, r.Client)
	if err != nil {
		return Estimate{}, err
	}
	var total Estimate
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

func (r *Redis) checkState(n *redisNode, info redisInfo) error {
	refuse := func(retry bool, cause, next string) error {
		return &Error{Op: "back up", Object: "redis " + n.addr, Err: errors.New(cause), Next: next, Retry: retry}
	}
	switch {
	case info["loading"] == "1" || info["async_loading"] == "1":
		return refuse(true, "the server is loading its data", "wait until INFO says loading:0")
	case info["role"] == "slave" && info["master_link_status"] == "down" && r.method() == RedisPSYNC:
		return refuse(true, "it is a replica whose link to its master is down, and a server in that state gives no PSYNC snapshot", "back up the master, or use another method and allow old data")
	case info["role"] == "slave" && info["master_link_status"] == "down" && !r.AllowStale:
		return refuse(true, "it is a replica whose link to its master is down, so its data is old", "back up the master, or allow old data")
	}
	return nil
}

// Backup writes one RDB file for each node.
func (r *Redis) Backup(ctx context.Context, w *Writer) (Component, error) {
	c := Component{Kind: KindRedis, Method: string(r.method()), Consistency: ConsistencySnapshot}
	if err := r.check(); err != nil {
		return c, err
	}
	topo, err := redisTopology(ctx, r.Client)
	if err != nil {
		return c, err
	}
	c.Topology, c.Origin = topo.kind, topo.origin()
	details := RedisDetails{Nodes: make([]RedisNode, len(topo.nodes))}
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
			c.Server = "redis " + n.RDB.Server
		}
		c.Warnings = append(c.Warnings, warnings[i]...)
	}
	if len(details.Nodes) > 1 {
		c.Consistency = ConsistencyPerNode
	}
	if r.method() == RedisDUMP {
		c.Consistency = ConsistencyPerItem
	}
	return c, c.SetDetails(details)
}

func (r *Redis) node(ctx context.Context, n *redisNode, w *Writer) (RedisNode, []string, error) {
	out := RedisNode{File: n.file(), Addr: n.addr, ID: n.id, Slots: n.slots}
	info, err := n.info(ctx)
	if err == nil {
		err = r.checkState(n, info)
	}
	if err != nil {
		return out, nil, err
	}
	out.Role = info["role"]
	var warnings []string
	switch r.method() {
	case RedisPSYNC:
		err = n.psync(ctx, w, &out)
	case RedisBGSAVE, RedisSAVE:
		err = n.save(ctx, w, &out, r)
	case RedisDUMP:
		warnings, err = n.dump(ctx, w, &out)
	}
	if err != nil {
		return out, nil, step.Fail("back up", "redis "+n.addr, err)
	}
	w.Progress(out.File, 0, out.RDB.Keys)
	return out, append(warnings, redisWarnings(n, info, out, r.method())...), nil
}

func redisWarnings(n *redisNode, info redisInfo, out RedisNode, m RedisMethod) (warnings []string) {
	warn := func(format string, a ...any) {
		warnings = append(warnings, fmt.Sprintf("redis %s: ", n.addr)+fmt.Sprintf(format, a...))
	}
	if !out.RDB.Checksum {
		warn("rdbchecksum is off, so the server's own checksum is missing; the set's SHA-256 protects the file from here on")
	}
	if out.RDB.NotWalked != "" {
		warn("keys were not counted: %s", out.RDB.NotWalked)
	}
	if info["role"] == "slave" && info["master_link_status"] == "down" {
		warn("it is a replica without a link to its master: the data is old")
	}
	if m == RedisSAVE {
		warn("SAVE blocked all clients of the server while it ran")
	}
	if out.RDB.Types["module"] > 0 {
		warn("%d keys belong to modules, which the target needs too", out.RDB.Types["module"])
	}
	return warnings
}

func init() { RegisterKind(KindRedis, redisStructure) }

// redisStructure is LevelStructure: every file can be read from the first byte
// to its checksum, and holds what the manifest says.
func redisStructure(ctx context.Context, s *Stored) error {
	var d RedisDetails
	if err := s.DecodeDetails(&d); err != nil {
		return err
	}
	if len(d.Nodes) == 0 || len(d.Nodes) != len(s.Files) {
		return fmt.Errorf("%d nodes and %d files", len(d.Nodes), len(s.Files))
	}
	for _, n := range d.Nodes {
		info, err := readStoredRDB(ctx, s, n.File, rdbVisit{check: true})
		if err != nil {
			return err
		}
		if info.Keys != n.RDB.Keys || info.Size != n.RDB.Size || info.Version != n.RDB.Version || info.Functions != n.RDB.Functions {
			return fmt.Errorf("%s: it holds %d keys in %d bytes, the manifest says %d in %d", n.File, info.Keys, info.Size, n.RDB.Keys, n.RDB.Size)
		}
	}
	return nil
}

func readStoredRDB(ctx context.Context, s *Stored, name string, v rdbVisit) (RDBInfo, error) {
	f, err := s.Open(name)
	if err != nil {
		return RDBInfo{}, err
	}
	defer f.Close()
	info, err := readRDB(ctx, f, v)
	if err != nil {
		return info, fmt.Errorf("%s: %w", name, err)
	}
	return info, nil
}

var (
	_ Source = (*Redis)(nil)
	_ Prover = (*Redis)(nil)
)

// readFile is the default of Redis.Open.
func readFile(_ context.Context, _, path string) (io.ReadCloser, error) {
	f, err := step.OpenRegular(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("%w; where the server runs on another machine, set Open", err)
	}
	return f, err
}
