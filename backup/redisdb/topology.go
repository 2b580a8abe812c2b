package redisdb

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/redis/go-redis/v9"

	"example.com/tykupgrade/backup"
	"example.com/tykupgrade/internal/lazyregexp"
)

// topology is the set of servers behind a client.
type topology struct {
	kind  string
	nodes []*node
	owner string // the owners of a cluster's slots
	// stay the same after a failover: replication histories of a master that Sentinel names, or
	// IDs of a cluster's nodes
	ids []string
}

// node is one server that holds data of its own.
type node struct {
	client *redis.Client
	addr   string
	id     string
	slots  string
	names  map[string]string // the server's names of renamed commands
}

func (n *node) object() string { return "redis " + n.addr }

var unsafeInName = lazyregexp.New(`[^A-Za-z0-9.-]+`)

func (n *node) file() string {
	return strings.Trim(unsafeInName.ReplaceAllString(n.addr, "_"), "_.") + ".rdb"
}

func (t *topology) origin() string {
	var addrs []string
	for _, n := range t.nodes {
		addrs = append(addrs, n.addr)
	}
	return "redis " + strings.Join(addrs, ",")
}

// topologyOf connects and finds the nodes. names are the servers' names of renamed commands.
func topologyOf(ctx context.Context, c redis.UniversalClient,
	names map[string]string) (*topology, error) {
	switch c := c.(type) {
	case *redis.Client:
		return singleTopology(ctx, c, names)
	case *redis.ClusterClient:
		return clusterTopology(ctx, c, names)
	}
	return nil, fmt.Errorf("a client of type %T cannot be backed up; use redis.NewClient, "+
		"NewFailoverClient or NewClusterClient", c)
}

func singleTopology(ctx context.Context, c *redis.Client,
	names map[string]string) (*topology, error) {
	t := &topology{kind: "standalone"}
	n := &node{client: c, addr: c.Options().Addr, names: names}
	// NewFailoverClient (9.23) has this instead of an address.
	if n.addr == "FailoverClient" {
		t.kind = "sentinel"
		conn, err := n.dial(ctx)
		if err != nil {
			return nil, serverError("find the master of", "redis (sentinel)", ctxFirst(ctx, err))
		}
		n.addr = conn.RemoteAddr().String()
		conn.close()
	}
	info, err := n.info(ctx)
	if err != nil {
		return nil, err
	}
	if info["cluster_enabled"] == "1" {
		return nil, &backup.Error{Op: "read the topology of", Object: "redis " + n.addr,
			Err:  errors.New("it is one node of a cluster"),
			Next: "connect with a cluster client, so that every master is included"}
	}
	t.nodes = []*node{n}
	if t.kind == "sentinel" {
		for _, name := range []string{"master_replid", "master_replid2"} {
			if id := info[name]; strings.Trim(id, "0") != "" {
				t.ids = append(t.ids, id)
			}
		}
	}
	return t, nil
}

// stillMaster checks that Sentinel has not named another master since, because keys of the old one
// would be lost.
func (t *topology) stillMaster(ctx context.Context, c redis.UniversalClient) error {
	if t.kind != "sentinel" {
		return nil
	}
	now, err := topologyOf(ctx, c, t.nodes[0].names)
	if err != nil {
		return err
	}
	if now.origin() != t.origin() {
		return &backup.Error{Op: "write to", Object: t.origin(), Kind: ErrRestarted, Retry: true,
			Next: "restore again"}
	}
	return nil
}

// clusterTopology finds the masters.
func clusterTopology(ctx context.Context, c *redis.ClusterClient,
	names map[string]string) (*topology, error) {
	//lint:ignore SA1019 CLUSTER SHARDS, which replaces it, needs Redis 7.0
	slots, err := c.ClusterSlots(ctx).Result()
	if err != nil {
		return nil, serverError("read the topology of", "redis cluster", err)
	}
	t := &topology{kind: "cluster"}
	slices.SortFunc(slots, func(a, b redis.ClusterSlot) int { return a.Start - b.Start })
	byID := map[string]*node{}
	next := 0
	for _, s := range slots {
		if s.Start != next || len(s.Nodes) == 0 {
			return nil, fmt.Errorf("read the topology of redis cluster: no node serves slot %d; repair "+
				"the cluster first", next)
		}
		next = s.End + 1
		m := s.Nodes[0]
		n := byID[m.ID]
		if n == nil {
			n = &node{addr: m.Addr, id: m.ID, names: names}
			byID[m.ID] = n
			t.nodes = append(t.nodes, n)
		} else {
			n.slots += ","
		}
		n.slots += fmt.Sprintf("%d-%d", s.Start, s.End)
		t.owner += fmt.Sprintf("%d-%d %s\n", s.Start, s.End, m.ID)
	}
	if next != slotCount {
		return nil, fmt.Errorf("read the topology of redis cluster: no node serves slot %d; repair the "+
			"cluster first", next)
	}
	// The client and the cluster may have different addresses for a node.
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
		if len(t.ids) == 0 {
			for line := range strings.Lines(known) {
				id, _, _ := strings.Cut(line, " ")
				t.ids = append(t.ids, id)
			}
		}
		// These marks are on slots that a node is giving away or taking over.
		moving = moving || strings.Contains(known, "->-") || strings.Contains(known, "-<-")
		return err
	})
	if err != nil {
		return nil, serverError("connect to the masters of", "redis cluster", err)
	}
	if moving {
		return nil, &backup.Error{Op: "read the topology of", Object: "redis cluster",
			Err:  errors.New("slots are being moved from one node to another"),
			Next: "wait until resharding is done, or repair it with redis-cli --cluster fix", Retry: true}
	}
	for _, n := range t.nodes {
		if n.client == nil {
			return nil, &backup.Error{Op: "connect to", Object: "redis " + n.addr,
				Err: errors.New("the client knows no such master"), Next: "wait until the failover is done",
				Retry: true}
		}
	}
	return t, nil
}

const slotCount = 16384

// unchanged checks that no slot moved while the nodes were read, because its keys would be in two
// files or in none.
func (t *topology) unchanged(ctx context.Context, c redis.UniversalClient) error {
	cluster, ok := c.(*redis.ClusterClient)
	if !ok {
		return nil
	}
	now, err := clusterTopology(ctx, cluster, nil)
	if err != nil {
		return err
	}
	if now.owner != t.owner {
		return &backup.Error{Op: "back up", Object: "redis cluster",
			Err: fmt.Errorf("its slots moved: %w", backup.ErrChanged), Next: "wait until resharding is done",
			Retry: true}
	}
	return nil
}
