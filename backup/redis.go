package backup

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
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
		return refuse(true, "it is a replica whose link to its master is down, and a server in that state gives no PSYNC snapshot", "back up the master, or use another method and AllowStale")
	case info["role"] == "slave" && info["master_link_status"] == "down" && !r.AllowStale:
		return refuse(true, "it is a replica whose link to its master is down, so its data is old", "back up the master, or set AllowStale")
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
	err = together(ctx, len(topo.nodes), func(ctx context.Context, i int) (err error) {
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
	switch r.method() {
	case RedisPSYNC:
		err = n.psync(ctx, w, &out)
	case RedisBGSAVE, RedisSAVE:
		err = n.save(ctx, w, &out, r)
	case RedisDUMP:
		err = n.dump(ctx, w, &out)
	}
	if err != nil {
		return out, nil, fail("back up", "redis "+n.addr, err)
	}
	w.Progress(out.File, 0, out.RDB.Keys)
	return out, redisWarnings(n, info, out, r.method()), nil
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

// redisNodes is what a client leads to.
type redisNodes struct {
	kind  string
	nodes []*redisNode
	owner string // of a cluster: who has which slots
}

// redisNode is one server that holds data of its own.
type redisNode struct {
	client *redis.Client
	addr   string
	id     string
	slots  string
}

var unsafeInName = regexp.MustCompile(`[^A-Za-z0-9.-]+`)

func (n *redisNode) file() string {
	return strings.Trim(unsafeInName.ReplaceAllString(n.addr, "_"), "_.") + ".rdb"
}

func (t *redisNodes) origin() string {
	var addrs []string
	for _, n := range t.nodes {
		addrs = append(addrs, n.addr)
	}
	return "redis " + strings.Join(addrs, ",")
}

func redisTopology(ctx context.Context, c redis.UniversalClient) (*redisNodes, error) {
	switch c := c.(type) {
	case *redis.Client:
		return singleTopology(ctx, c)
	case *redis.ClusterClient:
		return clusterTopology(ctx, c)
	}
	return nil, fmt.Errorf("a client of type %T cannot be backed up; use redis.NewClient, NewFailoverClient or NewClusterClient", c)
}

func singleTopology(ctx context.Context, c *redis.Client) (*redisNodes, error) {
	t := &redisNodes{kind: "standalone"}
	n := &redisNode{client: c, addr: c.Options().Addr}
	// What NewFailoverClient (9.23) has in place of an address.
	if n.addr == "FailoverClient" {
		t.kind = "sentinel"
		conn, err := n.dial(ctx)
		if err != nil {
			return nil, redisError("find the master of", "redis (sentinel)", err)
		}
		n.addr = conn.addr()
		conn.close()
	}
	info, err := n.info(ctx)
	if err != nil {
		return nil, err
	}
	if info["cluster_enabled"] == "1" {
		return nil, &Error{Op: "read the topology of", Object: "redis " + n.addr, Err: errors.New("it is one node of a cluster"),
			Next: "connect with a cluster client, so that every master is included"}
	}
	t.nodes = []*redisNode{n}
	return t, nil
}

// clusterTopology finds the masters.
func clusterTopology(ctx context.Context, c *redis.ClusterClient) (*redisNodes, error) {
	//lint:ignore SA1019 CLUSTER SHARDS, which replaces it, needs Redis 7.0
	slots, err := c.ClusterSlots(ctx).Result()
	if err != nil {
		return nil, redisError("read the topology of", "redis cluster", err)
	}
	t := &redisNodes{kind: "cluster"}
	slices.SortFunc(slots, func(a, b redis.ClusterSlot) int { return a.Start - b.Start })
	byID := map[string]*redisNode{}
	next := 0
	for _, s := range slots {
		if s.Start != next || len(s.Nodes) == 0 {
			return nil, fmt.Errorf("read the topology of redis cluster: no node serves slot %d; repair the cluster first", next)
		}
		next = s.End + 1
		m := s.Nodes[0]
		n := byID[m.ID]
		if n == nil {
			n = &redisNode{addr: m.Addr, id: m.ID}
			byID[m.ID] = n
			t.nodes = append(t.nodes, n)
		} else {
			n.slots += ","
		}
		n.slots += fmt.Sprintf("%d-%d", s.Start, s.End)
		t.owner += fmt.Sprintf("%d-%d %s\n", s.Start, s.End, m.ID)
	}
	if next != redisSlots {
		return nil, fmt.Errorf("read the topology of redis cluster: no node serves slot %d; repair the cluster first", next)
	}
	// The client may know a node by another address than the cluster does.
	var mu sync.Mutex
	moving := false
	err = c.ForEachMaster(ctx, func(ctx context.Context, m *redis.Client) error {
		id, err := m.Do(ctx, "CLUSTER", "MYID").Text()
		if err != nil {
			return err
		}
		known, err := m.ClusterNodes(ctx).Result()
		mu.Lock()
		defer mu.Unlock()
		if n := byID[id]; n != nil {
			n.client = m
		}
		// How a node marks slots that it is giving away or taking over.
		moving = moving || strings.Contains(known, "->-") || strings.Contains(known, "-<-")
		return err
	})
	if err != nil {
		return nil, redisError("connect to the masters of", "redis cluster", err)
	}
	if moving {
		return nil, &Error{Op: "read the topology of", Object: "redis cluster", Err: errors.New("slots are being moved from one node to another"), Next: "wait until resharding is done, or repair it with redis-cli --cluster fix", Retry: true}
	}
	for _, n := range t.nodes {
		if n.client == nil {
			return nil, &Error{Op: "connect to", Object: "redis " + n.addr, Err: errors.New("the client knows no such master"), Next: "wait until the failover is done", Retry: true}
		}
	}
	return t, nil
}

const redisSlots = 16384

// unchanged makes sure that no slot moved while the nodes were read: its keys
// would be in two files or in none.
func (t *redisNodes) unchanged(ctx context.Context, c redis.UniversalClient) error {
	cluster, ok := c.(*redis.ClusterClient)
	if !ok {
		return nil
	}
	now, err := clusterTopology(ctx, cluster)
	if err != nil {
		return err
	}
	if now.owner != t.owner {
		return &Error{Op: "back up", Object: "redis cluster", Err: fmt.Errorf("its slots moved: %w", ErrChanged), Next: "wait until resharding is done", Retry: true}
	}
	return nil
}

// redisInfo is INFO, line by line. It is empty where the user may not read it.
type redisInfo map[string]string

func (i redisInfo) int(name string) int64 {
	n, _ := strconv.ParseInt(i[name], 10, 64)
	return n
}

// databases returns the keys of each database.
func (i redisInfo) databases() map[int]int64 {
	dbs := map[int]int64{}
	for name, value := range i {
		num, ok := strings.CutPrefix(name, "db")
		db, err := strconv.Atoi(num)
		if !ok || err != nil {
			continue
		}
		for _, f := range strings.Split(value, ",") {
			if keys, ok := strings.CutPrefix(f, "keys="); ok {
				dbs[db], _ = strconv.ParseInt(keys, 10, 64)
			}
		}
	}
	return dbs
}

func (i redisInfo) keys() (n int64) {
	for _, keys := range i.databases() {
		n += keys
	}
	return n
}

// info reads INFO. A user that may not is no error: a snapshot needs none of
// it, and the server itself refuses PSYNC while it loads or has no master.
func (n *redisNode) info(ctx context.Context) (redisInfo, error) {
	info := redisInfo{}
	text, err := n.client.Info(ctx).Result()
	if redisDenied(err) {
		// Something must show that the server can be reached and likes us.
		err = n.client.Ping(ctx).Err()
	}
	if err != nil && !redisDenied(err) {
		return nil, redisError("read INFO of", "redis "+n.addr, err)
	}
	for line := range strings.Lines(text) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), ":"); ok {
			info[name] = value
		}
	}
	return info, nil
}

// config reads one setting; ok is false where the server does not tell.
func (n *redisNode) config(ctx context.Context, name string) (value string, ok bool, err error) {
	all, err := n.client.ConfigGet(ctx, name).Result()
	if redisDenied(err) {
		return "", false, nil
	}
	if err != nil {
		return "", false, redisError("read CONFIG of", "redis "+n.addr, err)
	}
	value, ok = all[name]
	return value, ok, nil
}

// redisDenied is a command that the user may not run or that the server does
// not have: renamed, switched off by a managed service, or newer.
func redisDenied(err error) bool {
	if err == nil {
		return false
	}
	s := strings.ToLower(strings.TrimPrefix(err.Error(), "-"))
	return strings.HasPrefix(s, "noperm") || strings.HasPrefix(s, "err unknown command") || strings.HasPrefix(s, "err unknown subcommand")
}

// redisError says what to do about the errors that Redis users meet.
func redisError(op, object string, err error) error {
	e := &Error{Op: op, Object: object, Err: err, Retry: retryable(err)}
	s := strings.TrimPrefix(err.Error(), "-")
	var netErr net.Error
	switch {
	case strings.HasPrefix(s, "WRONGPASS"), strings.HasPrefix(s, "NOAUTH"):
		e.Next = "check user and password"
	case redisDenied(err):
		e.Err = fmt.Errorf("%w: %w", ErrNotAllowed, err)
		e.Next = "give the user that right, or choose another method"
	case strings.HasPrefix(s, "LOADING"), strings.HasPrefix(s, "NOMASTERLINK"), strings.HasPrefix(s, "MASTERDOWN"), strings.HasPrefix(s, "BUSY"):
		e.Retry = true
	case errors.Is(err, context.Canceled):
	case errors.As(err, &netErr), errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		e.Next, e.Retry = "check that the server runs and can be reached", true
	}
	return e
}

// redisPoll is how often a server is asked for a state that it does not
// announce.
const redisPoll = 50 * time.Millisecond

// poll asks until done is true.
func poll(ctx context.Context, done func() (bool, error)) error {
	tick := time.NewTicker(redisPoll)
	defer tick.Stop()
	for {
		if ok, err := done(); ok || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ended(ctx)
		case <-tick.C:
		}
	}
}

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
	f, err := openRegular(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("%w; where the server runs on another machine, set Open", err)
	}
	return f, err
}
